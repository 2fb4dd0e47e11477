"""Maps: projections, their distortion, metric scaling, and distances out of score tables, against closed forms and scikit-learn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.maps import Layout, check_layout, distances_of, distortion, layout, map_of, scaling, spread_sample
from simkit.maps.layouts import principal_axes
from simkit.maps.neighbourhoods import kept_neighbours, usable_neighbours
from simkit.maps.sampling import shares
from simkit.recipe import digest
from simkit.tables import ScoreTable

RNG = np.random.default_rng(0)


def clusters(n: int = 40, d: int = 6) -> np.ndarray:
    """Three clusters that are far apart."""
    centres = np.zeros((3, d))
    centres[1, 0], centres[2, 1] = 30.0, 30.0
    return np.concatenate([centre + np.random.default_rng(i).normal(size=(n, d)) for i, centre in enumerate(centres)])


# --- sampling ---------------------------------------------------------------------------------------------------------------------------


def test_shares_are_by_largest_remainder_and_leave_no_class_out() -> None:
    assert shares([50, 30, 20], 10) == [5, 3, 2]
    assert shares([70, 20, 10], 5) == [3, 1, 1]
    assert shares([997, 1, 1, 1], 10) == [7, 1, 1, 1]
    assert shares([5, 5], 20) == [5, 5]
    assert sum(shares([10, 10, 10], 2)) == 2


def test_the_sample_depends_on_content_only() -> None:
    digests = [digest(i) for i in range(100)]
    labels = ["a" if i % 4 else "b" for i in range(100)]
    first = spread_sample(digests, labels, 20)
    assert Counter(labels[i] for i in first) == {"a": 15, "b": 5}
    order = np.random.default_rng(1).permutation(100)
    again = spread_sample([digests[i] for i in order], [labels[i] for i in order], 20)
    assert [digests[i] for i in first] == [digests[order[i]] for i in again]
    smallest = sorted(digests[i] for i in range(100) if labels[i] == "b")[:5]
    assert sorted(digests[i] for i in first if labels[i] == "b") == smallest
    assert sorted(spread_sample(digests, None, 500)) == list(range(100))


# --- projections ------------------------------------------------------------------------------------------------------------------------


def test_pca_is_that_of_scikit_learn_for_few_and_many_features() -> None:
    from sklearn.decomposition import PCA

    for shape in ((60, 8), (10, 40)):
        x = RNG.normal(size=shape) * np.linspace(5, 1, shape[1])
        made, reference = layout(x, "pca"), PCA(2, svd_solver="full").fit(x)
        assert np.abs(np.abs(made.points) - np.abs(reference.transform(x))).max() < 1e-8
        assert made.explained == pytest.approx(tuple(reference.explained_variance_ratio_))
        largest = reference.components_[np.arange(2), np.abs(reference.components_).argmax(axis=1)]
        assert np.allclose(made.points, reference.transform(x) * np.sign(largest))


def test_pca_of_one_feature_is_a_line() -> None:
    points, explained = principal_axes(np.array([[0.0], [1.0], [5.0]]))
    assert points[:, 0].tolist() == pytest.approx([-2, -1, 3])
    assert (points[:, 1] == 0).all()
    assert explained == (1.0, 0.0)


def test_tsne_keeps_clusters_apart_and_is_repeatable() -> None:
    x = clusters(15)
    x[1] = x[0]  # equal images
    made = layout(x, "tsne", perplexity=8, seed=1)
    assert (made.points == layout(x, "tsne", perplexity=8, seed=1).points).all()
    assert distortion(x, made.points, ["a"] * len(x), k=7).trustworthiness > 0.9
    assert made.explained is None
    assert "perplexity 8" in made.settings


@pytest.mark.slow
def test_umap_keeps_clusters_apart_and_is_repeatable() -> None:
    x = clusters(15)
    x[1] = x[0]
    made = layout(x * 1e20, "umap", neighbours=6, seed=1)
    assert (made.points == layout(x * 1e20, "umap", neighbours=6, seed=1).points).all()
    assert np.isfinite(made.points).all()
    own = [made.points[i * 15 : (i + 1) * 15] for i in range(3)]
    spread = max(float(np.hypot(*(one - one.mean(axis=0)).T).max()) for one in own)
    assert min(float(np.hypot(*(own[i].mean(axis=0) - own[j].mean(axis=0)))) for i, j in ((0, 1), (0, 2), (1, 2))) > spread
    assert np.isfinite(layout(x[:3], "umap", neighbours=2).points).all()


def test_layouts_refuse_what_they_cannot_lay_out() -> None:
    with pytest.raises(NotEnoughData, match=r"SK501.*2 images, a map needs 3 at least"):
        layout(np.eye(2), "pca")
    with pytest.raises(NotEnoughData, match=r"SK502.*features of all 5 images are equal"):
        layout(np.ones((5, 3)), "umap", neighbours=2)
    with pytest.raises(DataError, match=r"SK210.*1 rows hold NaN"):
        layout(np.array([[0.0], [1.0], [np.nan], [2.0]]), "pca")
    with pytest.raises(UsageError, match=r"--neighbours: 15 neighbours, and each of 10 images has 9 others\n?.*give --neighbours 2 to 9, or --method pca"):
        check_layout("umap", 10)
    with pytest.raises(UsageError, match=r"a perplexity of 30 does not fit 40 images.*\n?.*give 1 to 13"):
        check_layout("tsne", 40)
    with pytest.raises(NotEnoughData, match=r"3 images, t-SNE needs 4"):
        check_layout("tsne", 3)
    with pytest.raises(UsageError, match=r"'umab' is not a projection \(did you mean 'umap'\?\)"):
        check_layout("umab", 40)
    check_layout("tsne", 91)


# --- distortion -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 15])
def test_distortion_is_that_of_scikit_learn(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.manifold import trustworthiness

    x = RNG.normal(size=(90, 12))
    y = x[:, :2] + RNG.normal(size=(90, 2))
    monkeypatch.setattr("simkit.maps.neighbourhoods.BLOCK_BYTES", 90 * 8 * 7)  # thirteen blocks
    found = distortion(x, y, ["a"] * 30 + ["b"] * 60, k=k)
    assert found.trustworthiness == pytest.approx(trustworthiness(x, y, n_neighbors=k), abs=1e-12)
    assert found.continuity == pytest.approx(trustworthiness(y, x, n_neighbors=k), abs=1e-12)
    weighed = [sum(n * found.per_set[name][i] for name, n in (("a", 30), ("b", 60))) / 90 for i in range(2)]
    assert weighed == pytest.approx([found.trustworthiness, found.continuity])


def test_distortion_is_1_for_the_same_points_and_about_a_half_by_chance() -> None:
    x = RNG.normal(size=(300, 2))
    found = distortion(x, 3 * x[:, ::-1], ["a"] * 300)
    assert (found.trustworthiness, found.continuity) == (1.0, 1.0)
    assert found.chance == pytest.approx((0.5, 0.5), abs=0.05)


def test_equal_images_are_no_distortion_and_the_order_of_rows_plays_no_part() -> None:
    x = np.repeat(RNG.normal(size=(20, 30)) * 1000, 5, axis=0)  # five copies of each
    y = layout(x, "pca").points
    value = distortion(x, y, ["a"] * 100, k=4)
    assert value.trustworthiness == pytest.approx(1.0)  # the four copies are the nearest in both
    z = np.round(RNG.normal(size=(100, 2)), 1)  # ties in the plane
    order = RNG.permutation(100)
    assert kept_neighbours(x, z, 5)[order] == pytest.approx(kept_neighbours(x[order], z[order], 5), abs=1e-12)


def test_ties_share_the_best_rank_and_the_last_places() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]])
    y = np.zeros((5, 2))  # all at one place: each of four others stands for half a place of k = 2
    n, k = 5, 2
    excess = [sum(max(int((np.abs(x[:, 0] - x[i, 0]) < np.abs(x[j, 0] - x[i, 0]) - 1e-12).sum()) - k, 0) for j in range(5) if j != i) for i in range(5)]
    expected = 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * sum(excess) * k / (n - 1)
    assert kept_neighbours(x, y, k)[:, 0].mean() == pytest.approx(expected)


def test_too_many_neighbours_are_refused() -> None:
    assert [usable_neighbours(n) for n in (3, 10, 30, 31, 1000)] == [1, 4, 14, 15, 15]
    with pytest.raises(NotEnoughData, match=r"15 neighbours of 30 images.*\n?.*give 1 to 14"):
        distortion(np.eye(30), np.eye(30)[:, :2], ["a"] * 30)


# --- metric scaling ---------------------------------------------------------------------------------------------------------------------


def apart(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)))


def test_distances_of_a_plane_are_found_again() -> None:
    points = RNG.normal(size=(12, 2)) * 7
    found = scaling(apart(points))
    assert found.stress < 1e-6
    assert apart(found.points) == pytest.approx(apart(points), abs=1e-4)
    assert found.points.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("k", [4, 9, 20])
def test_stress_is_at_most_that_of_scikit_learn(k: int) -> None:
    from sklearn.manifold import MDS

    distances = apart(np.random.default_rng(k).normal(size=(k, 5)))
    found = scaling(distances)
    reference = min(MDS(2, dissimilarity="precomputed", n_init=4, max_iter=2000, eps=1e-12, random_state=seed, normalized_stress=False).fit(distances).stress_
                    for seed in (0, 1))
    assert found.raw <= reference + 1e-6
    errors = (apart(found.points) - distances)[np.triu_indices(k, 1)]
    assert found.raw == pytest.approx(float((errors**2).sum()))
    assert found.stress == pytest.approx(float(np.sqrt((errors**2).sum() / (apart(found.points)[np.triu_indices(k, 1)] ** 2).sum())))


def test_missing_pairs_neither_pull_nor_push() -> None:
    points = RNG.normal(size=(10, 2))
    distances = apart(points)
    distances[0, 1] = distances[1, 0] = np.nan
    distances[2, 5] = distances[5, 2] = np.nan
    found = scaling(distances)
    assert found.stress < 1e-6
    assert apart(found.points)[0, 1] == pytest.approx(apart(points)[0, 1], abs=1e-3)


def test_two_objects_and_equal_objects() -> None:
    two = scaling(np.array([[0.0, 4.0], [4.0, 0.0]]))
    assert two.points == pytest.approx(np.array([[2.0, 0.0], [-2.0, 0.0]]))
    same = scaling(np.zeros((3, 3)))
    assert (same.points == 0).all()
    assert same.stress == 0


def test_the_stress_of_an_object_is_that_of_its_pairs() -> None:
    distances = apart(np.random.default_rng(5).normal(size=(8, 5)))
    distances[0, 3] = distances[3, 0] = np.nan
    found = scaling(distances)
    drawn = apart(found.points)
    errors = np.nan_to_num((drawn - distances) ** 2).sum(1)
    squares = np.where(np.isnan(distances), 0, drawn**2).sum(1)
    assert found.each == pytest.approx(np.sqrt(errors / squares))
    assert found.stress == pytest.approx(float(np.sqrt(errors.sum() / squares.sum())))
    assert found.stress > 0.01


# --- distances out of score tables ------------------------------------------------------------------------------------------------------


def table(rows: list[tuple[str, str, float]], method: str = "otdd", *, higher: bool = False, **more: Any) -> ScoreTable:
    return ScoreTable(tuple({"source": s, "target": t, "method": method, "value": v, "higher_is_better": higher, **more} for s, t, v in rows))


TRIANGLE = [("a", "b", 9.0), ("b", "c", 16.0), ("c", "a", 25.0)]


def test_squared_measures_are_drawn_by_their_root_with_floors() -> None:
    found = map_of(table(TRIANGLE, floor=4.0), "otdd")
    assert found.names == ("b", "c", "a")
    assert apart(found.points) == pytest.approx(np.array([[0, 4, 3], [4, 0, 5], [3, 5, 0]]), abs=1e-4)
    assert found.floors == (2.0, 2.0, 2.0)
    assert found.unit == "feature units"
    assert "otdd is a squared distance: drawn is its root." in found.said
    assert found.stress == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("method", "value", "higher", "drawn"), [
    ("frechet", 9.0, False, 3.0), ("frechet", -0.1, False, 0.0), ("energy", 4.0, False, 2.0), ("sotdd", 4.0, False, 4.0),
    ("domain-classifier", 0.9, False, 0.8),
    ("domain-classifier", 0.45, False, 0.0), ("expert", 4.0, False, 4.0), ("expert", 0.75, True, 0.25), ("coverage", 0.9, True, 0.1), ("mmd", 0.25, False, 0.5),
])
def test_each_measure_has_its_transform(method: str, value: float, higher: bool, drawn: float) -> None:
    found = distances_of(table([("a", "b", value)], method, higher=higher), method)
    assert found.values[0, 1] == pytest.approx(drawn)
    assert ("below 0 (" in " ".join(found.remarks)) == (value < 0)


def test_what_is_no_distance_is_refused() -> None:
    with pytest.raises(UsageError, match=r"SK108.*logme: is a transferability measure"):
        distances_of(table(TRIANGLE, "logme", higher=True), "logme")
    with pytest.raises(UsageError, match=r"other: is a prior measure: a property of the source alone"):
        distances_of(table(TRIANGLE, "other", kind="prior"), "other")
    with pytest.raises(UsageError, match=r"SK108.*similarity without a largest value \(values from 9 to 25\)"):
        distances_of(table(TRIANGLE, "expert", higher=True), "expert")
    with pytest.raises(DataError, match=r"SK203.*a -> b, expert: value -1 is below 0"):
        distances_of(table([("a", "b", -1.0)], "expert"), "expert")
    with pytest.raises(DataError, match=r"SK203.*a -> b, otdd: value nan is no finite number"):
        distances_of(table([("a", "b", float("nan"))]), "otdd")
    mixed = ScoreTable((*table([("a", "b", 1.0)], "expert").records, *table([("b", "a", 1.0)], "expert", higher=True).records))
    with pytest.raises(DataError, match=r"SK211.*b -> a, expert: higher_is_better is another"):
        distances_of(mixed, "expert")
    with pytest.raises(UsageError, match=r"SK101.*'otd' is no measure of the table \(did you mean 'otdd'\?\)"):
        distances_of(table(TRIANGLE), "otd")
    with pytest.raises(NotEnoughData, match=r"no pair of two data sets is scored"):
        distances_of(table([("a", "a", 1.0)]), "otdd")


def test_both_directions_are_averaged_and_their_difference_is_said() -> None:
    found = distances_of(table([("a", "b", 4.0), ("b", "a", 16.0)]), "otdd")
    assert found.values[0, 1] == 3.0
    assert "Both directions differ for 1 pair, by 2 at most" in " ".join(found.remarks)
    assert distances_of(table([("a", "b", 4.0), ("b", "a", 4.0)]), "otdd").remarks == ("otdd is a squared distance: drawn is its root.",)


def test_too_few_pairs_are_refused_and_missing_ones_counted() -> None:
    star = [(name, "t", 1.0) for name in "abc"]
    with pytest.raises(NotEnoughData, match=r"SK501.*a, b, c have one known distance.*\n?.*--target A --target B.*--allow-missing"):
        distances_of(table(star), "otdd")
    said = " ".join(distances_of(table(star), "otdd", allow_missing=True).remarks)
    assert "3 pairs have no score, 3 of them between sources that are no targets" in said
    assert "The direction of a, b, c is arbitrary" in said
    with pytest.raises(NotEnoughData, match=r"no scored pair connects d, c with b, a"):
        distances_of(table([("a", "b", 1.0), ("c", "d", 1.0)]), "otdd")
    two = distances_of(table([*star, *((name, "u", 2.0) for name in "abc")]), "otdd")
    assert int(np.isnan(two.values).sum()) // 2 == 4


def test_floors_are_the_largest_of_a_target() -> None:
    rows = [{"source": s, "target": "t", "method": "otdd", "value": 4.0, "higher_is_better": False, "floor": f} for s, f in (("a", 1.0), ("b", 4.0))]
    found = distances_of(ScoreTable(tuple(rows)), "otdd")
    assert dict(zip(found.names, found.floors, strict=True)) == {"t": 2.0, "a": None, "b": None}
    assert "the floor differs between sources" in " ".join(found.remarks)


def test_scores_that_did_not_converge_are_counted() -> None:
    assert "3 scores did not converge." in distances_of(table(TRIANGLE, converged=False), "otdd").remarks
    assert not any("converge" in line for line in distances_of(table(TRIANGLE, converged=True), "otdd").remarks)


def test_a_poor_map_is_warned_of() -> None:
    simplex = [(f"s{i}", f"s{j}", 1.0) for i in range(12) for j in range(i)]
    found = map_of(table(simplex, "expert"), "expert")
    assert found.stress > found.POOR
    assert any(line.startswith("Warning: a stress above 0.2") for line in found.said)
    assert not any("Warning" in line for line in map_of(table(TRIANGLE), "otdd").said)


def test_layout_is_a_value() -> None:
    assert Layout(np.zeros((1, 2)), "pca", "").remarks == ()
