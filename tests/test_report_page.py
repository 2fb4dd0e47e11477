"""What the page says beyond numbers: which measures agree, which numbers copies touch, what past transfers speak for, what took how long; sizes of figures."""

from __future__ import annotations

import base64
import csv
import gzip
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from report_content import card, content, leaking
from scipy.stats import spearmanr

from simkit.correlation import recommend
from simkit.errors import UsageError
from simkit.report import Content, MethodInfo, build_page, figures, save_figures
from simkit.report.content import FigureSize
from simkit.report.drawing import FORMATS, svg_text
from simkit.report.heat_maps import measure_maps, transfer_maps
from simkit.report.measure_agreement import consensus, disagreements, measure_agreement, measure_agreement_figure
from simkit.report.page_tables import packed
from simkit.tables import ScoreTable, TransferTable


def measured(values: Mapping[str, Mapping[str, Sequence[float]]], kinds: Mapping[str, str] | None = None) -> Content:
    """target -> measure -> one value for each of the sources a, b, c ...; a measure whose name starts with "up" is better when higher."""
    kind = dict(kinds or {})
    rows = [{"source": s, "target": t, "method": m, "value": float(v), "higher_is_better": m.startswith("up"), "kind": kind.get(m, "distance")}
            for t, own in values.items() for m, column in own.items() for s, v in zip("abcdefgh", column, strict=False)]
    infos = tuple(MethodInfo(name, kind.get(name, "distance"), name.startswith("up")) for name in dict.fromkeys(m for own in values.values() for m in own))
    return Content("s", (), tuple("abcdefgh"), tuple(values), "", ScoreTable(tuple(rows)), infos)


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S))))


def csv_of(page: str, name: str) -> list[dict[str, str]]:
    address = re.search(rf'download="{name}" href="([^"]+)"', page)
    assert address is not None
    data = base64.b64decode(html.unescape(address[1]).split(",", 1)[1])
    return list(csv.DictReader(io.StringIO((gzip.decompress(data) if name.endswith(".gz") else data).decode())))


# --- agreement between measures


def test_agreement_is_the_mean_over_targets_of_spearman_each_in_its_own_direction() -> None:
    rng = np.random.default_rng(0)
    values = {t: {m: rng.normal(size=6).round(1).tolist() for m in ("far", "up", "other")} for t in ("t", "u")}
    found = measure_agreement(measured(values))
    assert found is not None
    place = {name: index for index, name in enumerate(found.measures)}
    for one, two, sign in (("far", "up", -1), ("far", "other", 1), ("up", "other", -1)):
        expected = np.mean([sign * spearmanr(values[t][one], values[t][two]).statistic for t in ("t", "u")])
        assert found.rho[place[one], place[two]] == pytest.approx(expected, abs=1e-12)
        assert found.targets[place[one], place[two]] == 2
        assert found.pairs[place[one], place[two]] == 12
    assert np.array_equal(found.rho, found.rho.T)
    assert np.array_equal(np.diag(found.rho), np.ones(3))


def test_like_measures_stand_together_and_constant_ones_are_named() -> None:
    base = [1.0, 2, 3, 4, 5, 6]
    values: dict[str, dict[str, list[float]]] = {"t": {"a1": base, "z1": [3, 1, 6, 2, 5, 4], "a2": [1, 2, 3, 4, 6, 5], "z2": [3, 1, 6, 2, 4, 5],
                                                "flat": [7] * 6}}
    found = measure_agreement(measured(values))
    assert found is not None
    assert {frozenset(found.measures[:2]), frozenset(found.measures[2:])} == {frozenset({"a1", "a2"}), frozenset({"z1", "z2"})}
    assert found.constant == ("flat",)
    item = measure_agreement_figure(measured(values))
    assert item.caption.endswith("Left out, because the value is the same for every source: flat.")
    assert "mean over targets (1 target, 6 source-target pairs a number)" in item.caption


