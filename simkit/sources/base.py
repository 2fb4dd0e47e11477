"""The contract of a source: something that turns a path or a name into a Dataset whose images are read when needed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from simkit.dataset import Dataset

__all__ = ["Source", "is_inside", "located", "nearest_entry", "text_of"]


class Source:
    """Base of every source. Subclass it with ``@dataclass(frozen=True)``: the fields are the options (see ``simkit.registry.option``).

    Class attributes (set in the class body, without annotation):
        name: how the source is called in study files and on the command line.
        citation: where the data come from, when the source brings its own; else "".
        version: raised with every change that moves a pixel, a label or a group.
    """

    name = ""
    citation = ""
    version = 1

    def load(self, name: str, base: Path) -> Dataset:
        """The data set, with everything checked that can be checked without decoding images.

        Tags and attributes that stand in a study file are added by the caller.

        Args:
            name: what the data set is called in every table.
            base: folder that relative paths are resolved against (the folder of the study file, or the working directory).

        Raises:
            DataError: files or rows that are missing or wrong, all of them at once.
            UsageError: an option that does not fit the data.
        """
        raise NotImplementedError


def located(path: Path, base: Path) -> Path:
    """``path`` (``~`` expanded) resolved against ``base`` when it is relative. Symbolic links are left as they are."""
    return base / path.expanduser()


def text_of(path: str | os.PathLike[str]) -> str:
    """A path as valid text: bytes that are not UTF-8 become ``\\xNN``, so that it can stand in messages, tables and JSON."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_inside(path: str, root: str) -> bool:
    """Whether an absolute, normalised path lies in ``root`` or is it (whole path parts: ``/a/bc`` is not in ``/a/b``)."""
    return path == root or path.startswith(root if root.endswith(os.sep) else root + os.sep)


def nearest_entry(path: Path) -> str:
    """For a path that does not exist: what does, in words, beginning with a space; "" when nothing helpful is there.

    The first missing part is compared with the entries of the folder that should hold it.
    """
    path = Path(os.path.abspath(path))
    while not path.parent.is_dir() and path.parent != path.parent.parent:
        path = path.parent
    try:
        entries = sorted(os.listdir(path.parent))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, entries, n=1, cutoff=0.55)
    if close:
        return f" (did you mean '{text_of(path.parent / close[0])}'?)"
    seen = [text_of(entry) for entry in entries if not entry.startswith(".")]
    shown = ", ".join(seen[:8]) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
    return f" ({text_of(path.parent)} holds: {shown or 'nothing'})"
