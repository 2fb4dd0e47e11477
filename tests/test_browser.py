"""Pages in a real browser (Chromium, headless): sorting, tooltips, no error, no request, nothing wider than the window, print. Skipped without Chromium."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from images import write_images
from report_content import content, leaking
from test_map_page import image_map

import simkit
from simkit.report import build_page
from simkit.report.leakage_page import leakage_page
from simkit.report.map_figures import image_figures
from simkit.report.map_page import image_page
from simkit.tables import ScoreTable

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

def made_page(name: str, make: Callable[[Path], Any]) -> str:
    """The page that a public function writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "out")
        return (Path(folder) / "out" / name).read_text(encoding="utf-8")


def square_scores() -> ScoreTable:
    """A distance between every two of five data sets, with floors."""
    names = ("chest", "retina", "a data set whose name is rather long", "skin", "textures")
    return ScoreTable(tuple(
        {"source": s, "target": t, "method": "frechet", "value": 4.0 + abs(i - j) * 3.0 + (i * j) % 3, "higher_is_better": False,
         "kind": "distance", "floor": 1.0}
        for i, s in enumerate(names) for j, t in enumerate(names) if s != t))


def explained(out: Path) -> None:
    source = write_images(out.parent / "near", {"dark": 30, "light": 24})
    target = write_images(out.parent / "goal", {"dark": 24, "light": 26, "odd": 22}, shift=30)
    simkit.explain(source, target, extractor={"pixels": {"size": 4}}, repeats=3, permutations=99, out=out)


PAGES: dict[str, Callable[[], str]] = {
    "report": lambda: build_page(leaking(content())),
    "leakage": lambda: leakage_page(leaking(content(methods=2)).leakage, {}),
    "map": lambda: image_page(image_map(), image_figures(image_map())),
    "map of data sets": lambda: made_page("map.html", lambda out: simkit.map_datasets(square_scores(), ["frechet"], out=out)),
    "explanation": lambda: made_page("explanation.html", explained),
}
"""Every page that simkit makes, by name."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: chromium, chromium-browser and google-chrome are not on the path")
    with sync_api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, out = tmp_path_factory.mktemp("pages"), {}
    for name, build in PAGES.items():
        out[name] = folder / f"{name}.html"
        out[name].write_text(build(), encoding="utf-8")
    return out


class Watched:
    """A page that is open, and everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.address, self.said, self.requests = path.as_uri(), list[str](), list[str]()
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self.address)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    @property
    def outside(self) -> list[str]:
        """Requests for anything but the page itself and what stands in it."""
        return [address for address in self.requests if address.split("#")[0] != self.address and not address.startswith("data:")]


@pytest.fixture
def report(browser: Any, files: dict[str, Path]) -> Iterator[Watched]:
    with Watched(browser, files["report"], viewport={"width": 1280, "height": 900}) as found:
        yield found


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_fits_the_window_asks_for_nothing_and_has_no_error(browser: Any, files: dict[str, Path], name: str, scheme: str, width: int) -> None:
    with Watched(browser, files[name], viewport={"width": width, "height": 900}, color_scheme=scheme) as found:
        page = found.page
        page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert sum(int(part) for part in re.findall(r"\d+", dark)[:3]) < 150 if scheme == "dark" else dark == "rgb(254, 254, 254)"
        assert found.said == []
        assert found.outside == []
        assert found.requests


