"""What the catalogue warns of happens: hazards that can be shown in a second are, on data made for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simkit.embedding import Embedding
from simkit.estimators.assessment import transferability
from simkit.estimators.comparison import compare


def normal(n: int, d: int = 8, *, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d)) * scale
    rows[:, 0] += shift
    return rows


def classes(n: int, count: int = 2) -> np.ndarray:
    return np.arange(n) % count


def labelled(n: int, *, seed: int = 0, count: int = 2, gap: float = 3.0, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    labels = classes(n, count)
    return normal(n, d, seed=seed) + gap * np.eye(d)[labels], labels


@pytest.mark.parametrize("name", ["otdd", "otdd-lower", "wasserstein", "sliced-wasserstein", "sotdd", "frechet", "class-frechet", "class-mean-emd"])
def test_distances_of_equal_distributions_fall_with_n(name: str) -> None:
    few, many = (compare(name, labelled(n, seed=1), labelled(n, seed=2)).value for n in (30, 200))
    assert few > 1.3 * many


@pytest.mark.parametrize("name", ["coverage", "density", "precision", "nearest-neighbour"])
def test_far_sets_are_all_alike_for_balls_but_not_for_nearest_distances(name: str) -> None:
    far, farther = (compare(name, normal(60, shift=shift), normal(60, seed=1)).value for shift in (50.0, 500.0))
    assert (farther > 5 * far) if name == "nearest-neighbour" else (far == farther == 0.0)


def test_a_larger_source_reaches_more() -> None:
    target = normal(100, seed=9)
    small, large = normal(60), normal(600)
    assert compare("coverage", large, target).value > compare("coverage", small, target).value + 0.03
    assert compare("nearest-neighbour", large, target).value < 0.9 * compare("nearest-neighbour", small, target).value


def test_strangers_in_the_source_lift_recall_and_not_coverage() -> None:
    source, target = normal(100, shift=4.0), normal(100, seed=1)
    strangers = np.vstack([source, normal(10, seed=2, scale=30.0)])
    assert compare("recall", strangers, target).value > compare("recall", source, target).value + 0.3
    assert compare("coverage", strangers, target).value <= compare("coverage", source, target).value + 0.02


def test_an_outlier_of_the_target_lifts_precision_and_hardly_density() -> None:
    source, target = normal(100, shift=9.0), normal(100, seed=1)
    with_outlier = np.vstack([target, 40.0 * np.eye(8)[:1]])
    assert compare("precision", source, with_outlier).value > compare("precision", source, target).value + 0.5
    assert compare("density", source, with_outlier).value < 0.5


def test_copies_lift_density() -> None:
    black = np.zeros((30, 8))
    source, target = np.vstack([normal(60), black]), np.vstack([normal(60, seed=1), black])
    assert compare("density", source, target).value > 1.5


def test_near_copies_within_the_target_make_every_source_far() -> None:
    target = normal(60, seed=1)
    copies = np.vstack([target, target + 1e-4])
    assert compare("nearest-neighbour", normal(60), copies).value > 100 * compare("nearest-neighbour", normal(60), target).value


def test_mmd_saturates_and_energy_does_not() -> None:
    far, farther = (normal(60, shift=shift) for shift in (50.0, 500.0))
    assert compare("mmd", far, normal(60, seed=1), sigma=3.0).value == pytest.approx(compare("mmd", farther, normal(60, seed=1), sigma=3.0).value, rel=1e-6)
    assert compare("energy", farther, normal(60, seed=1)).value > 5 * compare("energy", far, normal(60, seed=1)).value


def test_kid_grows_with_the_sixth_power_of_the_scale() -> None:
    one, ten = (compare("kid", 100 * k * normal(60, shift=2.0), 100 * k * normal(60, seed=1)).value for k in (1, 10))
    assert ten / one == pytest.approx(1e6, rel=0.05)


def test_frechet_does_not_see_clusters() -> None:
    signs = np.where(np.arange(20_000) % 2, 1.0, -1.0)[:, None]
    assert compare("frechet", signs, normal(20_000, 1)).value < 0.01  # two points against a normal: equal means and variances
    assert compare("wasserstein", signs[:1000], normal(1000, 1)).value > 0.3


def test_sliced_distance_of_a_shift_is_thinned_by_the_dimension() -> None:
    source = normal(200, 32)
    shifted = source + 10.0 * np.eye(32)[:1]
    whole, sliced = (compare(name, source, shifted).value for name in ("wasserstein", "sliced-wasserstein"))
    assert whole / sliced == pytest.approx(32, rel=0.25)


def test_upper_bound_by_products_is_not_0_for_a_set_with_itself() -> None:
    pair = labelled(60)
    assert compare("otdd-upper", pair, pair).value > 5.0
    assert compare("otdd-upper", pair, pair, within="transport").value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["class-frechet", "class-mean-emd"])
def test_other_shares_of_the_same_classes_are_apart_unless_balanced(name: str) -> None:
    x, y = labelled(400)
    kept = np.flatnonzero((y == 0) | (np.arange(400) % 10 == 1))
    plain, balanced = (compare(name, (x, y), (x[kept], y[kept]), class_weights=weights).value for weights in ("empirical", "balanced"))
    assert plain > 3 * balanced


def test_scale_drowns_images_in_moments() -> None:
    (x, y), (z, w) = labelled(60), labelled(60, seed=1)
    assert any(flag.startswith("class moments make") for flag in compare("sotdd", (20 * x, y), (20 * z, w)).flags)


def test_patients_inflate_the_domain_classifier_unless_groups_are_given() -> None:
    rng = np.random.default_rng(0)
    sides = [np.repeat(rng.normal(size=(12, 30)), 10, axis=0) + 0.1 * rng.normal(size=(120, 30)) for _ in range(2)]
    plain = compare("domain-classifier", *(Embedding(rows, name=name) for rows, name in zip(sides, "ab", strict=True)), permutations=0).value
    grouped = compare("domain-classifier", *(Embedding(rows, groups=tuple(f"{name}{i // 10}" for i in range(120)), name=name)
                                             for rows, name in zip(sides, "ab", strict=True)), permutations=0).value
    assert plain > 0.95
    assert grouped < 0.75


def test_cross_learning_reads_names() -> None:
    x, y = labelled(80)
    z, w = labelled(80, seed=1)
    same = compare("cross-learning", (x, y), (z, w)).value
    exchanged = compare("cross-learning", (x, y), (z, 1 - w)).value
    assert same > 0.9
    assert exchanged < 0.1


@pytest.mark.parametrize("name", ["vendi", "effective-rank", "intrinsic-dimension"])
def test_descriptors_grow_with_n(name: str) -> None:
    few, many = (compare(name, normal(n, 64, seed=3), normal(30, 64)).value for n in (40, 400))
    assert many > 1.2 * few


def test_near_copies_distort_two_nn_more_than_mle() -> None:
    rows = normal(300)
    copies = np.vstack([rows, rows[:30] + 1e-4 * normal(30, seed=1)])
    change = {}
    for estimator in ("two-nn", "mle"):
        clean, copied = (compare("intrinsic-dimension", one, rows, estimator=estimator).value for one in (rows, copies))
        change[estimator] = abs(copied / clean - 1)
    assert change["two-nn"] > 0.9
    assert 0.1 < change["mle"] < 0.5


def test_a_large_feature_decides_knn_and_effective_rank() -> None:
    x, y = labelled(100)
    loud = np.hstack([x, 1000 * normal(100, 1, seed=5)])
    assert transferability("knn", x, y).value > 0.85
    assert transferability("knn", loud, y).value < 0.7
    assert compare("effective-rank", loud, loud).value < 0.3 * compare("effective-rank", x, x).value


def test_one_class_of_nine_tenths_gives_knn_an_accuracy_that_says_nothing() -> None:
    labels = (np.arange(200) % 10 == 0).astype(int)
    assert transferability("knn", normal(200), labels).value > 0.85
    assert transferability("knn", normal(200), labels, report="balanced-accuracy").value < 0.6


@pytest.mark.parametrize(("name", "options"), [("hscore", {"shrinkage": False}), ("transrate", {})])
def test_fewer_images_than_features_is_high_for_any_labels(name: str, options: dict[str, Any]) -> None:
    wide, long = (transferability(name, normal(n, 64), classes(n), **options).value for n in (40, 2000))
    assert wide > 5 * long


def test_hscore_saturates_without_shrinkage() -> None:
    assert transferability("hscore", normal(40, 64), classes(40, 4), shrinkage=False).value == pytest.approx(3.0)


def test_transrate_depends_on_the_scale_and_its_normalised_form_does_not() -> None:
    x, y = labelled(40, d=64)
    assert transferability("transrate", 10 * x, y).value > 1.2 * transferability("transrate", x, y).value
    one, ten = (transferability("transrate", k * x, y, normalise=True).value for k in (1, 10))
    assert one == pytest.approx(ten, rel=1e-6)


def test_logme_has_no_intercept() -> None:
    x, y = labelled(200)
    assert abs(transferability("logme", x + 5.0, y).value - transferability("logme", x, y).value) > 1e-3


def test_gbc_saturates_in_many_dimensions_with_few_images() -> None:
    assert transferability("gbc", normal(30, 512), classes(30), dimensions=0).value > -0.01
    assert transferability("gbc", normal(30, 512), classes(30), dimensions=2).value < -0.5


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_sources_with_many_classes_look_better_on_labels_without_meaning(name: str) -> None:
    rng = np.random.default_rng(0)
    labels, values = classes(200), []
    for outputs in (2, 50):
        sharp = np.exp(8 * rng.normal(size=(200, outputs)))
        values.append(transferability(name, normal(200), labels, sharp / sharp.sum(1, keepdims=True)).value)
    assert values[1] > values[0] + 0.05


def test_a_head_that_gives_one_answer_is_at_the_lower_end_of_nce_but_not_of_leep() -> None:
    labels = classes(100)
    probabilities = np.stack([np.where(labels, 0.6, 0.9), np.where(labels, 0.4, 0.1)], axis=1)
    assert transferability("nce", normal(100), labels, probabilities).value == pytest.approx(-np.log(2))
    assert transferability("leep", normal(100), labels, probabilities).value > -np.log(2) + 0.01


def test_the_published_lp_gives_labels_without_meaning_a_high_score() -> None:
    labels = np.random.default_rng(1).permutation(classes(60))
    assert transferability("lp", normal(60, 64), labels, validation="resubstitution").value > 0.65
    assert transferability("lp", normal(60, 64), labels).value < 0.6


def test_parc_of_fully_separated_classes_is_not_100() -> None:
    labels = classes(300, 10)
    value = transferability("parc", np.eye(10)[labels] + 1e-3 * normal(300, 10), labels).value
    assert value == pytest.approx(100 * np.sqrt(3 * 9) / 10, abs=3)


def test_otce_falls_with_n_and_regularisation_moves_both_parts() -> None:
    few, many = (-compare("otce", labelled(n, seed=1), labelled(n, seed=2)).detail["transport"] for n in (30, 300))
    assert many > few  # less negative
    exact, entropic = (compare("otce", labelled(60, seed=1), labelled(60, seed=2), regularisation=share).detail for share in (0.0, 0.5))
    assert entropic["transport"] > exact["transport"]
    assert entropic["conditional_entropy"] > exact["conditional_entropy"]