def test_measures_without_a_common_target_are_hatched_and_said() -> None:
    values = {"t": {"one": [1.0, 2, 3, 4], "two": [2.0, 1, 3, 4]}, "u": {"three": [1.0, 2, 3, 4], "flat": [1.0, 1, 1, 1]}}
    found = measure_agreement(measured(values))
    assert found is not None
    assert found.constant == ("flat",)
    assert np.isnan(found.rho).sum() == 4
    item = measure_agreement_figure(measured(values))
    assert "Hatched: 2 combinations without a target in which both order 3 sources" in item.caption
    page = build_page(measured(values))
    rows = {frozenset((row["method"], row["other_method"])): row for row in csv_of(page, "measure-agreement.csv")}
    assert rows[frozenset(("one", "three"))]["mean_spearman"] == ""
    assert float(rows[frozenset(("one", "two"))]["mean_spearman"]) == pytest.approx(0.8)
    assert "undefined 0 0" in words_of(page)


def test_fewer_than_two_measures_have_no_agreement() -> None:
    alone = measured({"t": {"one": [1.0, 2, 3], "flat": [1.0, 1, 1]}})
    assert measure_agreement(alone) is None
    item = measure_agreement_figure(alone)
    assert (item.figure, item.missing) == (None, "Fewer than two measures put the sources of a target in an order.")
    assert 'id="between"' not in build_page(alone)


@pytest.mark.parametrize(("measures", "numbers"), [(2, True), (12, True), (60, False)])
def test_two_to_sixty_measures_can_be_read(measures: int, numbers: bool) -> None:
    rng = np.random.default_rng(measures)
    item = measure_agreement_figure(measured({"t": {f"m{i:02d}": rng.normal(size=7).tolist() for i in range(measures)}}))
    assert item.figure is not None
    axes = item.figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert (len(texts) == measures**2) is numbers
    assert ("There are too many measures to print the numbers in the cells" in item.caption) is not numbers
    ticks = axes.get_yticklabels()
    assert len(ticks) == measures
    boxes = [tick.get_window_extent() for tick in ticks]
    assert all(above.y0 >= below.y1 - 1.5 for above, below in pairwise(boxes))  # names do not cover each other


def test_consensus_is_the_mean_relative_rank_without_priors_and_constant_measures() -> None:
    values = {"t": {"one": [1.0, 2, 3], "up": [9.0, 1, 5], "two": [2.0, 1, 3], "flat": [1.0, 1, 1], "up-size": [0.0, 0, 9]}}
    (found,) = consensus(measured(values, {"up-size": "prior"}))
    assert found.measures == ("one", "up", "two")
    assert [source for source, _ in found.order] == ["a", "b", "c"]
    assert [place for _, place in found.order] == pytest.approx([(0 + 0 + 0.5) / 3, (0.5 + 1 + 0) / 3, (1 + 0.5 + 1) / 3])
    assert found.firsts == {"a": ("one", "up"), "b": ("two",)}
    assert found.agreed
    assert disagreements([found]) == []


def test_measures_that_disagree_about_the_first_source_are_a_warning() -> None:
    split = measured({"t": {"one": [1.0, 2, 3], "two": [2.0, 1, 3], "three": [3.0, 2, 1]}})
    line = "t: measures disagree about the first source: 3 measures put 3 different ones first, a by the most (1 of 3)."
    assert disagreements(consensus(split)) == [line]
    assert line in words_of(build_page(split))
    many = measured({f"t{i}": {"one": [1.0, 2, 3], "two": [2.0, 1, 3], "three": [3.0, 2, 1]} for i in range(7)})
    assert disagreements(consensus(many)) == [
        "Measures disagree about the first source for 7 of 7 targets: no source is first by more than half of them (t0, t1, t2, t3, t4, t5 and 1 more). "
        "The table of the common order says by how many."]


# --- copies


