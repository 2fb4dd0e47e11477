"""Names and options: what is accepted, converted and refused; recipes and random numbers by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from simkit.errors import DataError, Problems, SimkitError, UsageError, nearest
from simkit.recipe import canonical, describe, digest, rng_for
from simkit.registry import Registry, Spec, Text, build_options, option, options_of, parse_spec


@dataclass(frozen=True)
class Example:
    """An example."""

    name = "example"
    whole: int = option(3, "a whole number", minimum=1, maximum=9)
    number: float = option(0.5, "a number", above=0)
    flag: bool = False
    choice: Literal["first", "second"] = "first"
    maybe: int | None = None
    words: tuple[str, ...] = ()
    counts: tuple[int, ...] = option((1,), "counts", minimum=0)
    path: Path | None = None


@pytest.mark.parametrize(("key", "given", "expected"), [
    ("whole", 4, 4), ("whole", Text("4"), 4), ("number", 2, 2.0), ("number", Text("1e-3"), 0.001), ("flag", True, True), ("flag", Text("yes"), True),
    ("flag", Text("False"), False), ("choice", "second", "second"), ("maybe", None, None), ("maybe", Text("none"), None), ("maybe", Text("7"), 7),
    ("words", ["a", "b"], ("a", "b")), ("words", Text("a,b"), ("a", "b")), ("counts", Text("1,2"), (1, 2)), ("path", "x/y", Path("x/y")),
])
def test_values_are_converted(key: str, given: object, expected: object) -> None:
    value = build_options(Example, {key: given}, "example")[key]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("key", "given", "message"), [
    ("whole", "4", r"example\.whole: '4' is not valid here: expected whole number >= 1, <= 9"), ("whole", True, "True is not valid"),
    ("whole", 1.5, "1.5 is not valid"), ("whole", 0, "0 is out of range: expected whole number >= 1, <= 9"), ("whole", 10, "out of range"),
    ("number", 0.0, "out of range: expected number > 0"), ("number", float("nan"), "not valid here"), ("number", "0.5", "'0.5' is not valid"),
    ("flag", 1, "expected true or false"), ("choice", "secnd", r"expected one of: first, second \(did you mean 'second'\?\)"),
    ("words", "ab", "expected list of text"),
    ("words", [1], "expected list of text"), ("counts", [1, -1], "out of range"), ("path", "", "expected path or nothing"),
    ("wole", 1, r"example\.wole: unknown option \(did you mean 'whole'\?\)"),
])
def test_wrong_values_are_refused_with_what_was_wanted(key: str, given: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_options(Example, {key: given}, "example")


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        build_options(Example, {"whole": "x", "flg": True, "number": -1.0}, "example")
    assert len(caught.value.problems) == 3


def test_options_are_described_from_the_code() -> None:
    infos = {info.name: info for info in options_of(Example)}
    assert infos["whole"].type_text == "whole number"
    assert infos["whole"].range_text == ">= 1, <= 9"
    assert infos["choice"].type_text == "one of: first, second"
    assert infos["maybe"].type_text == "whole number or nothing"
    assert infos["words"].type_text == "list of text"


@pytest.mark.parametrize("value", [3, "", {}, {"a": {}, "b": {}}, {"a": 1}, ["a"], None])
def test_the_grammar_is_a_name_or_one_name_with_options(value: object) -> None:
    with pytest.raises(UsageError, match="neither a name nor one name with a table of options"):
        parse_spec(value, "methods[0]")


def test_the_grammar_accepts_both_forms() -> None:
    assert parse_spec("otdd", "m") == Spec("otdd", {})
    assert parse_spec({"otdd": {"label_cost": "means"}}, "m") == Spec("otdd", {"label_cost": "means"})


def test_modules_and_classes_that_are_not_there_are_named() -> None:
    registry = Registry("method", {}, "simkit.none")
    with pytest.raises(UsageError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        registry.get("no_such_module:Thing")
    with pytest.raises(UsageError, match="has no attribute 'Nothing'"):
        registry.get("json:Nothing")
    with pytest.raises(UsageError, match="is not a class"):
        registry.get("json:loads")
    with pytest.raises(UsageError, match="is not a dataclass"):
        registry.get("json:JSONDecoder")


def test_recipes_are_canonical_and_change_with_every_option() -> None:
    assert canonical({"b": 1, "a": (1, 2)}) == '{"a":[1,2],"b":1}'
    assert describe(Example())["type"] == "example"
    variants = [Example(), Example(whole=4), Example(number=0.6), Example(flag=True), Example(choice="second"), Example(maybe=1), Example(words=("a",))]
    assert len({digest(v) for v in variants}) == len(variants)
    assert digest({"x": np.float64(0.1)}) == digest({"x": 0.1})
    with pytest.raises(TypeError, match="function has no canonical form"):
        digest({"f": lambda: None})


def test_random_numbers_depend_on_their_names_alone() -> None:
    assert rng_for(0, "a", "b").random() == rng_for(0, "a", "b").random()
    draws = {float(rng_for(*names).random()) for names in ((0, "a", "b"), (0, "b", "a"), (1, "a", "b"), (0, "ab"), ("0", "a", "b"))}
    assert len(draws) == 5


def test_problems_are_collected_and_counted() -> None:
    problems = Problems()
    problems.raise_if_any(DataError)
    for i in range(25):
        problems.add("SK203", f"x.csv:{i}", "wrong", "right")
    with pytest.raises(DataError) as caught:
        problems.raise_if_any(DataError)
    text = str(caught.value)
    assert text.count("error[SK203]") == 20
    assert "... and 5 more problems of 25" in text
    assert text.endswith("more: simkit explain SK203")


def test_errors_survive_a_process_border() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError("SK201", "here", "gone", "look")))
    assert isinstance(error, SimkitError)
    assert (error.exit_status, str(error)) == (3, "error[SK201] here: gone\nfix: look\nmore: simkit explain SK201")


def test_nearest_finds_the_close_word_and_no_far_one() -> None:
    assert nearest("otd", ["otdd", "frechet"]) == " (did you mean 'otdd'?)"
    assert nearest("zzz", ["otdd", "frechet"]) == ""
