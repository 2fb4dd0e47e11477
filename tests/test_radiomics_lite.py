"""Hand-made features: against scikit-image and closed forms, and what they must not depend on."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simkit.errors import UsageError
from simkit.extractors.radiomics_lite import ANGLES, RadiomicsLite, TexturePreparation
from simkit.registry import EXTRACTORS


def photograph(height: int = 60, width: int = 80, channels: int = 1, *, seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).standard_normal((height, width, channels))
    smooth = gaussian_filter(noise, (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def features(image: np.ndarray, **options: object) -> dict[str, float]:
    extractor = RadiomicsLite(**options)  # type: ignore[arg-type]
    session = extractor.session("cpu")
    row = session.features([session.prepare(image)])
    assert row.shape == (1, len(extractor.feature_names))
    assert row.dtype == np.float32
    assert np.isfinite(row).all()
    return dict(zip(extractor.feature_names, row[0].tolist(), strict=True))


def test_first_order_against_scipy() -> None:
    from scipy import stats

    image = photograph()
    values = image.ravel() / 255
    got = features(image, size=0, levels=256)
    skewness, kurtosis = stats.skew(values), stats.kurtosis(values)
    share = np.bincount(image.ravel(), minlength=256) / image.size
    wanted = {
        "mean": values.mean(), "standard deviation": values.std(), "minimum": values.min(), "percentile 10": np.percentile(values, 10),
        "percentile 25": np.percentile(values, 25), "median": np.median(values), "percentile 75": np.percentile(values, 75),
        "percentile 90": np.percentile(values, 90), "maximum": values.max(), "mean absolute deviation": np.abs(values - values.mean()).mean(),
        "skewness": skewness / (1 + abs(skewness)), "kurtosis": kurtosis / (1 + abs(kurtosis)), "entropy": stats.entropy(share) / math.log(256),
        "uniformity": (share**2).sum(),
    }
    assert {name: got[f"first order {name}"] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_co_occurrence_against_scikit_image() -> None:
    from skimage.feature import graycomatrix, graycoprops

    image = photograph()
    got = features(image, size=0, levels=16, distances=(1, 3))
    matrix = graycomatrix(image[:, :, 0] // 16, [1, 3], list(ANGLES), levels=16, symmetric=True, normed=True)
    for row, distance in enumerate((1, 3)):
        for what, scale in (("contrast", 15**2), ("dissimilarity", 15), ("homogeneity", 1), ("energy", 1), ("correlation", 1), ("entropy", 2 * math.log(16))):
            values = graycoprops(matrix, what)[row] / scale
            assert got[f"co-occurrence {what}, distance {distance}, mean"] == pytest.approx(values.mean(), abs=1e-6)
            assert got[f"co-occurrence {what}, distance {distance}, range"] == pytest.approx(np.ptp(values), abs=1e-6)


def test_patterns_against_scikit_image() -> None:
    from skimage.feature import local_binary_pattern

    image = photograph()
    got = features(image, size=0, radii=(2,))
    codes = local_binary_pattern(np.pad(image[:, :, 0], 2, mode="edge"), 16, 2, "uniform")[2:-2, 2:-2]
    wanted = [float((codes == code).mean()) for code in range(18)]
    shares = [value for name, value in got.items() if name.startswith("local binary pattern")]
    assert shares == pytest.approx(wanted, abs=1e-6)
    assert sum(shares) == pytest.approx(1)
    assert got["local binary pattern, radius 2, not uniform"] == pytest.approx(wanted[17], abs=1e-6)


def test_checkerboard() -> None:
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None]
    got = features(board, size=0, levels=2, distances=(1, 2))
    # neighbours differ always, diagonal ones never; two steps along a row: never; the diagonal step at distance 2 is one pixel either way
    assert got["co-occurrence contrast, distance 1, mean"] == pytest.approx(0.5)
    assert got["co-occurrence contrast, distance 1, range"] == pytest.approx(1)
    assert got["co-occurrence correlation, distance 1, mean"] == pytest.approx(0, abs=1e-6)
    assert got["co-occurrence correlation, distance 1, range"] == pytest.approx(2)
    assert got["co-occurrence contrast, distance 2, mean"] == 0
    assert got["co-occurrence energy, distance 2, mean"] == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert got["first order mean"] == pytest.approx(0.5)
    assert got["first order entropy"] == pytest.approx(1)
    assert got["first order kurtosis"] == pytest.approx(-2 / 3)  # excess kurtosis -2


@pytest.mark.parametrize("turn", [lambda i: np.rot90(i), lambda i: np.rot90(i, 2), lambda i: i[:, ::-1], lambda i: i[::-1]], ids=list("abcd"))
def test_turning_changes_nothing(turn: object) -> None:
    image = photograph(channels=3)
    base, turned = features(image, size=0, colour=True), features(np.ascontiguousarray(turn(image)), size=0, colour=True)  # type: ignore[operator]
    assert turned == pytest.approx(base, abs=1e-3)  # interpolation between pixels may decide a tie of local binary patterns either way
    exact = [name for name in base if "local binary" not in name]
    assert {name: turned[name] for name in exact} == pytest.approx({name: base[name] for name in exact}, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 3), (2, 500), (64, 64)])
@pytest.mark.parametrize("value", [0, 117, 255])
def test_images_of_one_value(shape: tuple[int, int], value: int) -> None:
    got = features(np.full((*shape, 1), value, dtype=np.uint8), distances=(1, 64))
    assert got["first order mean"] == pytest.approx(value / 255)
    for name in ("standard deviation", "skewness", "kurtosis", "entropy", "mean absolute deviation"):
        assert got[f"first order {name}"] == 0
    for distance in (1, 64):
        wanted = {"contrast": 0, "dissimilarity": 0, "homogeneity": 1, "energy": 1, "correlation": 1, "entropy": 0}
        assert {what: got[f"co-occurrence {what}, distance {distance}, mean"] for what in wanted} == pytest.approx(wanted)
        assert all(got[f"co-occurrence {what}, distance {distance}, range"] == 0 for what in wanted)
    assert got["local binary pattern, radius 1, 8 of 8 points"] == 1


def test_a_row_of_pixels_has_pairs_along_it_only() -> None:
    row = np.tile(np.array([0, 255], dtype=np.uint8), 20)[None, :, None]
    got = features(row, size=0, levels=2, distances=(1, 50))
    assert got["co-occurrence contrast, distance 1, mean"] == 1  # not averaged with angles that have no pair
    assert got["co-occurrence contrast, distance 1, range"] == 0
    assert got["co-occurrence homogeneity, distance 50, mean"] == 1  # no pair at all


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", ["noise", "one white pixel", "black and white", "smooth"])
def test_features_lie_in_minus_one_to_one(kind: str, colour: bool) -> None:
    rng = np.random.default_rng(1)
    spot = np.zeros((64, 64, 3), dtype=np.uint8)
    spot[7, 9] = 255
    image = {"noise": rng.integers(0, 256, (64, 48, 3), dtype=np.uint8), "one white pixel": spot,
             "black and white": rng.integers(0, 2, (64, 64, 3)).astype(np.uint8) * np.uint8(255), "smooth": photograph(channels=3)}[kind]
    got = np.array(list(features(image, size=0, colour=colour).values()))
    ranges = np.array(["correlation" in name and "range" in name for name in RadiomicsLite(colour=colour).feature_names])
    assert np.abs(got[~ranges]).max() <= 1 + 1e-6
    assert np.abs(got[ranges]).max() <= 2 + 1e-6


def test_channels() -> None:
    image = photograph(channels=3)
    got = features(image, colour=True)
    for index, channel in enumerate(("red", "green", "blue")):
        alone = features(image[:, :, index : index + 1])
        assert {name: got[f"{channel} {name}"] for name in alone} == pytest.approx(alone, abs=1e-6)
    grey = features(photograph(), colour=True)
    assert grey["red first order mean"] == grey["blue first order mean"]


@pytest.mark.parametrize(("shape", "wanted"), [((60, 80), (87, 115)), ((80, 60), (115, 87)), ((1, 30_000), (1, 10_000)), ((500, 500), (100, 100))])
def test_size(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    resized = TexturePreparation(100, 32, (1,), (1,), False)._resized(np.zeros((*shape, 1), dtype=np.uint8))
    assert resized.shape == wanted


def test_options_move_the_recipe_and_the_number_of_features() -> None:
    base = RadiomicsLite()
    assert len(base.feature_names) == len(set(base.feature_names)) == 14 + 3 * 12 + 10 + 18
    assert len(RadiomicsLite(distances=(), radii=()).feature_names) == 14
    assert features(photograph(), distances=(), radii=()).keys() == set(base.feature_names[:14])
    for other in (RadiomicsLite(size=0), RadiomicsLite(levels=8), RadiomicsLite(distances=(1,)), RadiomicsLite(radii=(1,)), RadiomicsLite(colour=True)):
        assert other.recipe() != base.recipe()
    assert EXTRACTORS.build({"radiomics-lite": {"levels": 8, "distances": [1, 2]}}) == RadiomicsLite(levels=8, distances=(1, 2))


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match=r"radiomics-lite\.distances: \[1, 1\] names a number twice"):
        RadiomicsLite(distances=(1, 1)).check()
    with pytest.raises(UsageError, match=r"levels.*is out of range"):
        EXTRACTORS.build({"radiomics-lite": {"levels": 1}})
    with pytest.raises(UsageError, match=r"distances.*is out of range"):
        EXTRACTORS.build({"radiomics-lite": {"distances": [0]}})
    RadiomicsLite().check()


def test_works_in_another_process_without_torch(tmp_path: Path) -> None:
    preparation = RadiomicsLite().session("cpu").preparation  # type: ignore[attr-defined]
    image = photograph()
    np.save(tmp_path / "image.npy", image)
    (tmp_path / "preparation").write_bytes(pickle.dumps(preparation))
    code = ("import pickle, sys, numpy\n"
            "work = pickle.load(open('preparation', 'rb'))\n"
            "numpy.save('out.npy', work(numpy.load('image.npy')))\n"
            "assert 'torch' not in sys.modules, 'torch was imported'\n")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"})
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), preparation(image))
