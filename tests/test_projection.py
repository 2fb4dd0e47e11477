"""Projections: against scikit-learn, the lemma of Johnson and Lindenstrauss, and what they must not depend on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, ResourceError, UsageError
from simkit.extractors import projection as module
from simkit.extractors.projection import Fitted, Projection, projection_of


def cloud(count: int, dimension: int, name: str, *, seed: int = 0, shift: float = 0.0, extractor: str = "network") -> Embedding:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dimension, dimension)) * 0.8 ** np.arange(dimension)
    rows = (rng.standard_normal((count, dimension)) @ mixing.T + shift).astype(np.float32)
    return Embedding(rows, np.arange(count) % 3, ("a", "b", "c"), keys=tuple(f"{name}/{i}" for i in range(count)), name=name, extractor=extractor)


@pytest.mark.parametrize("count", [300, 15], ids=["more rows than features", "fewer rows than features"])
@pytest.mark.parametrize("whiten", [False, True])
def test_one_data_set_is_scikit_learns_pca(count: int, whiten: bool) -> None:
    from sklearn.decomposition import PCA

    one = cloud(count, 20, "one", shift=3)
    fitted = Projection("pca", 6, whiten=whiten).fit([one])
    reference = PCA(6, whiten=whiten, svd_solver="full").fit(one.features.astype(np.float64))
    wanted = reference.transform(one.features.astype(np.float64))
    if whiten:
        wanted *= np.sqrt(count / (count - 1))  # scikit-learn divides the variance by n - 1
    got = fitted.apply(one).features
    signs = np.sign((got * wanted).sum(axis=0))
    np.testing.assert_allclose(got, wanted * signs, rtol=1e-5, atol=1e-5)
    assert fitted.explained == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-9)


def test_several_data_sets_weigh_the_same() -> None:
    small, large = cloud(40, 8, "small", seed=1), cloud(400, 8, "large", seed=2, shift=5)
    repeated = Embedding(np.concatenate([np.repeat(small.features, 10, axis=0), large.features]), name="all", extractor="network")
    got, wanted = Projection("pca", 3).fit([small, large]), Projection("pca", 3).fit([repeated])
    np.testing.assert_allclose(got.matrix, wanted.matrix, atol=1e-9)
    np.testing.assert_allclose(got.centre, wanted.centre, atol=1e-9)
    assert got.explained == pytest.approx(wanted.explained)


def test_order_of_data_sets_and_rows_plays_no_part() -> None:
    sets = [cloud(50 + 10 * i, 12, f"set{i}", seed=i, shift=i) for i in range(4)]
    base, turned = Projection("pca", 4).fit(sets), Projection("pca", 4).fit(sets[::-1])
    assert base.space == turned.space
    np.testing.assert_array_equal(base.matrix, turned.matrix)
    np.testing.assert_array_equal(base.centre, turned.centre)
    shuffled = [one.take(np.random.default_rng(5).permutation(len(one))) for one in sets]
    np.testing.assert_allclose(Projection("pca", 4).fit(shuffled).matrix, base.matrix, atol=1e-10)


def test_signs_are_fixed() -> None:
    one = cloud(100, 10, "one")
    mirrored = Embedding(-one.features, name="mirrored", extractor="network")
    fitted = Projection("pca", 5).fit([one])
    assert (fitted.matrix[np.abs(fitted.matrix).argmax(axis=0), np.arange(5)] > 0).all()
    np.testing.assert_allclose(Projection("pca", 5).fit([mirrored]).matrix, fitted.matrix, atol=1e-10)


def test_whitened_components_are_uncorrelated_with_variance_one() -> None:
    one = cloud(500, 10, "one", shift=2)
    rows = Projection("pca", 4, whiten=True).fit([one]).apply(one).features.astype(np.float64)
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.eye(4), atol=1e-5)


@pytest.mark.parametrize("part", [2**26, 8 * 12 * 7], ids=["one part", "parts of 7 rows"])
def test_parts_change_nothing(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cloud(100, 12, "one")
    wanted = Projection("pca", 3).fit([one])
    monkeypatch.setattr(module, "PART_BYTES", part)
    got = Projection("pca", 3).fit([one])
    np.testing.assert_allclose(got.apply(one).features, wanted.apply(one).features, atol=1e-5)
    assert got.space == wanted.space


def test_distances_are_kept_by_a_random_projection() -> None:
    from scipy.spatial.distance import pdist

    one = Embedding(np.random.default_rng(0).standard_normal((60, 400)).astype(np.float32), name="one")
    ratios = []
    for seed in range(20):
        rows = Projection("random", 200, seed=seed).fit([one]).apply(one).features
        ratios.append(pdist(rows, "sqeuclidean") / pdist(one.features, "sqeuclidean"))
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)  # unbiased
    assert np.std(ratios) == pytest.approx(np.sqrt(2 / 200), rel=0.1)  # chi-squared with k degrees of freedom
    assert np.min(ratios) > 0.5
    assert np.max(ratios) < 1.6


def test_random_projection_has_the_variance_of_scikit_learns() -> None:
    from sklearn.random_projection import GaussianRandomProjection

    one = Embedding(np.ones((2, 300), dtype=np.float32), name="one")
    reference = GaussianRandomProjection(50, random_state=0).fit(one.features).components_
    assert Projection("random", 50).fit([one]).matrix.std() == pytest.approx(reference.std(), rel=0.02)


def test_random_projection_sees_no_data() -> None:
    one, two = cloud(30, 10, "one", seed=1), cloud(70, 10, "two", seed=2)
    first, second = Projection("random", 4).fit([one]), Projection("random", 4).fit([two, one])
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert first.space == second.space
    assert first.space != Projection("random", 4, seed=1).fit([one]).space
    assert np.abs(first.matrix - Projection("random", 4, seed=1).fit([one]).matrix).max() > 0.1


def test_space_names_extractor_options_and_data() -> None:
    one, two = cloud(50, 10, "one", seed=1), cloud(50, 10, "two", seed=2)
    spaces = {Projection("pca", 4).fit([one]).space, Projection("pca", 4).fit([one, two]).space, Projection("pca", 3).fit([one]).space,
              Projection("pca", 4, whiten=True).fit([one]).space, Projection("pca", 4).fit([cloud(50, 10, "one", seed=1, extractor="other")]).space,
              Projection("random", 4).fit([one]).space, "network"}
    assert len(spaces) == 7
    done = Projection("pca", 4).fit([one, two]).apply(one)
    assert done.extractor in spaces
    assert done.dimension == 4
    assert done.features.dtype == np.float32
    assert done.keys == one.keys
    assert done.classes == one.classes
    assert done.labels is one.labels


def test_line() -> None:
    one, two = cloud(50, 10, "one", seed=1), cloud(50, 10, "two", seed=2)
    fitted = Projection("pca", 4).fit([one, two])
    assert fitted.explained is not None
    assert 0.5 < fitted.explained < 1
    share = f"{100 * fitted.explained:.1f} % of the variance of one, two (each weighs the same)"
    assert fitted.line == f"projection pca:4: 10 features to 4 dimensions that hold {share}"
    line = Projection("random", 3, seed=7).fit([one]).line
    assert line == "projection random:3: 10 features to 3 dimensions, random directions (seed 7), independent of the data"
    assert Projection("pca", 10).fit([one]).explained == pytest.approx(1)


def test_memory_mapped_features_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "features.npy"
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(100_000, 64))
    rng = np.random.default_rng(0)
    for start in range(0, 100_000, 10_000):
        mapped[start : start + 10_000] = rng.standard_normal((10_000, 64), dtype=np.float32)
    mapped.flush()
    one = Embedding(np.load(path, mmap_mode="r"), name="mapped", extractor="network")
    monkeypatch.setattr(module, "PART_BYTES", 2**20)
    tracemalloc.start()
    try:
        fitted = Projection("pca", 4).fit([one])
        _, fitting = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        done = fitted.apply(one)
        _, applying = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fitting < 5 * 2**20 < one.features.nbytes
    assert applying < done.features.nbytes + 8 * 2**20  # the result, and some parts


@pytest.mark.parametrize(("text", "wanted"), [("pca:64", Projection("pca", 64)), ("random:128", Projection("random", 128)), ("", None), (None, None)])
def test_text(text: str | None, wanted: Projection | None) -> None:
    assert projection_of(text, "--projection") == wanted
    if wanted is not None:
        assert str(wanted) == text


@pytest.mark.parametrize("text", ["pca", "pca:", "pca:0", "pca:-3", "pca:6.5", "umap:2", "pca:64:1", " pca:64", "64"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"SK102\] --projection: '{text}' is not a projection\nfix: give pca:K or random:K"):
        projection_of(text, "--projection")


def test_too_many_dimensions() -> None:
    few = cloud(5, 20, "few")
    with pytest.raises(UsageError, match=r"pca:21: 21 dimensions of features that have 20\nfix: give 20 at most"):
        Projection("pca", 21).fit([few])
    with pytest.raises(UsageError, match=r"random:21: 21 dimensions of features that have 20"):
        Projection("random", 21).fit([few])
    with pytest.raises(NotEnoughData, match=r"pca:5: the 5 images of few vary in 4 dimensions only\nfix: give pca:4 at most, or random:5"):
        Projection("pca", 5).fit([few])
    flat = Embedding(np.concatenate([cloud(60, 6, "x").features, np.zeros((60, 4), dtype=np.float32)], axis=1), name="flat")
    with pytest.raises(NotEnoughData, match=r"vary in 6 dimensions only"):
        Projection("pca", 7).fit([flat])
    with pytest.raises(NotEnoughData, match=r"vary in 0 dimensions only\nfix: the images all have the same features"):
        Projection("pca", 1).fit([Embedding(np.ones((30, 4), dtype=np.float32), name="constant")])


def test_other_extractors_are_refused() -> None:
    one, other = cloud(30, 10, "one"), cloud(30, 10, "two", extractor="another network")
    with pytest.raises(UsageError, match=r"SK109\] two: its features come from another extractor than those of one"):
        Projection("pca", 2).fit([one, other])
    fitted: Fitted = Projection("pca", 2).fit([one])
    with pytest.raises(UsageError, match=r"SK109\] two: its features come from another extractor than those of one"):
        fitted.apply(other)
    with pytest.raises(UsageError, match=r"SK109\].*\(9 and 10 features\)"):
        fitted.apply(cloud(30, 9, "narrow"))


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match=r"projection\.method: 'umap' is not a projection"):
        Projection("umap", 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"projection\.dimensions: 0 dimensions"):
        Projection("pca", 0)
    with pytest.raises(UsageError, match=r"projection\.whiten: a random projection knows no variances"):
        Projection("random", 2, whiten=True)
    with pytest.raises(UsageError, match=r"there are no embeddings to fit the projection on"):
        Projection("pca", 2).fit([])


def test_too_large_a_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_MATRIX", 700)
    with pytest.raises(ResourceError, match=r"principal components of 10 features need a matrix of .* GiB.*\nfix: give random:K"):
        Projection("pca", 2).fit([cloud(30, 10, "one")])
