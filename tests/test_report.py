"""The report: text that fits its width, figures without empty panels, one page that loads nothing and escapes everything."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_content import HOSTILE, IMAGE, LONG, SCRIPT, card, content, leaking, partial

from simkit.correlation import answer, correlate, rank_sources
from simkit.correlation.results import Mixed
from simkit.errors import ResourceError
from simkit.report import (
    Content,
    NamedFigure,
    Unavailable,
    build_page,
    cards_text,
    figures,
    ranking_text,
    save_figures,
    scores_text,
    summary_text,
    write_page,
)
from simkit.report.cautions import agreement_notes, agreement_warnings
from simkit.report.cells import TransferCell, metric_in_full, metric_of, number, p_text, score_cells, transfer_cells
from simkit.report.closeness import closeness, closeness_answer
from simkit.report.content import FigureSize
from simkit.report.drawing import cropped, svg_text
from simkit.report.layout import Column, longest_piece, paragraph, table, text_width, unique, visible, wrapped
from simkit.report.page_tables import page_tables
from simkit.report.text import agreement_text
from simkit.tables import ScoreTable, TransferTable


@pytest.fixture(scope="module")
def full() -> Content:
    return content()


@pytest.fixture(scope="module")
def page(full: Content) -> str:
    return build_page(full)


class Reader(HTMLParser):
    """What a browser would see: visible text, attributes, and the raw content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.raw = ""

    def handle_data(self, data: str) -> None:
        if self.raw == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif not self.raw:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


# --- the page


def test_page_escapes_hostile_names_in_html_svg_and_json(page: str) -> None:
    reader = Reader(page)
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{"type": "application/json", "id": "simkit-report"}, {}, {}]
    assert all(attributes.get("src", "").startswith("data:image/webp;base64,") for tag, attributes in reader.tags if tag == "img")
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert SCRIPT in reader.words
    assert IMAGE in reader.words
    assert "<b>what</b>" in reader.words  # markup in a summary is shown, not obeyed
    data = next(text for attributes, text in reader.scripts if attributes.get("id") == "simkit-report")
    assert "<" not in data
    assert json.loads(data)["targets"] == list(HOSTILE[:2])


def test_page_loads_nothing_and_forbids_loading(page: str) -> None:
    reader = Reader(page)
    loading = ("src", "href", "xlink:href", "srcset", "action", "data")
    addresses = [value for _, attributes in reader.tags for name, value in attributes.items() if name in loading]
    assert addresses
    assert all(address is not None and address.startswith(("data:", "#")) for address in addresses)
    assert not {tag for tag, _ in reader.tags} & {"link", "iframe", "object", "embed", "form", "base"}
    assert not re.search(r"url\((?!#)|@import", page)
    assert "https://example.org/1" in reader.words  # a citation is text
    policy = next(attributes["content"] for tag, attributes in reader.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")


def test_the_policy_holds_the_hash_of_the_script(page: str) -> None:
    import hashlib

    scripts = [text for attributes, text in Reader(page).scripts if not attributes]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2  # sorting, tooltips
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert f"script-src {allowed};" in page


def test_same_content_gives_the_same_bytes(page: str) -> None:
    assert build_page(content()) == page


def test_every_number_can_be_read_without_a_script(full: Content, page: str) -> None:
    words = Reader(page).words
    for cell in score_cells(full).values():
        assert number(cell.value) in words
        assert cell.interval is None or f"[{number(cell.interval[0])}, {number(cell.interval[1])}]" in words
    for pair in transfer_cells(full).values():
        assert f"{pair.mean:.3f}" in words
    assert full.correlation is not None
    for result in full.correlation.methods:
        assert (f"{result.mean_spearman:+.2f}" if result.mean_spearman is not None else "undefined: the score is the same for every source") in words
    for one in full.cards:
        assert all(str(count) in words for count in one.class_counts.values())
    for phrase in ("not distinguishable from the best", "not converged", "n < d (240 < 512)", "only one class has two images", "truncated",
                   "one class only in the test fold", "baseline"):
        assert phrase in words
    assert all(answer in words for answer in full.answers.values())


def test_ids_are_unique_and_references_exist(page: str) -> None:
    reader = Reader(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [value[1:] for _, attributes in reader.tags for name, value in attributes.items() if name in ("href", "xlink:href") and value and value[0] == "#"]
    targets += re.findall(r"url\(#([^)]+)\)", page)
    targets += [attributes["aria-labelledby"] or "" for _, attributes in reader.tags if "aria-labelledby" in attributes]
    assert targets
    assert set(targets) <= set(ids)


def test_downloads_hold_the_numbers_in_full_precision(full: Content, page: str) -> None:
    links = {attributes["download"]: attributes["href"] or "" for tag, attributes in Reader(page).tags if tag == "a" and "download" in attributes}
    assert {"report.json", "scores.csv", "transfer.csv", "agreement.csv", "ranking-script-alert-1-script.csv",
            "ranking-img-src-x-onerror-alert-2.csv", "unavailable.csv", "skipped.csv"} <= set(links)
    texts = {name: base64.b64decode(address.split(",", 1)[1]).decode() for name, address in links.items()}
    rows = list(csv.DictReader(io.StringIO(texts["scores.csv"])))
    assert [float(row["value"]) for row in rows] == [record["value"] for record in full.scores.records]
    assert json.loads(texts["report.json"])["answers"] == dict(full.answers)


def test_figures_take_the_colours_of_the_page(page: str) -> None:
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.S)
    assert len(drawings) == 5  # agreement between measures, three measures against transfer, forest; heat maps are tables
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"#(1b1f24|fefefe|6e7781)", drawing)
        assert 'role="img" aria-label="' in drawing
    assert "prefers-color-scheme: dark" in page


