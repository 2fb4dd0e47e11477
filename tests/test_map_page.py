"""The pages and figures of maps: what they hold, and what a reader can do with them in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit.maps import ImageMap, MapSet, distortion, layout, map_of
from simkit.maps.neighbourhoods import usable_neighbours
from simkit.report.dataset_map import dataset_figure, place_names
from simkit.report.drawing import luminance
from simkit.report.map_figures import COLOURS, MOST_COLOURS, SHAPES, class_ranks, image_figures
from simkit.report.map_page import dataset_page, image_page, mark_path
from simkit.tables import ScoreTable

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def image_map(sets: int = 3, n: int = 30, classes: int = 3, *, pictures: bool = True, names: tuple[str, ...] = ()) -> ImageMap:
    rng = np.random.default_rng(0)
    parts, features = [], []
    for number in range(sets):
        label = [f"class {i % classes}" for i in range(n)]
        features.append(rng.normal(size=(n, 5)) + rng.normal(size=5) * 6)
        shown = {i: np.full((40, 40, 3), 20 * (i % 10), dtype=np.uint8) for i in range(n)} if pictures else {}
        name = names[number] if names else f"set {number}"
        parts.append(MapSet(name, n + number, tuple(f"{i}.png" for i in range(n)), tuple(label) if number != 1 else ("",) * n, thumbnails=shown))
    x = np.concatenate(features)
    placed = layout(x, "pca")
    kept = distortion(x, placed.points, [one.name for one in parts for _ in one.keys], k=usable_neighbours(len(x)))
    return ImageMap(tuple(parts), placed, kept, "pixels, recipe 0", 5, pictures)


def scores(k: int, targets: int, *, floor: float | None = 1.0, prefix: str = "data-set") -> ScoreTable:
    points = np.random.default_rng(k).normal(size=(k, 4)) * 3
    names = [f"{prefix}-{i:02d}" if i % 3 else f"{prefix}-with-a-rather-long-name-{i:02d}" for i in range(k)]
    return ScoreTable(tuple(
        {"source": names[i], "target": names[j], "method": "otdd", "value": float(((points[i] - points[j]) ** 2).sum()), "higher_is_better": False,
         "floor": floor} for i in range(k) for j in range(targets) if i != j))


def build(found: ImageMap) -> str:
    return image_page(found, image_figures(found))


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="map-data">(.*?)</script>', page, re.S)
    assert match is not None
    value: dict[str, Any] = json.loads(match[1])
    return value


def test_colours_are_readable_on_light_and_dark_and_shapes_differ() -> None:
    assert len(set(SHAPES)) == len(set(COLOURS)) == len(COLOURS) == len(SHAPES) == MOST_COLOURS
    for colour in COLOURS:
        level = luminance(tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        for paper in ("#fefefe", "#14171b"):
            other = luminance(tuple(int(paper[i : i + 2], 16) / 255 for i in (1, 3, 5)))
            assert (max(level, other) + 0.05) / (min(level, other) + 0.05) >= 3, (colour, paper)
    assert len({mark_path(shape, 3.0) for shape in SHAPES}) == len(SHAPES)


def test_marks_come_back_to_their_point() -> None:
    for shape in SHAPES:
        if shape != "o":
            numbers = [float(one) for one in re.findall(r"-?\d+\.\d+", mark_path(shape, 1.0))]
            ends = np.array(numbers).reshape(-1, 2).cumsum(axis=0)
            assert np.abs(ends).max() < 1.3
            assert mark_path(shape, 1.0).endswith("z")


def test_the_largest_classes_have_colours_and_the_rest_is_other() -> None:
    labels = tuple(f"c{i:02d}" for i in range(12) for _ in range(12 - i))
    ranks, others = class_ranks(MapSet("x", len(labels), ("",) * len(labels), labels))
    assert (list(ranks), others) == ([f"c{i:02d}" for i in range(8)], 4)
    assert class_ranks(MapSet("x", 9, ("",) * 9, tuple("abcdefghi")))[1] == 0


def test_figures_say_what_is_shown() -> None:
    by_set, by_class = image_figures(image_map(3, 30, 12))
    assert "set 1 30 of 31 images" in by_set.caption
    assert "A map is not a measurement" in by_set.caption
    assert "Without labels: set 1." in by_class.caption
    assert "the 8 largest have a colour, the rest is 'other'" in by_class.caption
    many, _ = image_figures(image_map(11, 5))
    assert many.caption.startswith("One panel a data set")
    assert many.figure is not None
    assert len(many.figure.axes) == 11
    plain = image_map(2, 5)
    unlabelled = ImageMap(tuple(MapSet(one.name, one.total, one.keys, ("",) * 5) for one in plain.sets), plain.layout, plain.distortion, "", 5)
    assert image_figures(unlabelled)[1].missing == "No data set has labels."


def test_the_page_holds_every_point_and_escapes_names() -> None:
    page = build(image_map(names=("<b>bold</b>", "two\x1b[31m", "three")))
    assert "<b>bold" not in page
    assert "\x1b" not in page
    data = data_of(page)
    assert data["counts"] == [30, 30, 30]
    assert len(data["x"]) == len(data["keys"]) == len(data["label"]) == 90
    assert data["names"][0] == "<b>bold</b>"
    assert sorted(data["cells"]) == list(range(90))
    assert page.count('class="map-sheet"') == 1
    for i in range(3):
        path = re.search(rf'<path id="set-{i}" class="set" fill="(#\w+)" d="([^"]*)"', page)
        assert path is not None
        assert path[2].count("M") == 30
        assert path[1] == COLOURS[i]
    assert build(image_map()) == build(image_map())
    assert "map-sheet" not in re.sub(r"<(script|style)>.*?</\1>", "", build(image_map(pictures=False)), flags=re.S)


def test_more_than_ten_data_sets_have_no_colours_but_panels() -> None:
    page = build(image_map(12, 6))
    assert data_of(page)["many"] is True
    assert page.count('class="set" fill="var(--faint)"') == 12
    assert 'id="figure-map-data-sets"' in page
    assert 'id="figure-map-data-sets"' not in build(image_map(3, 6))


def test_names_do_not_overlap() -> None:
    for k in (2, 3, 7, 30):
        found = map_of(scores(k, k), "otdd")
        points = found.points / np.abs(found.points).max() * 3
        placed = place_names(points, [f"{name[:16]}\n{name[16:]}" if len(name) > 16 else name for name in found.names])
        for i, a in enumerate(placed):
            for b in placed[:i]:
                assert abs(a.centre[0] - b.centre[0]) >= (a.size[0] + b.size[0]) / 2 or abs(a.centre[1] - b.centre[1]) >= (a.size[1] + b.size[1]) / 2
            covered = (np.abs(points - a.centre) < np.array(a.size) / 2).all(axis=1)
            assert not covered.any()


@pytest.mark.parametrize(("k", "targets"), [(2, 1), (3, 3), (7, 3), (30, 5)])
def test_maps_of_data_sets_are_drawn_to_scale(k: int, targets: int) -> None:
    found = map_of(scores(k, targets), "otdd")
    made = dataset_figure(found)
    assert made.figure is not None
    from matplotlib.patches import Circle

    axes = made.figure.axes[0]
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert len(circles) == targets
    marks = np.concatenate([np.column_stack(line.get_data()) for line in axes.lines if line.get_marker() in ("o", "D")])
    scale = np.hypot(*(marks.max(axis=0) - marks.min(axis=0))) / np.hypot(*(found.points.max(axis=0) - found.points.min(axis=0)))
    assert circles[0].get_radius() == pytest.approx(scale * 1.0, rel=1e-6)  # the root of the floor 1
    assert axes.transData.transform([1, 0])[0] - axes.transData.transform([0, 0])[0] == pytest.approx(
        axes.transData.transform([0, 1])[1] - axes.transData.transform([0, 0])[1])
    assert all(name.replace("-", "") in "".join(text.get_text() for text in axes.texts).replace("\n", "").replace("-", "") for name in found.names)


def test_a_map_of_one_distance_and_one_without_floors_are_drawn() -> None:
    assert "No floor is known." in dataset_figure(map_of(scores(3, 3, floor=None), "otdd")).caption
    same = ScoreTable(({"source": "a", "target": "b", "method": "otdd", "value": 0.0, "higher_is_better": False},))
    assert dataset_figure(map_of(same, "otdd")).figure is not None


def test_the_page_of_data_sets_has_places_and_distances() -> None:
    maps = [map_of(scores(4, 2), "otdd")]
    page = dataset_page(maps, [dataset_figure(one) for one in maps])
    assert 'id="table-map-otdd-places"' in page
    assert 'id="table-map-otdd-distances"' in page
    assert "map-data" not in re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)
    assert "A map is not a measurement" in page


# --- in a browser ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Any:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: chromium, chromium-browser and google-chrome are not on the path")
    with sync_api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield found
        found.close()


def opened(browser: Any, path: Path, said: list[str], **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("data:", path.as_uri())) else None)
    page.goto(path.as_uri())
    return page


def test_a_reader_finds_an_image_by_pointer_keyboard_and_legend(browser: Any, tmp_path: Path) -> None:
    path, said = tmp_path / "map.html", list[str]()
    path.write_text(build(image_map()), encoding="utf-8")
    data = data_of(path.read_text(encoding="utf-8"))
    page = opened(browser, path, said, viewport={"width": 1280, "height": 900})
    tip = page.locator("#map-tip")
    assert tip.is_hidden()
    box = page.locator("#map-points").bounding_box()
    scale = box["width"] / 760
    page.mouse.move(box["x"] + data["x"][0] * scale, box["y"] + data["y"][0] * scale)
    assert tip.is_visible()
    assert tip.inner_text().split("\n")[:2] == ["set 0", "class 0"]
    assert tip.locator("canvas").is_visible()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.is_visible()
    assert tip.inner_text() != first
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    button = page.locator("#map-legend button").nth(1)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("#set-1").is_hidden()
    assert page.locator("#set-0").is_visible()
    page.locator("#table-distortion th button").nth(3).click()
    assert page.locator("#table-distortion th").nth(3).get_attribute("aria-sort") == "ascending"
    assert said == []


def test_nothing_is_wider_than_a_narrow_window_and_no_script_is_needed(browser: Any, tmp_path: Path) -> None:
    maps = [map_of(scores(30, 5), "otdd")]
    for name, text in (("images", build(image_map(12, 6))), ("sets", dataset_page(maps, [dataset_figure(one) for one in maps]))):
        path, said = tmp_path / f"{name}.html", list[str]()
        path.write_text(text, encoding="utf-8")
        for scheme in ("light", "dark"):
            page = opened(browser, path, said, viewport={"width": 400, "height": 800}, color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert said == []
        plain = opened(browser, path, said, viewport={"width": 1280, "height": 800}, java_script_enabled=False)
        shown = "#set-11" if name == "images" else "#figure-map-otdd svg"
        assert plain.locator(shown).is_visible()
        if name == "images":
            assert plain.locator("noscript p").is_visible()
            assert plain.locator("#map-help").is_hidden()