def test_the_watch_sees_errors_and_requests(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<!doctype html><img src="file:///nowhere.png"><script>console.log("said"); nowhere();</script>', encoding="utf-8")
    with Watched(browser, path) as found:
        assert any("nowhere is not defined" in line for line in found.said)
        assert "said" in found.said
        assert found.outside == ["file:///nowhere.png"]


def _column(page: Any, table: str, heading: str) -> list[str]:
    found: list[str] = page.evaluate(
        """([table, heading]) => {
            const found = document.getElementById(table), heads = [...found.tHead.rows[0].cells].map(cell => cell.textContent.trim());
            return [...found.tBodies[0].rows].map(row => row.cells[heads.indexOf(heading)].textContent.trim());
        }""", [table, heading])
    return found


def _sort(page: Any, table: str, heading: str) -> str | None:
    """Clicks a heading; returns what the table then says about its order."""
    button = page.locator(f"#{table} thead button", has_text=re.compile(f"^{re.escape(heading)}$"))
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    button.click()
    said: str | None = button.locator("xpath=..").get_attribute("aria-sort")
    return said


def test_a_table_sorts_by_number_both_ways_with_empty_cells_last(report: Watched) -> None:
    page = report.page
    assert _sort(page, "table-scores", "value") == "ascending"
    values = [float(text) for text in _column(page, "table-scores", "value")]
    assert values == sorted(values)
    assert [str(value) for value in values] != sorted(str(value) for value in values)  # by number, not by text
    assert _sort(page, "table-scores", "value") == "descending"
    values = [float(text) for text in _column(page, "table-scores", "value")]
    assert values == sorted(values, reverse=True)
    for direction in ("ascending", "descending"):
        assert _sort(page, "table-scores", "ceiling") == direction
        texts = _column(page, "table-scores", "ceiling")
        filled = [float(text) for text in texts if text]
        assert 0 < len(filled) < len(texts)
        assert all(texts[: len(filled)])
        assert filled == sorted(filled, reverse=direction == "descending")
    assert page.locator("#table-scores th[aria-sort]").count() == 1


def test_a_table_sorts_by_text_and_with_the_keyboard(report: Watched) -> None:
    page = report.page
    before = _column(page, "table-datasets", "data set")
    page.locator("#table-datasets thead button", has_text="data set").focus()
    page.keyboard.press("Enter")
    names = _column(page, "table-datasets", "data set")
    assert names != before
    assert names == page.evaluate("names => [...names].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))", names)
    assert page.locator("#table-datasets th[aria-sort=ascending]").inner_text().strip().startswith("data set")


def test_a_tooltip_opens_on_hovering_over_a_cell_and_a_point(report: Watched) -> None:
    page, tip = report.page, report.page.locator("#tooltip")
    assert not tip.is_visible()
    page.locator("table.heat td", has_text="110.3").first.hover()
    assert tip.is_visible()
    assert re.fullmatch(r"stl10 -> <script>alert\(1\)</script>, frechet: 110\.3 \[.*\], rank 1 of 5, n 240 and 300, solver did not converge, .*leak: 3 of .*",
                        tip.inner_text())
    box, window = tip.bounding_box(), page.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= window["width"]
    page.locator("#figure-scatter-otdd g.point").first.hover()
    assert re.search(r" -> .*, otdd: .* \[.*\], rank \d of \d, .*; performance 0\.\d{3} \[.*\] #\d=?, n 5", tip.inner_text())
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    assert report.said == []


def test_tooltips_are_reached_by_keyboard(report: Watched) -> None:
    page, tip = report.page, report.page.locator("#tooltip")
    assert page.locator("#figure-transfer td[tabindex]").count() == 1  # one stop for the whole map; arrows go on from there
    page.locator("#figure-transfer td[tabindex]").focus()
    first = tip.inner_text()
    described = page.locator("#figure-transfer td[tabindex]").get_attribute("aria-description")
    assert described == first
    page.keyboard.press("ArrowDown")
    second = tip.inner_text()
    assert " AUC 0." in first
    assert " AUC 0." in second
    assert first != second
    page.keyboard.press("ArrowUp")
    assert tip.inner_text() == first
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    cell = page.evaluate("(({ title, ariaDescription }) => [title, ariaDescription])(document.activeElement)")
    assert cell == ["", first]  # still described when the tooltip is gone, and once only
    assert page.locator("[aria-describedby]").count() == 0
    assert tip.get_attribute("aria-hidden") == "true"
    page.locator("#figure-scatter-otdd g.point[tabindex='0']").focus()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "img"
    one = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != one
    said = tip.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == said
    page.keyboard.press("Escape")
    assert page.evaluate("[document.activeElement.getAttribute('role'), document.activeElement.getAttribute('aria-label')]") == ["img", said]


def test_cells_of_an_explanation_have_tooltips_that_are_reached_by_keyboard(browser: Any, files: dict[str, Path]) -> None:
    with Watched(browser, files["explanation"]) as found:
        found.page.locator("#figure-coupling td[tabindex]").focus()
        assert "independence gives" in found.page.locator("#tooltip").inner_text()


BOXES = """all => all.filter(one => one.checkVisibility()).map(one => [
    one.scrollWidth > one.clientWidth + 1, one.classList.contains("more"), one.getAttribute("tabindex"), getComputedStyle(one).maskImage !== "none"])"""


def test_what_can_be_scrolled_shows_it_and_only_that_is_a_tab_stop(browser: Any, files: dict[str, Path]) -> None:
    with Watched(browser, files["report"], viewport={"width": 400, "height": 900}) as found:
        page = found.page
        page.wait_for_function("document.querySelector('#agreement .scroll.more') !== null")
        boxes = page.eval_on_selector_all(".scroll", BOXES)
        assert [True, True, "0", True] in boxes
        assert [False, False, None, False] in boxes
        assert {tuple(box) for box in boxes} == {(True, True, "0", True), (False, False, None, False)}
        box = page.locator("#agreement .scroll.more").first
        name = box.get_attribute("aria-labelledby") or box.get_attribute("aria-label")
        box.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
        page.wait_for_function("name => ![...document.querySelectorAll('#agreement .scroll.more')].some(one => "
                               "(one.getAttribute('aria-labelledby') || one.getAttribute('aria-label')) === name)", arg=name)
        page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
        page.wait_for_function("document.querySelector('#table-scores').parentNode.classList.contains('more')")  # was closed when the page opened
        page.emulate_media(media="print")
        assert all(not masked for _, _, _, masked in page.eval_on_selector_all(".scroll", BOXES))


def test_everything_is_there_without_a_script(browser: Any, files: dict[str, Path]) -> None:
    with Watched(browser, files["report"], java_script_enabled=False) as found:
        page = found.page
        text = page.locator("body").inner_text()
        for part in ("take busi (mean AUC 0.810", "0.841 #2=", "110.3 †!", "3132 images", "Copies: images that data sets have in common"):
            assert part in text, part
        for part in ("+0.73 [+0.13, +1.00]", "n = 5, Spearman +0.28"):
            assert page.locator("svg text", has_text=part).count(), part
        assert "rank 1 of 5" in page.locator("table.heat td", has_text="110.3").first.get_attribute("title")
        assert page.locator(".scroll:not([tabindex='0'])").count() == 0
        assert page.locator("g.point > title").first.text_content().endswith("n 5")
        assert page.locator("#table-scores thead button").count() == 0
        assert found.said == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints(browser: Any, files: dict[str, Path], name: str) -> None:
    with Watched(browser, files[name]) as found:
        made = found.page.pdf(format="A4")
        assert made.startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", made)) > (name == "report")
        assert found.outside == []


def test_a_report_of_little_opens_without_error(browser: Any, tmp_path: Path) -> None:
    bare = replace(content(targets=1, methods=2, thumbnails=0), transfer=None, ranking={}, answers={}, correlation=None)
    path = tmp_path / "bare.html"
    path.write_text(build_page(bare), encoding="utf-8")
    with Watched(browser, path, viewport={"width": 400, "height": 900}) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert (found.said, found.outside) == ([], [])
