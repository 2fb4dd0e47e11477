"""One unit's trainings: every choice of the search on the same inner split, the best of them, and perhaps once more on everything.

The search is the same for every pair: the same choices, the same inner split for every source, the same rule. Each finished choice is kept, so
an interruption costs at most one epoch of one choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import IntegrityError, NotEnoughData
from simkit.transfer.base import Results, Say
from simkit.transfer.checkpoint import Checkpoints, read_tensors, write_tensors
from simkit.transfer.feed import Feed
from simkit.transfer.logs import ScalarLog
from simkit.transfer.protocol import Budget, Choice
from simkit.transfer.training import Trained, Training

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Fitting", "Labelled", "Place"]

TRIAL = "trial"
"""Kind of the records of finished choices, which go when their unit is finished."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Decoded images of a data set in canonical order: uint8 (n, channels, s, s), class indices (n,), class names, digests, keys."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digests: tuple[str, ...]
    keys: tuple[str, ...]

    def feed(self, rows: np.ndarray, device: torch.device) -> Feed:
        """Some of the images, as batches on a device."""
        return Feed(self.pixels, rows, self.labels, device)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a unit is done, and what is told about it on the way.

    Attributes:
        results: the store.
        device: what computes.
        say: receives what a user must know.
        tick: receives a line after each epoch.
        logs: folder of TensorBoard logs, or None.
        compiled: whether networks are compiled.
    """

    results: Results
    device: torch.device
    say: Say
    tick: Say
    logs: Path | None = None
    compiled: bool = False


@dataclass(eq=False)
class Fitting:
    """The trainings of one unit.

    Attributes:
        key: of the unit.
        label: of the unit, in words.
        build: makes the network that every training starts from, on the device, and the name of its head; of the positions of the images that the
            training may see, to which folded batch norms are fitted.
        data: images and labels.
        rows: positions of the training images.
        inner: positions of the images to fit and to validate on, where something is chosen by that.
        budget: how.
        random: names that every draw is seeded by.
        place: where.
    """

    key: str
    label: str
    build: Callable[[np.ndarray], tuple[nn.Module, str]]
    data: Labelled
    rows: np.ndarray
    inner: tuple[np.ndarray, np.ndarray] | None
    budget: Budget
    random: tuple[Any, ...]
    place: Place

    def run(self) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network and what belongs in the unit's record.

        Raises:
            NotEnoughData: SK502 when the loss is not finite, of a search: with every choice.
        """
        if not self.budget.validates:
            network, trained = self._train("", self.budget.choices[0], self.rows, None)
            return network, self._record(self.budget.choices[0], trained, trained.seconds)
        assert self.inner is not None
        trials = [self._trial(number, choice) for number, choice in enumerate(self.budget.choices)]
        sound = [number for number, trial in enumerate(trials) if "failed" not in trial]
        if not sound:
            raise NotEnoughData("SK502", "", "; ".join(dict.fromkeys(str(trial["failed"]) for trial in trials)), "lower the learning rates, for all runs alike")
        best = max(sound, key=lambda number: tuple(trials[number]["best"]["value"]))  # of equals the first
        choice, seconds = self.budget.choices[best], sum(float(trial["seconds"]) for trial in trials)
        chosen = Trained(**{name: trials[best][name] for name in ("losses", "validations", "best", "seconds", "parts")})
        if self.budget.refit:
            network, refitted = self._train("refit", choice, self.rows, None, stop_after=chosen.epochs)
            seconds += refitted.seconds
        else:
            network, _ = self.build(self.inner[0])
            network.load_state_dict(self._trial_weights(best))
        shown = [{"lr": one.lr, "weight_decay": one.weight_decay, "epoch": trial["best"] and trial["best"]["epoch"],
                  "value": trial["best"] and trial["best"]["value"][0], "failed": trial.get("failed", "")}
                 for one, trial in zip(self.budget.choices, trials, strict=True)]
        return network, self._record(choice, chosen, seconds) | {"trials": shown, "selection": self.budget.selection, "n_validation": len(self.inner[1])}

    def _record(self, choice: Choice, trained: Trained, seconds: float) -> dict[str, Any]:
        return {"choice": asdict(choice), "epochs": trained.epochs, "losses": trained.losses, "validations": trained.validations, "seconds": seconds,
                "parts": trained.parts}

    def _trial(self, number: int, choice: Choice) -> dict[str, Any]:
        """The record of one choice: found, or trained now. One that diverges is recorded as such; the others go on."""
        results, name = self.place.results, f"{self.key}-{number}"
        record = results.load_json(TRIAL, name)
        if record is not None and ("failed" in record or self._trial_weights(number, announce=True)):
            return record
        assert self.inner is not None
        try:
            network, trained = self._train(f"choice {number + 1} of {len(self.budget.choices)}", choice, *self.inner, name=name)
        except NotEnoughData as error:
            record = {**Trained().note(), "failed": error.problems[0].message}
        else:
            write_tensors(self._trial_path(number), network.state_dict(), {})
            record = trained.note()
        results.save_json(TRIAL, name, record)
        Checkpoints(results, name, self.place.say).remove()
        return record

    def _trial_path(self, number: int) -> Path:
        return self.place.results.path(TRIAL, f"{self.key}-{number}", ".safetensors")

    def _trial_weights(self, number: int, *, announce: bool = False) -> dict[str, torch.Tensor]:
        """The network of a finished choice; empty, and said so, where the file is gone or damaged."""
        try:
            return read_tensors(self._trial_path(number))[0]
        except (FileNotFoundError, IntegrityError) as error:
            if not announce:
                raise
            self.place.say(f"{self.label}: the network of choice {number + 1} is missing or damaged ({error}): trained again")
            return {}

    def _train(
        self, what: str, choice: Choice, rows: np.ndarray, validation: np.ndarray | None, *, name: str = "", stop_after: int | None = None,
    ) -> tuple[nn.Module, Trained]:
        """One training, taken up where an earlier sitting left it."""
        place, title = self.place, f"{self.label}, {what}" if what else self.label
        network, head = self.build(rows)
        name = name or (f"{self.key}-refit" if what else self.key)
        with ScalarLog.open(place.logs, title) as log:

            def tick(line: str, epoch: int, values: Mapping[str, float]) -> None:
                log.add(epoch, **values)
                place.tick(f"{title}: {line}")

            training = Training(
                network, head, self.data.feed(rows, place.device), None if validation is None else self.data.feed(validation, place.device), self.budget,
                choice, self.random, place.device, Checkpoints(place.results, name, place.say), tick, place.say, stop_after, place.compiled,
            )
            return network, training.run()

    def clear(self) -> None:
        """Removes what was kept to go on from; called when the unit's result is stored."""
        names = [self.key, f"{self.key}-refit", *(f"{self.key}-{number}" for number in range(len(self.budget.choices)))]
        for name in names:
            Checkpoints(self.place.results, name, self.place.say).remove()
        if self.budget.validates:
            for number in range(len(self.budget.choices)):
                for path in (self._trial_path(number), self.place.results.path(TRIAL, f"{self.key}-{number}", ".json")):
                    path.unlink(missing_ok=True)