def test_a_colour_in_a_name_is_not_rewritten() -> None:
    words = Reader(build_page(content(("fill: #1b1f24", 'id="x"', "url(#a)", "c")))).words
    assert "fill: #1b1f24" in words
    assert 'id="x"' in words
    assert "url(#a)" in words


def test_partial_content_answers_by_similarity_and_has_no_empty_section(full: Content) -> None:
    page = build_page(partial(full))
    reader = Reader(page)
    assert "No transfer was measured, so whether similarity predicts it between these data sets is not known. To find out, give the study" in reader.words
    answers = [html.unescape(text) for text in re.findall(r'<p class="answer">(.*?)</p>', page)]
    assert len(answers) == 2
    first = next(iter(answers))
    assert first.startswith(f"{SCRIPT}: no transfer to it was measured, so similarity is all there is, and that alone does not say which source transfers")
    assert f"Most similar: {IMAGE} by otdd" in first
    assert "No example images." in reader.words
    assert page.count("<svg ") == 1
    assert page.count('<table class="heat"') == 2
    sections = re.findall(r'<section id="(\w+)".*?</h2>(.*?)</section>', page, flags=re.S)
    assert [name for name, _ in sections] == ["answer", "datasets", "similarity", "between", "gaps", "methods"]
    assert all(body.strip() for _, body in sections)
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a" and (attributes.get("href") or "").startswith("#")]
    assert links == ["#answer", "#datasets", "#similarity", "#between", "#gaps", "#methods"]


def test_every_section_of_a_whole_report_is_there(page: str) -> None:
    names = re.findall(r'<section id="(\w+)"', page)
    assert names == ["answer", "datasets", "transfer", "similarity", "agreement", "between", "gaps", "methods", "provenance"]


def test_short_names_of_measures_are_not_wrapped(full: Content) -> None:
    name = "source-imbalance-of-sort"
    assert len(name) == 24
    scores = ScoreTable(tuple(record | {"method": name} for record in full.scores.records if record["method"] == "otdd"))
    assert f'<td class="keep">{name}</td>' in build_page(replace(partial(full), scores=scores, methods=()))
    css = (Path(__file__).parents[1] / "simkit/report/page.css").read_text()
    assert re.search(r"td\.keep \{ white-space: nowrap; \}", css)


def test_groups_are_called_groups(full: Content, page: str) -> None:
    words = Reader(page).words
    assert "; 12 groups" in words
    assert "patient" not in page.lower()
    text = cards_text(full.cards, 140)
    assert " groups " in text
    assert "patient" not in text


def test_empty_scores_make_a_page() -> None:
    empty = Content("empty", (card("a", 0),), ("a",), ("a",), "none", ScoreTable(()))
    words = Reader(build_page(empty)).words
    assert "No measure was computed." in words
    assert "No measure has a value for a." in words


def test_page_of_ten_data_sets_is_small() -> None:
    many = content(tuple(f"data-set-{i}" for i in range(10)), targets=2, methods=10)
    assert len(build_page(many).encode()) < 3_000_000


def test_control_characters_and_wide_scripts_survive() -> None:
    names = ("皮膚病データ", "bell\x07\x1b[31m", "lone\udcff", "$x^2$ & co")
    page = build_page(content(names, targets=1, methods=2))
    page.encode("utf-8")
    words = Reader(page).words
    assert "皮膚病データ" in words
    assert "bell\\x07\\x1b[31m" in words
    assert "lone\\udcff" in words
    assert "$x^2$ & co" in words


def test_a_report_is_replaced_whole_or_not_at_all(full: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full_disk)
    with pytest.raises(ResourceError, match=r"report\.html: no space left to write it"):
        write_page(partial(full), path)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
    write_page(partial(full), path)
    assert path.read_text().startswith("<!doctype html>")


# --- figures