def test_copies_are_warned_of_at_the_top_marked_in_heat_maps_and_listed() -> None:
    marked = leaking(content(methods=3))
    page, plain = build_page(marked), build_page(replace(marked, leakage=(), scores=content(methods=3).scores, transfer=content(methods=3).transfer))
    words = words_of(page)
    line = "3 of 240 images of <script>alert(1)</script> (1.2 %) have a copy in stl10: 1 exact, 2 near"
    assert line in words
    assert words.index(line) < words.index("take ")
    assert "Copies touch 2 scores and 1 transfer; they are marked † in the heat maps and flagged in the tables." in words
    cells = {cell.text for found in measure_maps(marked) for row in found.cells for cell in row if cell and "†" in cell.text}
    assert len(cells) == 2  # the first measure has no value there
    assert [cell.text for found in transfer_maps(marked) for row in found.cells for cell in row if cell and "†" in cell.text] == ["0.772  #3†\n[0.729, 0.814]"]
    assert "† marks a number that copies of the target's images touch" in words
    (row,) = csv_of(page, "copies.csv")
    assert (row["images_with_a_copy"], row["images"], row["exact"], row["near"]) == ("3", "240", "1", "2")
    assert "leak: 3 of 240 target images have a copy in stl10" in next(row["remark"] for row in csv_of(page, "ranking-script-alert-1-script.csv")
                                                                       if row["source"] == "stl10")
    assert "†" not in words_of(plain)
    assert "opies" not in words_of(plain)
    assert any("†" in text.get_text() for item in figures(marked) if item.name.startswith("scatter") and item.figure for text in item.figure.axes[0].texts)


# --- recommendations and times


def test_a_target_without_transfers_shows_what_past_transfers_speak_for() -> None:
    rng = np.random.default_rng(3)
    scores, transfers = [], []
    for t in ("t0", "t1", "t2", "t3", "new"):
        quality = rng.random(6)
        scores += [{"source": s, "target": t, "method": m, "value": float(q + rng.normal(0, 0.05)), "higher_is_better": True}
                   for m in ("one", "two") for s, q in zip("abcdef", quality, strict=True)]
        transfers += [{"source": s, "target": t, "fold": "0", "value": float(0.5 + q / 3), "metric": "auc"} for s, q in zip("abcdef", quality, strict=True)
                      if t != "new"]
    table, transfer = ScoreTable(tuple(scores)), TransferTable(tuple(transfers))
    found = recommend("new", table, performance=transfer, bootstraps=100)
    one = Content("s", (), tuple("abcdef"), ("t0", "new"), "", table, transfer=transfer, recommendations={"new": found})
    page = build_page(one)
    words = words_of(page)
    assert found.answer in words
    assert all(warning in words for warning in found.warnings)
    assert "new: no transfer to it was measured, so similarity is all there is" in words
    assert "4 past targets lost" in words
    rows = csv_of(page, "recommended-new.csv")
    assert [row["source"] for row in rows] == [candidate.source for candidate in found.candidates]
    assert [float(row["probability_best"]) for row in rows] == [candidate.probability_best for candidate in found.candidates]
    assert "closest-new.csv" in page
    assert "recommended-t0.csv" not in page  # measured: that is the answer


def test_times_are_a_table() -> None:
    bare = measured({"t": {"one": [1.0, 2, 3]}})
    one = replace(bare, work=({"stage": "score", "item": "otdd", "count": 30, "unit": "pairs", "seconds": 12.25},))
    page = build_page(one)
    assert re.search(r"Times: what was computed.* scores otdd 30 pairs 12\.2 ", words_of(page))
    assert csv_of(page, "times.csv") == [{"stage": "score", "item": "otdd", "count": "30", "unit": "pairs", "seconds": "12.25"}]
    assert "Times:" not in words_of(build_page(bare))


def test_tables_alone_make_a_page_without_an_empty_section_of_data_sets() -> None:
    page = build_page(measured({"t": {"one": [1.0, 2, 3]}}))
    assert "#datasets" not in page
    assert 'id="datasets"' not in page
    assert 'href="#datasets"' in build_page(replace(measured({"t": {"one": [1.0, 2, 3]}}), cards=(card("a", 0),)))


def test_a_map_without_shades_has_no_legend() -> None:
    page = build_page(measured({"t": {"one": [1.0], "two": [2.0]}}))
    assert '<table class="heat"' in page
    assert 'class="legend"' not in page
    assert 'class="legend"' in build_page(measured({"t": {"one": [1.0, 2]}}))


# --- sizes


