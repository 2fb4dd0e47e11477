"""Copies of a target's images in its sources and in itself: looked for in every study, and said beside every score and AUC that they touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from simkit.dataset import Dataset
from simkit.embedding import Embedding
from simkit.leakage.looks import LOOK
from simkit.leakage.near import DEFAULTS
from simkit.leakage.pairs import Leakage
from simkit.pipeline.looking import Seen, seen_of
from simkit.pipeline.progress import Progress
from simkit.recipe import digest, digest_bytes, recipe_of
from simkit.store import Store
from simkit.study import Study
from simkit.tables import TransferTable

__all__ = ["SharedImages", "compared", "copies_by_pair", "copies_of", "touched", "unseen"]


TEST = "test"
"""The part of a given split that transfers are scored on."""


@dataclass(frozen=True)
class SharedImages:
    """How many images of a target a source holds.

    Attributes:
        source: name.
        images: of the target that have a copy in the source.
        of: images of the target.
        exact: those among them of which a copy has the same bytes or pixels.
        changed: those of which a copy was changed; an image may have copies of both kinds.
    """

    source: str
    images: int
    of: int
    exact: int
    changed: int

    @property
    def near(self) -> int:
        """Images whose copies were changed: compressed again, resized, cropped, mirrored."""
        return self.images - self.exact

    @property
    def flag(self) -> str:
        """What stands beside a score."""
        kinds = ", ".join(f"{count} {kind}" for count, kind in ((self.exact, "exact"), (self.near, "near")) if count)
        return f"leak: {self.images} of {self.of} target images have a copy in {self.source} ({kinds})"


def compared(study: Study) -> tuple[str, ...]:
    """Names of the data sets whose images are compared; none where copies are not looked for."""
    return () if study.leakage == "off" else tuple(dict.fromkeys((*study.targets, *study.sources)))


def unseen(study: Study, datasets: Mapping[str, Dataset], store: Store) -> dict[str, int]:
    """Data set -> images that were not looked at yet."""
    shelf = store.shelf(recipe_of(LOOK))
    return {name: len(shelf.missing(datasets[name].digests)) for name in compared(study) if name in datasets}


def copies_of(study: Study, kept: Mapping[str, Dataset], embeddings: Mapping[str, Embedding], store: Store, progress: Progress) -> tuple[Leakage, ...]:
    """Copies between each target and each of its sources, and within each target; only findings are returned.

    Args:
        study: ``leakage`` says what is looked for: "near" (also changed copies), "exact", or "off".
        kept: the data sets without their unreadable images.
        embeddings: by name, of those that have one.
        store: where descriptors of images are kept.
        progress: told what happens.
    """
    from simkit.pipeline.leakage import leakage_between, leakage_within

    if study.leakage == "off":
        return ()
    near = study.leakage == "near"
    memory: dict[str, Seen] = {}

    def seen(name: str) -> Seen:
        """Looked up once a data set, not once a pair, while the pictures of all of them fit into some hundred MB."""
        if name not in memory:
            if sum(len(one.dataset) for one in memory.values()) > HELD:
                memory.clear()
            memory[name] = seen_of(kept[name], store, progress)
        return memory[name]

    def within(target: str) -> Leakage:
        return leakage_within(replace(seen(target), dataset=_as_split(study, seen(target).dataset)), store, progress, near=near,
                              embedding=embeddings.get(target))

    def between(target: str, source: str) -> Leakage:
        both = (embeddings[target], embeddings[source]) if target in embeddings and source in embeddings else None
        return leakage_between(seen(target), seen(source), store, progress, near=near, embeddings=both)

    found: list[Leakage] = []
    done: set[frozenset[str]] = set()
    for target in study.targets:
        found.append(_kept(store, [_as_split(study, kept[target])], [embeddings.get(target)], near, partial(within, target)))
        for source in study.sources:
            if source == target or source not in kept or frozenset((source, target)) in done:
                continue
            done.add(frozenset((source, target)))
            spaces = [embeddings.get(target), embeddings.get(source)]
            found.append(_kept(store, [kept[target], kept[source]], spaces if all(spaces) else [], near, partial(between, target, source)))
    found = [one for one in found if one.pairs]
    for one in found:
        progress.say(f"leakage: {one.line}")
    return tuple(found)


HELD = 100_000
"""Images of which what was seen stays in memory: 0.4 GB."""

VERSION = 1
"""Raised with every change of what counts as a copy."""


def _kept(store: Store, datasets: Sequence[Dataset], embeddings: Sequence[Embedding | None], near: bool, make: Callable[[], Leakage]) -> Leakage:
    """What was found between data sets, from the store where it is; their content, keys, groups, splits and names are its recipe."""
    of_sets = [[one.name, one.fingerprint, digest_bytes("\n".join(one.keys).encode("utf-8", "surrogateescape")), digest_bytes("\n".join(one.digests).encode())]
               for one in datasets]
    key = digest(["copies", VERSION, recipe_of(LOOK), near, DEFAULTS.listed, of_sets, [one.extractor if one else "" for one in embeddings]])
    value = store.load_json("copies", key)
    if value is not None:
        return Leakage.of_dict(value)
    made = make()
    store.save_json("copies", key, made.as_dict())
    return made


def _as_split(study: Study, target: Dataset) -> Dataset:
    """The target with its given split only where transfers are scored by it: it has a test part, and the protocol does not deal all images into folds."""
    dealt = study.protocol is not None and study.protocol.splits == "ignore"
    scored = target.splits is not None and any(split.lower() == TEST for split in target.splits)
    return target if scored and not dealt else replace(target, splits=None)


def copies_by_pair(leakage: Sequence[Leakage]) -> dict[tuple[str, str], SharedImages]:
    """(source, target) -> the images of the target that the source holds, for the pairs that share some; in both directions."""
    out = {}
    for one in leakage:
        if one.first == one.second:
            continue
        for target, source, keys, of in ((one.first, one.second, [p.first_key for p in one.pairs], one.n_first),
                                         (one.second, one.first, [p.second_key for p in one.pairs], one.n_second)):
            exact = {key for key, pair in zip(keys, one.pairs, strict=True) if pair.how != "near"}
            changed = {key for key, pair in zip(keys, one.pairs, strict=True) if pair.how == "near"}
            out[source, target] = SharedImages(source, len(set(keys)), of, len(exact), len(changed))
    return out


def touched(performance: TransferTable, leakage: Sequence[Leakage], *, removed: bool) -> TransferTable:
    """The transfers with a flag where copies touch them.

    Args:
        performance: of all pairs.
        leakage: what was found.
        removed: whether exact copies of test images were taken out of pretraining, or marked, as simkit's own runner does; of performances that were
            measured elsewhere nobody knows.
    """
    shared = copies_by_pair(leakage)
    within = {one.first: _within_flag(one, removed=removed) for one in leakage if one.first == one.second}
    records = []
    for record in performance.records:
        pair = shared.get((str(record["source"]), str(record["target"])))
        flags = [str(record.get("flags") or ""), "" if pair is None else _pair_flag(pair, removed=removed), within.get(str(record["target"]), "")]
        said = "; ".join(flag for flag in flags if flag)
        records.append({**record, "flags": said} if said else record)
    return TransferTable(tuple(records))


def _pair_flag(pair: SharedImages, *, removed: bool) -> str:
    if not removed:
        return f"{pair.flag}; whether they were taken out of pretraining is not known"
    if not pair.changed:
        return ""
    return f"leak: {pair.changed} of {pair.of} target images have a near copy in {pair.source}, which took part in the pretraining"


def _within_flag(one: Leakage, *, removed: bool) -> str:
    """Of copies within a target: those in the test part and outside it of a given split; else those that folds may part, which are not of one patient.

    simkit's own runner leaves exact copies of test images out of training, and keeps them in one fold.
    """
    counted = [pair for pair in one.pairs if pair.how == "near" or not removed]
    if one.split:
        hit = [pair for pair in counted if (pair.first_split.lower() == TEST) != (pair.second_split.lower() == TEST)]
    else:
        hit = [pair for pair in counted if not (pair.first_group and pair.first_group == pair.second_group)]
    images = {key for pair in hit for key in (pair.first_key, pair.second_key)}
    if not images:
        return ""
    where = "on the other side of the split, in training and test" if one.split else "in the target itself, which folds may part"
    return f"leak: {len(images)} of {one.n_first} target images have a {'near copy' if removed else 'copy'} {where}"
