"""A function of the user's as an extractor: ``"module:function"``."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simkit.errors import UsageError, nearest
from simkit.extractors.base import Extractor, Session
from simkit.extractors.network_session import Preprocessing
from simkit.networks import file_digest
from simkit.recipe import digest_bytes, recipe_of
from simkit.registry import option

__all__ = ["Callable"]


@dataclass(frozen=True)
class Callable(Extractor):
    """What a function of the user's makes of the images: it gets uint8 (n, size, size, 3) and returns numbers (n, d).

    Images are resized by Pillow with antialiasing (bilinear): the short side to ``size`` and cropped at the centre, or both sides squashed to it; grey
    images are repeated to three channels. The recipe holds the function's name and the SHA-256 of its module's file, so changing that file changes the
    recipe; what the module imports is not looked at: raise ``revision`` when that changes the features. The function runs in this process.
    """

    name = "callable"
    needs_device = False

    function: str = option(help="module:function, installed or beside you")
    size: int = option(224, "height and width of the images that the function gets, in pixels", minimum=1, maximum=4096)
    fit: Literal["crop", "squash"] = option("crop", "crop: the aspect ratio is kept; squash: the whole image is seen")
    revision: str = option("", "of the function, in any words: another one makes another recipe")

    def recipe(self) -> dict[str, Any]:
        return recipe_of(self) | {"source": _source(self._function(), self.revision), "antialias": True}

    def check(self) -> None:
        """Imports the function and calls it with two black images."""
        self.recipe()
        rows = self.session("cpu").features([np.zeros((self.size, self.size, 3), np.uint8)] * 2)
        if not np.isfinite(rows).all():
            message = "the function returned NaN, infinite values or values beyond float32 for a black image"
            raise UsageError("SK110", self.function, message, "return finite numbers; no measure is defined on others")

    def session(self, device: str) -> Session:
        return _CallableSession(self, self._function())

    def _function(self) -> collections.abc.Callable[..., Any]:
        """The function behind the name.

        Raises:
            UsageError: the module does not import, or holds no such function.
        """
        module_name, colon, name = self.function.partition(":")
        if not colon or not module_name or not name:
            raise UsageError("SK102", "callable.function", f"'{self.function}' is not module:function", "write, for example, features:of_images")
        if os.getcwd() not in sys.path:  # a file beside the user, as python -m would find it
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # the user's code may fail in any way
            message = f"the module '{module_name}' could not be imported: {type(error).__name__}: {error}"
            raise UsageError("SK110", "callable.function", message, "install it, or call simkit in the folder where it lies") from error
        found: collections.abc.Callable[..., Any] | None = getattr(module, name, None)
        if found is None or not callable(found):
            known = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
            what = f"'{name}' of {module_name} is not a function" if hasattr(module, name) else f"{module_name} has no function '{name}'{nearest(name, known)}"
            raise UsageError("SK101", "callable.function", what, f"functions of {module_name}: {', '.join(known) or 'none'}")
        return found


class _CallableSession:
    def __init__(self, options: Callable, function: collections.abc.Callable[..., Any]):
        self.options, self.function = options, function
        self.preparation = Preprocessing(options.size, options.size, keep_aspect=options.fit == "crop")

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return self.preparation.cropped(image)

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        where = self.options.function
        try:
            given = np.asarray(self.function(np.stack(batch)))
        except Exception as error:  # the user's code may fail in any way
            message = f"the function failed on {len(batch)} images: {type(error).__name__}: {error}"
            raise UsageError("SK110", where, message, "try it in Python with np.zeros((2, size, size, 3), np.uint8)") from error
        if given.dtype.kind not in "fiub" or given.ndim != 2 or len(given) != len(batch) or given.shape[1] < 1:
            message = f"the function returned {given.dtype} of shape {given.shape} for {len(batch)} images"
            raise UsageError("SK110", where, message, f"return numbers of shape ({len(batch)}, d): one row for each image")
        with np.errstate(over="ignore"):  # the loop over the images refuses infinite values, and names the images
            return given.astype(np.float32)


def _source(function: collections.abc.Callable[..., Any], revision: str) -> str:
    """SHA-256 of the file that holds a function."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function) if inspect.isroutine(function) else type(function))
    except TypeError:  # written in C
        file = None
    if file is not None and Path(file).is_file():
        return file_digest(Path(file))
    if not revision:
        message = f"{getattr(function, '__qualname__', function)} has no source file, so nothing would tell its versions apart"
        raise UsageError("SK104", "callable.revision", message, "add revision = ..., and raise it with every change")
    return digest_bytes(revision.encode())