def test_large_files_in_a_page_are_compressed_and_the_largest_are_left_out() -> None:
    rng = np.random.default_rng(0)
    name, address = packed("a.csv", "x" * 1_000_000, "text/csv")
    assert (name, address[:21]) == ("a.csv", "data:text/csv;base64,")
    name, address = packed("a.csv", "x" * 1_000_001, "text/csv")
    assert name == "a.csv.gz"
    assert gzip.decompress(base64.b64decode(address.removeprefix("data:application/gzip;base64,"))) == b"x" * 1_000_001
    assert packed("a.csv", "x" * 1_000_001, "text/csv") == (name, address)
    noise = rng.integers(0, 16, 9_000_000).astype(np.uint8)
    assert packed("a.csv", (noise + 65).tobytes().decode(), "text/csv") == ("a.csv", "")


def test_very_many_sources_and_targets_are_cut_and_it_is_said() -> None:
    sources = [f"s{i:03d}" for i in range(120)]
    targets = [f"t{i:02d}" for i in range(33)]
    rows = tuple({"source": s, "target": t, "method": "far", "value": float(i), "higher_is_better": False} for t in targets for i, s in enumerate(sources))
    page = build_page(Content("s", (), tuple(sources), tuple(targets), "", ScoreTable(rows)))
    words = words_of(page)
    assert "33 targets: tables and heat maps are shown for the first 30; the CSV files and the JSON have all." in words
    assert page.count('<table class="heat"') == 30
    assert "Shown are the 60 sources with the best mean shade, of 120; the CSV has all." in words
    first = page[page.index('<table class="heat"') :]
    names = re.findall(r'<th scope="row">(\w+)</th>', first[: first.index("</table>")])
    assert names == sources[:60]
    assert "(the first 2,000 of 3,960; all are in the CSV)" in words
    assert len(csv_of(page, "scores.csv")) == 3960
    assert "t32: no transfer to it was measured" in words


@pytest.mark.parametrize("size", ["single", "double"])
def test_figures_for_a_journal_have_its_width_or_say_that_they_have_not(size: FigureSize, tmp_path: Path) -> None:
    from PIL import Image

    one = content(("isic", "busi", "stl10", "a-rather-long-name-of-a-set"), targets=1, methods=7)
    paths = save_figures(one, tmp_path, dpi=100, size=size)
    captions = {block.split(":")[0]: block for block in paths[-1].read_text(encoding="utf-8").split("\n\n")}
    assert paths[-1].name == "captions.txt"
    width = {"single": 89, "double": 183}[size]
    wide = []
    for path in paths[:-1]:
        if path.suffix == ".png":
            image = Image.open(path)
            own = image.size[0] / image.info["dpi"][0] * 25.4
        else:
            found = re.search(r'width="([0-9.]+)pt"', path.read_text(encoding="utf-8"))
            assert found is not None
            own = float(found[1]) / 72 * 25.4
        if abs(own - width) > 0.6:
            wide.append(path.stem)
            assert own > width / 0.875
            assert re.search(rf"This figure is \d+ mm wide instead of {width} mm: narrower, its text would be too small\.", captions[path.stem])
    assert set(wide) <= {"measure-agreement"}
    blocks = [name for name in captions if name.startswith("measures-isic")]
    assert len(blocks) == {"single": 4, "double": 2}[size]  # 2 or 5 measures a map


def test_an_unknown_size_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"size: 'poster' is no size of figures\nfix: give one of: page, double, single"):
        save_figures(content(), tmp_path / "figures", size="poster")  # type: ignore[arg-type]
    assert not (tmp_path / "figures").exists()


def test_small_figures_are_laid_out_with_text_of_seven_points_and_more() -> None:
    one = content(("isic", "busi", "stl10", "breast"), targets=1, methods=3)
    sizes_asked: tuple[FigureSize, ...] = ("single", "double")
    for size in sizes_asked:
        form = FORMATS[size]
        for item in figures(one, size):
            assert item.figure is not None
            sizes = [float(found) for found in re.findall(r"font(?:-size)?: ([0-9.]+)px", svg_text(item.figure, width=form.width))]
            assert sizes
            assert min(sizes) >= 7, (item.name, min(sizes))
