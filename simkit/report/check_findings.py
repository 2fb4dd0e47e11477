"""What asks for a second look in a data set: copies that contradict each other or leak, images that hold nothing, classes without images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from simkit.report.check_content import Checked, Copies, Finding, counted

__all__ = ["CONSTANT_SHARE", "FEW_IMAGES", "findings_of"]

CONSTANT_SHARE = 0.05
"""Share of images without any content above which something is wrong with the files or with how they are read."""

FEW_IMAGES = 5
"""A class with fewer images cannot stand in every one of five folds."""

_BITS = re.compile(r"\d+-bit ")


def findings_of(checked: Checked, split_groups: Sequence[str] = ()) -> tuple[Finding, ...]:
    """The findings of a data set, cautions first.

    Args:
        checked: the facts; its own findings are not looked at.
        split_groups: groups that stand in more than one split.
    """
    found = [*_contradictions(checked.copies), *_group_leak(split_groups), *_constant(checked), *_depths(checked), *_classes(checked), *_shapes(checked),
             *_plain_copies(checked.copies), *_excluded(checked)]
    return tuple(sorted(found, key=lambda one: not one.caution))


def _contradictions(copies: Sequence[Copies]) -> Iterator[Finding]:
    kinds: tuple[tuple[str, str, Callable[[Copies], tuple[str, ...]], str], ...] = (
        ("labels", "under different labels", lambda one: one.labels, "at least one label is wrong: correct it, or remove the copies"),
        ("splits", "in different splits", lambda one: one.splits, "what is tested was seen in training: keep each image in one split"),
        ("groups", "in different groups", lambda one: one.groups, "folds keep groups apart, and these copies tie them: give them one group, or remove them"),
    )
    for kind, where, values, advice in kinds:
        for same_bytes, how in ((True, "byte-identical"), (False, "identical in pixels, not in bytes,")):
            hit = [one for one in copies if one.same_bytes == same_bytes and len(values(one)) > 1]
            if hit:
                images = sum(len(one.keys) for one in hit)
                examples = tuple(f"{' = '.join(one.keys)} ({', '.join(values(one))})" for one in hit)
                message = f"{counted(images, 'image')} in {counted(len(hit), 'set')} of copies are {how} {where}: {advice}"
                yield Finding(f"copies under different {kind}" if same_bytes else f"equal pixels under different {kind}", message, examples)


def _group_leak(split_groups: Sequence[str]) -> Iterator[Finding]:
    if split_groups:
        stand = "stands" if len(split_groups) == 1 else "stand"
        message = f"{counted(len(split_groups), 'group')} {stand} in more than one split: what is tested was seen in training"
        yield Finding("groups in several splits", message, tuple(split_groups))


def _excluded(checked: Checked) -> Iterator[Finding]:
    if checked.excluded:
        yield Finding("excluded", f"{counted(checked.excluded, 'image')} left out by its list (exclude)", (), caution=False)


def _constant(checked: Checked) -> Iterator[Finding]:
    keys = checked.pictures.constant if checked.pictures else ()
    if keys:
        share = len(keys) / checked.images
        message = f"{counted(len(keys), 'image')} ({share:.1%}) hold{'s' if len(keys) == 1 else ''} one colour and nothing else"
        serious = share > CONSTANT_SHARE
        yield Finding("constant images", message + (": look at the files, and at how they become 8 bit" if serious else ""), keys, caution=serious)


def _depths(checked: Checked) -> Iterator[Finding]:
    deep = sum(count for remark, count in checked.remarks.items() if _BITS.match(remark))
    if 0 < deep < checked.images:
        message = (f"bit depths are mixed: {counted(deep, 'image')} of more than 8 bit beside {checked.images - deep:,} of 8 bit; where the depth goes with "
                   "the class or the data set, brightness gives it away")
        yield Finding("mixed bit depths", message)


def _classes(checked: Checked) -> Iterator[Finding]:
    empty = tuple(name for name, count in checked.class_counts.items() if count == 0)
    few = tuple(f"{name} ({count})" for name, count in checked.class_counts.items() if 0 < count < FEW_IMAGES)
    if empty:
        yield Finding("classes without images", f"{counted(len(empty), 'class', 'classes')} without an image that can be read", empty)
    if few:
        message = f"{counted(len(few), 'class', 'classes')} with fewer than {FEW_IMAGES} images: not in every fold of five"
        yield Finding("small classes", message, few, caution=False)


def _shapes(checked: Checked) -> Iterator[Finding]:
    if checked.pictures is None:
        return
    for kind, keys, what in (
        ("elongated images", checked.pictures.elongated, "more than 20 times as long as wide (or as wide as long): a square input leaves little of them"),
        ("tiny images", checked.pictures.tiny, "less than 8 pixels high or wide"),
    ):
        if keys:
            yield Finding(kind, f"{counted(len(keys), 'image')} {'is' if len(keys) == 1 else 'are'} {what}", keys, caution=False)


def _plain_copies(copies: Sequence[Copies]) -> Iterator[Finding]:
    for same_bytes, kind, how in ((True, "copies", "byte-identical"), (False, "equal pixels", "identical in pixels, not in bytes")):
        hit = [one for one in copies if one.same_bytes == same_bytes]
        if hit:
            images = sum(len(one.keys) for one in hit)
            message = f"{counted(images, 'image')} in {counted(len(hit), 'set')} of copies {'is' if images == 1 else 'are'} {how}"
            yield Finding(kind, message, tuple(" = ".join(one.keys) for one in hit), caution=False)