def _svg_words(svg: str) -> str:
    return " ".join(text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text") and (text := "".join(element.itertext())))


def test_names_of_forty_characters_are_whole_in_every_figure(full: Content) -> None:
    for item in figures(full):
        assert item.figure is not None
        if not item.name.startswith(("forest", "measure-agreement")):
            words = _svg_words(svg_text(item.figure)).replace(" ", "")
            assert all(name.replace(" ", "") in words for name in HOSTILE if item.title.find(name) < 0), item.name


def test_no_ink_touches_the_edge_of_a_figure(full: Content, tmp_path: Path) -> None:
    from PIL import Image

    for path in save_figures(full, tmp_path, dpi=60):
        if path.suffix == ".png":
            pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
            border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert (border > 245).all(), path.name


def test_saved_figures_are_pairs_with_the_same_bytes_twice(full: Content, tmp_path: Path) -> None:
    first = save_figures(full, tmp_path / "a", dpi=50)
    second = save_figures(full, tmp_path / "b", dpi=50)
    assert [path.name for path in first[:4]] == ["transfer.svg", "transfer.png", "measures-script-alert-1-script.svg",
                                                  "measures-script-alert-1-script.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert not list((tmp_path / "a").glob(".tmp*"))


def test_a_missing_cell_is_hatched_and_named(full: Content) -> None:
    item = next(item for item in figures(full) if item.name == "measures-script-alert-1-script")
    assert "Hatched: no value (otdd of stl10)." in item.caption
    assert item.figure is not None
    svg = svg_text(item.figure)
    assert "no value" in _svg_words(svg)
    assert "<pattern" in svg


def _heads(item: NamedFigure) -> list[str]:
    assert item.figure is not None
    return [tick.get_text() for tick in item.figure.axes[0].get_xticklabels()]


@pytest.mark.parametrize("name", ["domain-classifier", "source-imbalance", "number-of-classes", "x" * 33, "a-" + "y" * 24, "mean gap of features"])
def test_heads_break_between_words_and_do_not_touch(name: str) -> None:
    rows = tuple({"source": s, "target": "t", "method": m, "value": v, "higher_is_better": False}
                 for m in (name, f"{name}-2") for v, s in enumerate("abc"))
    item = next(item for item in figures(Content("s", (), tuple("abc"), ("t",), "", ScoreTable(rows))) if item.name == "measures-t")
    assert item.figure is not None
    for head, whole in zip(_heads(item), (name, f"{name}-2"), strict=True):
        *lines, direction = head.split("\n")
        assert direction == "lower = closer"
        assert "".join(line if line.endswith("-") else f"{line} " for line in lines).strip() == whole  # every break is behind a hyphen or at a space
    boxes = [tick.get_window_extent() for tick in item.figure.axes[0].get_xticklabels()]
    assert boxes[0].x1 < boxes[1].x0


def _tied(values: dict[str, list[float]]) -> Content:
    rows = tuple({"source": s, "target": "t", "method": m, "value": v, "higher_is_better": False}
                 for m, column in values.items() for s, v in zip("abcd", column, strict=True))
    return Content("s", (), tuple("abcd"), ("t",), "", ScoreTable(rows))


def test_ties_share_the_shade_of_their_average_rank_and_a_constant_measure_has_none() -> None:
    import matplotlib as mpl

    item = next(item for item in figures(_tied({"split": [0, 0, 0, 1], "flat": [1, 1, 1, 1]})) if item.name == "measures-t")
    assert item.figure is not None
    patches = [patch for patch in item.figure.axes[0].patches if isinstance(patch, mpl.patches.Rectangle)]
    cells = {(int(patch.get_x()), int(patch.get_y())): patch.get_facecolor() for patch in patches}
    assert set(cells) == {(0, 0), (0, 1), (0, 2), (0, 3)}  # the column of "flat" is plain
    assert cells[0, 0] == cells[0, 1] == cells[0, 2] == mpl.colormaps["viridis"](0.14 + 0.82 * (4 - 2) / 3)
    assert cells[0, 3] == mpl.colormaps["viridis"](0.14)
    assert "sources of equal value share the mean of their ranks" in item.caption
    assert item.caption.endswith("Not shaded, because the value is the same for every source: flat.")


def test_a_constant_measure_has_no_best_source() -> None:
    text = scores_text(_tied({"split": [0, 0, 0, 1], "flat": [1, 1, 1, 1]}).scores, 100)
    row = next(line for line in text.splitlines() if line.startswith("a "))
    assert row.count("*") == 1


def test_the_floor_is_explained_and_the_flag_shown(full: Content) -> None:
    flag = "not distinguishable from the target"
    rows = tuple(record | {"flags": (flag,) if record["method"] == "frechet" and record["source"] == "isic" else ()} for record in full.scores.records)
    flagged = replace(full, scores=ScoreTable(rows))
    item = next(item for item in figures(flagged) if item.name.startswith("measures-script"))
    assert item.figure is not None
    assert ("The row floor is the value between two halves of the target, so at half its size or less: what is held against it is the mean of a pair over "
            "half-samples") in item.caption
    assert f"≈ marks a source that was found {flag} in this way" in item.caption
    assert re.search(r"\d ≈", _svg_words(svg_text(item.figure)))
    text = re.sub(r"\s+", " ", scores_text(flagged.scores, 100))
    assert "floor: the value between two halves of the target, at half its size or the images a side, whichever is less." in text
    assert f'the flag "{flag}" is what counts' in text
    assert f"(1) {flag}" in text
    assert not any("≈" in other.caption for other in figures(full))


def test_figures_are_named_for_what_they_show_safely_and_once() -> None:
    targets = ("../../etc/passwd", "A/b", "a-b", "a-b-1", "皮膚", "", "é\udcff" + "x" * 300)
    rows = tuple({"source": s, "target": t, "method": f"m{m}", "value": float(v), "higher_is_better": False}
                 for t in targets for m in range(7 if t == "a-b" else 2) for v, s in enumerate("xyz"))
    names = [item.name for item in figures(Content("s", (), tuple("xyz"), targets, "", ScoreTable(rows))) if item.name.startswith("measures")]
    assert names == ["measures-etc-passwd", "measures-A-b", "measures-a-b-1", "measures-a-b-2", "measures-a-b-1-2", "measures-5", "measures-6",
                     "measures-e" + "x" * 39]
    assert len({name.lower() for name in names}) == len(names)
    assert unique(["a", "A", "a", "a-2"]) == ["a", "A-2", "a-3", "a-2-2"]


def test_scatter_plots_are_named_for_their_measure(full: Content) -> None:
    assert [item.name for item in figures(full) if item.name.startswith("scatter")] == ["scatter-frechet", "scatter-otdd", "scatter-logme"]


def test_scatter_plots_for_a_journal_are_split_where_they_would_be_higher_than_a_page() -> None:
    names = tuple("abcdefg")
    many = content(names, targets=7, methods=2)
    wanted: dict[FigureSize, list[int]] = {"page": [7], "double": [4, 3], "single": [2, 2, 2, 1]}
    for size, panels in wanted.items():
        found = [item for item in figures(many, size) if item.name.startswith("scatter")]
        assert [len(item.figure.axes) for item in found if item.figure is not None] == panels
        parts = len(panels)
        one = "otdd" if found[0].name.startswith("scatter-otdd") else "frechet"
        assert [item.name for item in found] == ([f"scatter-{one}"] if parts == 1 else [f"scatter-{one}-{part}" for part in range(1, parts + 1)])
        assert [item.title for item in found] == [f"Similarity against transfer: {one}" + (f" ({part} of {parts})" if parts > 1 else "")
                                                  for part in range(1, parts + 1)]
        titles = [axes.get_title(loc="left").split("\n")[0] for item in found if item.figure is not None for axes in item.figure.axes]
        assert titles == list(names)
        if size != "page":
            assert all(item.figure is not None and cropped(item.figure, 183.0)[0].height * 25.4 < 247 for item in found)
        for item in found:  # every part has the key of its own points
            assert item.figure is not None
            marks = {text.get_text() for axes in item.figure.axes for text in axes.texts}
            assert marks <= {text.get_text() for text in item.figure.texts}


def test_the_caption_of_a_scatter_plot_says_the_direction_and_the_mark_of_copies_apart() -> None:
    captions = {item.name: item.caption for item in figures(leaking(content())) if item.name.startswith("scatter")}
    assert "Right is always more similar: the axis of a distance runs backwards. " in captions["scatter-otdd"]
    assert "Right is always more similar. " in captions["scatter-logme"]
    assert captions["scatter-logme"].endswith(" † marks a pair that copies of images touch.")
    assert not any("†" in item.caption for item in figures(content()) if item.name.startswith("scatter"))


def test_shades_are_explained_only_where_there_are_some() -> None:
    plain = _tied({"flat": [1, 1, 1, 1]})
    shaded = _tied({"split": [0, 0, 0, 1], "flat": [1, 1, 1, 1]})
    for one, said in ((plain, False), (shaded, True)):
        item = next(item for item in figures(one) if item.name == "measures-t")
        assert ("the shade is the rank" in item.caption) is said
        assert item.caption.startswith("Values as each measure defines them; the shade" if said else "Values as each measure defines them. ")


def test_the_head_of_a_page_counts_only_data_sets_that_it_knows(full: Content) -> None:
    assert "; 6 data sets, 4 measures. Features: " in Reader(build_page(full)).words
    assert "data sets," not in Reader(build_page(replace(full, cards=()))).words.split("Features:")[0]


def test_classes_of_a_data_set_are_heads_of_their_rows_in_a_table_with_a_name(page: str, full: Content) -> None:
    tables = re.findall(r'<table class="bars" aria-label="Images of each class">(.*?)</table>', page, flags=re.S)
    assert len(tables) == len(full.cards) + 1  # one more holds the classes that one of them has beyond the first
    names = [html.unescape(name) for table in tables for name in re.findall(r'<tr><th scope="row" class="class">(.*?)</th>', table)]
    assert names == [name for one in full.cards for name, _ in sorted(one.class_counts.items(), key=lambda item: (-item[1], item[0]))]


def test_of_many_targets_only_the_first_scatter_plot_stands_open() -> None:
    page = build_page(content(tuple("abcdefg"), targets=7, methods=4))
    closed = re.findall(r'<details><summary>(Similarity against transfer: \w+)</summary>\s*<figure id="figure-scatter-\w+">\s*<div', page)
    assert len(closed) == page.count('<figure id="figure-scatter-') - 1 > 0
    assert "<summary>Similarity against transfer" not in build_page(content(targets=2))


def test_undefined_measures_are_named_under_the_forest_plot(full: Content) -> None:
    item = figures(full)[-1]
    assert item.caption.endswith("Not drawn because undefined: log-size, source-size.")


def test_the_forest_plot_is_ordered_by_the_primary_statistic_and_prints_the_adjusted_p(full: Content) -> None:
    assert full.correlation is not None
    methods = tuple(replace(one, mean=None if one.mean is None else -one.mean) for one in full.correlation.methods)
    item = figures(replace(full, correlation=replace(full.correlation, methods=methods, statistic="weighted-tau")))[-1]
    assert item.figure is not None
    names = [tick.get_text() for tick in item.figure.axes[0].get_yticklabels()]
    assert names == ["logme", "otdd", "frechet", "static (baseline)", "random (baseline)"]
    words = _svg_words(svg_text(item.figure))
    assert "mean weighted tau correlation with performance, over targets" in words
    assert all(f"{one.mean:+.2f}" in words and f"{one.p_max:.3f}" in words for one in methods if one.mean is not None and one.p_max is not None)


def test_more_than_forty_measures_are_cut_in_the_forest_plot(full: Content) -> None:
    assert full.correlation is not None
    one = full.correlation.methods[0]
    many = tuple(replace(one, method=f"m{i}", mean=i / 100) for i in range(45))
    item = figures(replace(full, correlation=replace(full.correlation, methods=many)))[-1]
    assert "Drawn are the 40 measures with the highest mean; 5 more are not." in item.caption
    assert item.figure is not None
    assert [tick.get_text() for tick in item.figure.axes[0].get_yticklabels()] == [*(f"m{i}" for i in range(44, 4, -1)), "static (baseline)",
                                                                                   "random (baseline)"]


def test_a_figure_without_data_says_why(full: Content) -> None:
    missing = {item.name: item.missing for item in figures(partial(full)) if item.figure is None}
    assert missing == {
        "transfer": "No transfer was measured, so there is no map of it.",
        "scatter": "No target has both similarity and transfer of two sources, so one cannot be held against the other.",
        "forest": "Whether similarity predicts transfer was not computed.",
    }


def test_figures_leave_global_state_alone() -> None:
    code = ("import sys, matplotlib; sys.path.insert(0, 'tests'); from report_content import content; from simkit.report import figures; "
            "before = dict(matplotlib.rcParams); figures(content()); assert dict(matplotlib.rcParams) == before; "
            "assert 'matplotlib.pyplot' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_report_loads_nothing_heavy() -> None:
    code = "import sys, simkit.report; print([m for m in ('matplotlib', 'seaborn', 'pandas', 'jinja2', 'scipy', 'PIL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- text


@pytest.mark.parametrize("width", [40, 80, 140])
def test_text_never_exceeds_its_width(full: Content, width: int) -> None:
    many = content(tuple(f"set-{i}-{LONG}" for i in range(4)), targets=2, methods=25)
    for one in (full, many, partial(full)):
        for text in (summary_text(one, width), ranking_text(one, width), cards_text(one.cards, width), scores_text(one.scores, width, methods=one.methods)):
            assert max(text_width(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize("width", [40, 80, 140])
def test_text_holds_every_number_at_every_width(full: Content, width: int) -> None:
    scores = scores_text(full.scores, width)
    for cell in score_cells(full).values():
        assert number(cell.value) in scores
    ranking = ranking_text(full, width)
    for pair in transfer_cells(full).values():
        assert f"{pair.mean:.3f}" in ranking
    assert full.correlation is not None
    summary = summary_text(full, width)
    assert all(f"{result.mean_spearman:+.2f}" in summary for result in full.correlation.methods if result.mean_spearman is not None)


def test_scores_text_marks_best_unconverged_flags_floor_and_missing(full: Content) -> None:
    text = scores_text(full.scores, 140, methods=full.methods)
    block = text.split("\n\n")[0]
    row = next(line for line in block.splitlines() if line.startswith("stl10"))
    assert "missing" in row
    assert "*!(1)" in row
    assert re.search(r"^floor +4441 +49\.27", block, flags=re.M)
    assert "(1) n < d (240 < 512)" in text
    assert "! the solver did not converge: do not trust the value" in text
    assert "otdd in squared feature units" in text
    assert "(n = 300)" in text


def test_numbers_of_a_column_end_below_each_other(full: Content) -> None:
    block = scores_text(full.scores, 140).split("\n\n")[0]
    ends = {line.index("]") for line in block.splitlines() if "[" in line and not line.startswith("stl10")}
    assert len(ends) == 1


def test_summary_answers_first_and_counts_gaps_last(full: Content) -> None:
    text = summary_text(full, 100)
    order = [text.index(part) for part in ("take \"><img", "Mean AUC of source", "Does similarity predict transfer?", "Gaps")]
    assert order == sorted(order)
    flat = re.sub(r"\s+", " ", text)
    assert f"2 images left out ({SCRIPT} 2)." in flat
    assert "otdd: 1 value could not be computed: only one class has two images" in flat
    assert "2 scores from a solver that did not converge (frechet 2): do not trust them." in flat
    assert "2 replicates of a transfer without a defined AUC" in flat
    assert "undefined for log-size: the score is the same for every source" in flat
    assert text.splitlines()[0].endswith(": 6 sources, 2 targets, baseline scratch")


@pytest.fixture(scope="module")
def crowded() -> Content:
    """A real correlation: four measures with many ties, three constant ones, one that is constant in one target only."""
    rng = np.random.default_rng(0)
    scores, transfers = [], []
    for t in ("t1", "t2"):
        for i, s in enumerate("abcdef"):
            values = {"fine": float(rng.random()), **dict.fromkeys(("tied-a", "tied-b", "tied-c", "tied-d"), i % 2), "flat-a": 1, "flat-b": 1, "flat-c": 1,
                      "half": i if t == "t1" else 2}
            scores += [{"source": s, "target": t, "method": m, "value": float(v), "higher_is_better": False} for m, v in values.items()]
            transfers += [{"source": s, "target": t, "fold": str(r), "value": float(rng.random()), "metric": "auc"} for r in range(2)]
    table, transfer = ScoreTable(tuple(scores)), TransferTable(tuple(transfers))
    found = correlate(table, performance=transfer, permutations=99, bootstraps=20)
    return Content("crowded", (), tuple("abcdef"), ("t1", "t2"), "", table, transfer=transfer, correlation=found)


def test_warnings_of_many_measures_are_one_line(crowded: Content) -> None:
    assert crowded.correlation is not None
    assert sum("are tied in" in line for line in crowded.correlation.warnings) == 4
    lines = agreement_warnings(crowded.correlation)
    assert [line for line in lines if "tied" in line] == [
        'ties: more than 20 % of the source pairs are tied for tied-a, tied-b, tied-c, tied-d (shares in the page\'s table "Within each target")']
    assert [line for line in lines if "undefined" in line] == [
        "undefined in 1 of 2 targets (t2) for half: the score is constant (6 sources)",
        "undefined for flat-a, flat-b, flat-c: the score is constant (6 sources)"]
    words = Reader(build_page(crowded)).words
    assert all(line in words for line in lines)
    assert "lower values count as more similar (column higher_is_better): fine, flat-a, flat-b, flat-c, half, tied-a" in words
    assert re.search(r"tied-a t1 6 40% ", words)  # the share of tied pairs, in the table within each target


def test_a_summary_has_at_most_six_warnings_and_counts_the_rest(crowded: Content) -> None:
    assert crowded.correlation is not None
    found = replace(crowded.correlation, warnings=tuple(f"general warning {i}" for i in range(7)))
    flat = summary_text(replace(crowded, correlation=found), 120)
    assert [line.strip() for line in flat.splitlines() if "general warning" in line] == [f"general warning {i}" for i in range(6)]
    assert "  3 more on the page" in flat.splitlines()
    names = [f"m{i}" for i in range(9)]
    many = replace(crowded.correlation, methods=tuple(replace(crowded.correlation.methods[0], method=name) for name in names),
                   warnings=tuple(f"{name}: more than 20% of the pairs of sources are tied in t1 (40%)" for name in names))
    assert agreement_warnings(many, most=6)[0].startswith("ties: more than 20 % of the source pairs are tied for m0, m1, m2, m3, m4, m5 and 3 more (")


def test_the_terminal_says_what_the_agreement_rests_on(full: Content) -> None:
    assert full.correlation is not None
    one = full.correlation.methods[1]
    flat = re.sub(r"\s+", " ", summary_text(full, 80))
    assert one.method == "frechet"
    assert one.mean is not None
    ends = f"[{one.mean - 0.85:+.2f}, {one.mean + 0.15:+.2f}]"
    assert f"Difference to the static list, 95 % interval: otdd -0.07 [-0.57, +0.43]; frechet {one.versus_static:+.2f} {ends}; logme" in flat
    assert f"frechet {one.mean - 0.21:+.2f} to {one.mean + 0.11:+.2f} ({one.mean - 0.21:+.2f} without target {IMAGE})" in flat
    assert "the best among the first three (Rel@3): otdd 0.951, 0.987; frechet 0.951, 0.987" in flat
    assert "(simulated): 25% for 0.3, 38% for 0.5, 63% for 0.7; 80 % needs 0.84." in flat
    assert f"Noise ceiling, one replicate of the performance against the mean of the others (Spearman): {SCRIPT} 0.91, {IMAGE} 0.91." in flat


def test_the_table_of_agreement_fits_eighty_columns(crowded: Content) -> None:
    lines = agreement_text(crowded, 80).splitlines()
    head = next(line for line in lines if line.startswith("measure"))
    assert head.split() == ["measure", "mean", "Spearman", "[95", "%]", "p", "Holm", "max-T", "above", "regret", "vs"]
    row = next(line for line in lines if line.startswith("fine "))
    assert crowded.correlation is not None
    one = next(result for result in crowded.correlation.methods if result.method == "fine")
    assert row.split()[-6:] == [p_text(one.p_value), p_text(one.p_holm), p_text(one.p_max), f"{one.positive_targets}/2", f"{one.regret:.3f}",
                                f"{one.versus_static:+.2f}"]
    assert not re.search(r"^random.*\d/2", "\n".join(lines), flags=re.M)  # a random source has no sign


def _downloads(page: str) -> dict[str, list[dict[str, str]]]:
    links = {attributes["download"] or "": attributes["href"] or "" for tag, attributes in Reader(page).tags if tag == "a" and "download" in attributes}
    return {name: list(csv.DictReader(io.StringIO(base64.b64decode(address.split(",", 1)[1]).decode()))) for name, address in links.items()
            if name.endswith(".csv")}


def test_the_page_has_adjusted_p_differences_ranges_and_regrets_in_full_precision(crowded: Content) -> None:
    found, page = crowded.correlation, build_page(crowded)
    assert found is not None
    tables, words = _downloads(page), Reader(page).words
    one = next(result for result in found.methods if result.method == "fine")
    row = next(row for row in tables["agreement.csv"] if row["method"] == "fine")
    assert one.versus_static_interval is not None
    numbers = {"mean": one.mean, "p_max": one.p_max, "relative_at_1": one.mean_relative_at_1, "relative_at_3": one.mean_relative_at_3,
               "versus_static_lower": one.versus_static_interval[0], "versus_static_upper": one.versus_static_interval[1]}
    assert {name: float(row[name]) for name in numbers} == numbers
    assert row["statistic"] == "spearman"
    row = next(row for row in tables["agreement-stability.csv"] if row["method"] == "fine")
    span, influence = one.stability.sources, one.stability.most_influential
    assert span is not None
    assert influence is not None
    assert (float(row["sources_low"]), row["sources_low_name"], float(row["sources_high"]), row["sources_high_name"]) == (
        span.low, span.low_name, span.high, span.high_name)
    assert (row["most_influential_kind"], row["most_influential"], float(row["mean_without_it"])) == (influence.kind, influence.name, influence.without)
    assert f"{span.low:+.2f} to {span.high:+.2f}" in words
    assert f"{influence.without:+.2f} without {influence.kind} {influence.name}" in words
    for target in one.targets:
        row = next(row for row in tables["agreement-per-target.csv"] if (row["method"], row["target"]) == ("fine", target.target))
        assert target.static_regret is not None
        assert (float(row["regret"]), float(row["random_regret"]), float(row["static_regret"])) == (
            target.regret, target.random_regret, target.static_regret)
    assert "Power, the chance that one measure of a given true mean Spearman has p <= 0.05 in this table (simulated): " in words
    assert "Noise ceiling, one replicate of the performance against the mean of the others (Spearman): t1 " in words


def test_measures_without_a_mixed_model_for_the_same_reason_share_a_line(crowded: Content) -> None:
    assert crowded.correlation is not None
    fitted = Mixed(0.41, 0.2, 0.0404, 0.1, 0.6, True, True, 12)
    none = Mixed(None, None, None, None, None, False, False, 12, "fewer than 8 sources")
    lines = agreement_notes(replace(crowded.correlation, mixed={"fine": fitted, "flat-a": none, "flat-b": none}))
    assert "fine: mixed model slope +0.41 (standard error 0.20, p about 0.040, normal approximation, source variance at its boundary 0)." in lines
    assert "No mixed model for flat-a, flat-b: fewer than 8 sources" in lines


@pytest.mark.parametrize(("metrics", "short", "full_name"), [
    (("auc", "auc"), "AUC", "AUC"),
    (("auc-ovr-weighted", "auc-ovr-weighted"), "AUC", "AUC (one-vs-rest, prevalence-weighted)"),
    (("auc-ovr-macro", "auc_ovr_macro"), "AUC", "AUC (one-vs-rest, mean over classes)"),
    (("auc", "auc-ovr-weighted"), "AUC", "AUC for t; AUC (one-vs-rest, prevalence-weighted) for u"),
    (("accuracy", "accuracy"), "accuracy", "accuracy"),
])
def test_the_metric_is_named_alike_everywhere(metrics: tuple[str, str], short: str, full_name: str) -> None:
    rows = tuple({"source": s, "target": t, "fold": str(r), "value": 0.6 + i / 10 + r / 50, "metric": m}
                 for t, m in zip("tu", metrics, strict=True) for i, s in enumerate("ab") for r in range(2))
    table = TransferTable(rows)
    ranking = rank_sources(table)
    one = Content("s", (), ("a", "b"), ("t", "u"), "", ScoreTable(()), transfer=table, ranking=ranking, answers={t: answer(t, r) for t, r in ranking.items()})
    words = Reader(build_page(one)).words
    assert (metric_of(one), metric_in_full(one)) == (short, full_name)
    assert f"u: take b (mean {short} 0.7" in words
    assert f"Mean {short} of each source on each target" in words
    assert f"mean {metric_in_full(one, 'u')} over n replicates" in words
    assert f"mean {short} [95 %]" in re.sub(r"\s+", " ", ranking_text(one, 140))
    assert not re.search("ovr|_", words)
    assert f"Mean {full_name} of source (row)" in re.sub(r"\s+", " ", summary_text(one, 140))
    assert f"u: take b (mean {short} 0.7" in re.sub(r"\s+", " ", summary_text(one, 140))


def _measured_by(values: dict[str, tuple[str, dict[str, tuple[float, float]]]]) -> Content:
    """measure -> (kind, source -> (value, half of its interval)); d is not distinguishable from the target by the first measure."""
    rows = tuple({"source": s, "target": "t", "method": m, "value": v, "higher_is_better": kind != "distance", "kind": kind, "lower": v - h if h else None,
                  "upper": v + h if h else None, "flags": ("not distinguishable from the target",) if m == "far" and s == "d" else ()}
                 for m, (kind, column) in values.items() for s, (v, h) in column.items())
    return Content("s", (), tuple("abcd"), ("t",), "", ScoreTable(rows))


def test_without_transfer_every_measure_says_its_order_and_what_it_cannot_tell_apart() -> None:
    found = _measured_by({
        "far": ("distance", {"a": (3.0, 0.5), "b": (9.0, 1.0), "c": (2.5, 0.1), "d": (1.0, 0.2)}),
        "near": ("distance", {"a": (3.0, 0.5), "b": (9.0, 1.0), "c": (2.6, 0.4), "d": (8.0, 0.2)}),
        "high": ("transferability", {"a": (3.0, 0.0), "b": (9.0, 0.0), "c": (2.5, 0.0), "d": (9.0, 0.0)}),
        "same": ("distance", dict.fromkeys("abcd", (1.0, 0.0))),
        "size": ("prior", {"a": (4.0, 0.0), "b": (3.0, 0.0), "c": (2.0, 0.0), "d": (1.0, 0.0)}),
    })
    assert closeness_answer(found, "t") == (
        "t: no transfer to it was measured, so similarity is all there is, and that alone does not say which source transfers best. "
        "Most similar: d by far; c by near (its interval overlaps with that of a). Several sources are equally first by high. "
        "The same for every source: same. Not distinguishable from t itself: d (far).")
    assert [(one.method.name, one.order, one.remark) for one in closeness(found, "t")] == [
        ("far", "d, c, a, b", "not distinguishable from the target: d"),
        ("near", "c, a, d, b", "interval overlaps with that of the first: a"),
        ("high", "b = d, a, c", "no intervals"),
        ("same", "a = b = c = d", "the same for every source: no order; no intervals"),
        ("size", "a, b, c, d", "a property of the source alone; no intervals")]
    words = Reader(build_page(found)).words
    assert re.search("near distance c, a, d, b 2.600 .2.200, 3. interval overlaps with that of the first: a", words)
    flat = re.sub(r"\s+", " ", summary_text(found, 120))
    assert "Most similar: d by far; c by near" in flat
    assert re.search("far d, c, a, b 1 not distinguishable from the target: d", flat)
    links = {attributes["download"]: attributes["href"] or "" for tag, attributes in Reader(build_page(found)).tags if tag == "a" and "download" in attributes}
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(links["closest-t.csv"].split(",", 1)[1]).decode())))
    assert [(row["source"], float(row["value"]), row["rank"]) for row in rows if row["method"] == "far"] == [
        ("d", 1.0, "1"), ("c", 2.5, "2"), ("a", 3.0, "3"), ("b", 9.0, "4")]


def test_a_target_without_transfer_beside_one_with_it_is_answered_by_similarity(full: Content) -> None:
    first, second = full.targets
    rows = tuple(record for record in full.transfer.records if record["target"] == first) if full.transfer else ()
    half = replace(full, transfer=TransferTable(rows), ranking={first: full.ranking[first]}, answers={first: full.answers[first]})
    answers = [html.unescape(text) for text in re.findall(r'<p class="answer">(.*?)</p>', build_page(half))]
    assert answers[0] == full.answers[first]
    assert answers[1].startswith(f"{second}: no transfer to it was measured, so similarity is all there is")
    assert "is not known" not in Reader(build_page(half)).words


def test_summary_of_partial_content_says_what_is_missing(full: Content) -> None:
    bare = replace(partial(full), scores=ScoreTable(()))
    flat = re.sub(r"\s+", " ", summary_text(bare, 80))
    assert "no answer." in flat
    assert "No transfer was measured" in flat
    assert "whether similarity predicts it between these data sets is not known" in flat
    assert "Nothing was left out, and everything asked for was computed." in flat


def test_ranking_text_says_tied_baseline_and_undefined(full: Content) -> None:
    first = ranking_text(full, 100).split("\n\n")[0]
    assert re.search(r"^2= +a-data-set", first, flags=re.M)
    assert "= not distinguishable from the best" in first
    assert re.search(r"^ *- +scratch \(baseline\)", first, flags=re.M)
    assert "busi: 1 replicate undefined: one class only in the test fold" in first


def test_a_target_without_transfer_is_named(full: Content) -> None:
    assert ranking_text(partial(full), 80).count("No transfer to this target was measured, so nothing is ranked.") == 2


def test_means_without_a_ranking_are_ranked_by_the_same_rule() -> None:
    rows = tuple({"source": "a", "target": "t", "fold": str(i), "value": value, "metric": "auc"} for i, value in enumerate((0.7, 0.8, 0.9)))
    one = ({"source": "b", "target": "t", "fold": "1", "value": 0.8, "metric": "auc"},
           {"source": "c", "target": "t", "fold": "0", "value": None, "metric": "auc", "flags": "one class only"})
    bare = Content("s", (), ("a", "b", "c"), ("t",), "", ScoreTable(()), transfer=TransferTable(rows + one))
    cells = transfer_cells(bare)
    half = 4.302653 * 0.1 * (1 / 3 + 1 / 2) ** 0.5  # t(2) = 4.302653, s = 0.1, corrected variance of Nadeau and Bengio
    assert cells["t", "a"].interval == pytest.approx((0.8 - half, 1.0))  # an AUC ends at 1
    assert 0.8 + half > 1
    assert "0.800 [0.407, 1.000] #1" in summary_text(bare, 100)  # not ±: the interval is not even about the mean
    assert cells["t", "b"].interval is None
    assert (cells["t", "a"].rank, cells["t", "b"].rank, cells["t", "c"].rank) == (1, 1, None)
    assert cells["t", "c"].text == "undefined: one class only"
    assert "c: 1 replicate undefined: one class only" in ranking_text(bare, 100)


def test_other_metrics_of_the_runs_change_nothing_but_the_tables_to_download(full: Content) -> None:
    assert full.transfer is not None
    others = tuple({**row, "metric": "log-loss", "value": None, "flags": "not this one"} for row in full.transfer.records)
    more = replace(full, transfer=TransferTable((*full.transfer.records, *others)))
    assert (metric_of(more), metric_in_full(more)) == (metric_of(full), metric_in_full(full)) == ("AUC", "AUC")
    assert transfer_cells(more) == transfer_cells(full)
    assert (summary_text(more, 100), ranking_text(more, 100)) == (summary_text(full, 100), ranking_text(full, 100))
    assert transfer_cells(replace(more, ranking={})) == transfer_cells(replace(full, ranking={}))
    tables, expected = page_tables(more), page_tables(full)
    assert [name for name in tables if tables[name] != expected[name]] == ["transfer"]
    assert more.transfer is not None
    assert tables["transfer"] is not None
    assert more.transfer.to_csv() == tables["transfer"].csv


def test_ranks_follow_the_direction_and_share_ties() -> None:
    rows = tuple({"source": s, "target": "t", "method": m, "value": v, "higher_is_better": m == "up"}
                 for m in ("up", "down") for s, v in (("a", 1.0), ("b", 3.0), ("c", 3.0), ("d", 2.0)))
    cells = score_cells(Content("s", (), (), (), "", ScoreTable(rows)))
    assert [cells["up", "t", s].rank for s in "abcd"] == [4, 1, 1, 3]
    assert [cells["down", "t", s].rank for s in "abcd"] == [1, 3, 3, 2]
    assert [cells["up", "t", s].average_rank for s in "abcd"] == [4, 1.5, 1.5, 3]
    assert [cells["down", "t", s].rank_text for s in "abcd"] == ["1 of 4", "3 to 4 of 4", "3 to 4 of 4", "2 of 4"]
    assert not any(cell.constant for cell in cells.values())


def test_unavailable_everywhere_is_written_out(full: Content) -> None:
    everywhere = replace(full, unavailable=(Unavailable("logme", "", "", "needs a network per source"),))
    words = Reader(build_page(everywhere)).words
    assert re.search("logme *every source *every target *needs a network per source", words)


# --- parts


def test_number_has_four_significant_digits() -> None:
    assert [number(v) for v in (0.912345, 12.3456, 1234.5, 2.0, 0.0, -0.5, 1234567.0, 0.0000123456)] == [
        "0.9123", "12.35", "1234", "2", "0", "-0.5000", "1.235e+06", "1.235e-05"]
    assert [p_text(p) for p in (None, 0.0004, 0.0451)] == ["", "<0.001", "0.045"]


def test_rank_text() -> None:
    def text(rank: int | None, tied: bool = False, baseline: bool = False) -> str:
        return TransferCell("a", "t", 0.5, None, 5, rank=rank, tied=tied, baseline=baseline).rank_text

    assert [text(1, tied=True), text(2, tied=True), text(3), text(None), text(None, baseline=True)] == ["#1=", "#2=", "#3", "", "baseline"]


def test_a_table_too_wide_becomes_a_list_that_loses_nothing() -> None:
    columns = [Column("name"), Column("first number", True), Column("second number", True)]
    rows = [["isic", "123456789012345678", "876543210987654321"]]
    assert table(columns, rows, 80).splitlines()[-1] == "isic  123456789012345678  876543210987654321"
    assert table(columns, rows, 40).splitlines() == ["isic", "  first number: 123456789012345678", "  second number: 876543210987654321"]


def test_wrapping_breaks_long_words_at_joiners_and_counts_wide_characters() -> None:
    assert wrapped("a-data-set-whose-name", 12) == ["a-data-set-", "whose-name"]
    assert wrapped("domain-classifier", 15) == ["domain-", "classifier"]
    assert wrapped("source-imbalance", 15) == ["source-", "imbalance"]
    assert wrapped("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert [longest_piece(text) for text in ("domain-classifier", "a b", "皮膚-病", "")] == [10, 1, 5, 0]
    assert wrapped("皮膚病データ", 4) == ["皮膚", "病デ", "ータ"]
    assert paragraph("one two three " * 5, 40, indent="  ", first="- ").splitlines()[1].startswith("  ")


def test_terminal_escapes_are_shown_not_sent() -> None:
    assert visible("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    text = cards_text((replace(card("x", 0), name="evil\x1b]0;title\x07\nrow"),), 80)
    assert "\x1b" not in text
    assert "evil\\x1b]0;title\\x07\\nrow" in text.replace("\n", "").replace(" ", "") or "evil\\x1b]0;" in text


def test_page_text_of_a_name_is_html_escaped_once(page: str) -> None:
    assert html.escape(SCRIPT) in page
    assert "&amp;lt;" not in page
