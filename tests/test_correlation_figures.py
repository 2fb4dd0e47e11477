"""The figures of `simkit correlate`: one panel a target with intervals, a forest plot of the methods, a map of the performance with ranks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from simkit.correlation import Correlation, correlate, rank_sources
from simkit.errors import ResourceError
from simkit.report import NamedFigure, correlation_figures, save_correlation_figures
from simkit.report.cells import transfer_cells
from simkit.report.correlation_figures import correlation_content
from simkit.report.drawing import svg_text


def frame(sources: int = 6, targets: int = 3, methods: int = 2, *, folds: int = 4, names: list[str] | None = None, own: bool = True) -> pd.DataFrame:
    """A wide table: columns fold_*, m000, m001 ...; targets are the first sources, and pairs with themselves are in where ``own``."""
    rng = np.random.default_rng(7)
    names = names or [f"s{i:02d}" for i in range(sources)]
    rows = []
    for s, source in enumerate(names):
        for target in names[:targets]:
            if source != target or own:
                level = 0.9 - min(0.02, 0.3 / len(names)) * s
                values = {f"fold_{i}": level + rng.normal(0, 0.012) for i in range(folds)} | {f"m{i:03d}": rng.normal() - 0.3 * s * i for i in range(methods)}
                rows.append({"source": source, "target": target, **values})
    return pd.DataFrame(rows)


def found(table: pd.DataFrame, **options: object) -> Correlation:
    methods = [name for name in table.columns if name[0] == "m" and name[1:].isdigit()]
    settings = {"performance": "fold_*", "similarities": methods, "metric": "auc", "permutations": 99, "bootstraps": 40, "seed": 1} | options
    return correlate(table, **settings)  # type: ignore[arg-type]


def by_name(drawn: tuple[NamedFigure, ...]) -> dict[str, NamedFigure]:
    return {item.name: item for item in drawn}


def words(item: NamedFigure) -> list[str]:
    """Every text of a figure, one entry an element; a text of several lines is several."""
    assert item.figure is not None
    return [text for element in ElementTree.fromstring(svg_text(item.figure)).iter() if element.tag.endswith("}text") and (text := "".join(element.itertext()))]


@pytest.fixture(scope="module")
def plain() -> Correlation:
    return found(frame())


def test_three_kinds_of_figures_and_one_panel_a_target(plain: Correlation) -> None:
    drawn = correlation_figures(plain)
    assert [item.name for item in drawn] == [f"scatter-{one.method}" for one in plain.methods] + ["forest", "transfer"]
    for item in drawn[:2]:
        assert item.figure is not None
        assert len(item.figure.axes) == 3
        assert [axes.get_title(loc="left").split("\n")[0] for axes in item.figure.axes] == ["s00", "s01", "s02"]
        for axes, one in zip(item.figure.axes, plain.methods[drawn.index(item)].targets, strict=True):
            ends = "" if one.interval is None else f" [{one.interval[0]:+.2f}, {one.interval[1]:+.2f}]"
            assert axes.get_title(loc="left").split("\n")[1] == f"n = {one.n}, Spearman {one.spearman:+.2f}{ends}"


def test_points_stand_where_the_correlation_saw_them(plain: Correlation) -> None:
    item = by_name(correlation_figures(plain))[f"scatter-{plain.methods[0].method}"]
    assert item.figure is not None
    for axes, one in zip(item.figure.axes, plain.methods[0].targets, strict=True):
        drawn = sorted((float(x), float(y)) for line in axes.lines for x, y in np.transpose(line.get_data()))
        assert np.array(drawn) == pytest.approx(np.array(sorted((score, performance) for _, score, performance in one.points)))


def test_vertical_bars_are_the_intervals_of_rank_sources(plain: Correlation) -> None:
    content = correlation_content(plain)
    assert content.transfer is not None
    ranked = {(row.target, row.source): row for rows in rank_sources(content.transfer).values() for row in rows}
    item = by_name(correlation_figures(plain))["scatter-m000"]
    assert item.figure is not None
    for target, axes in zip(plain.targets, item.figure.axes, strict=True):
        bars = sorted(tuple(segment[:, 1]) for collection in axes.collections for segment in collection.get_segments() if segment[0, 0] == segment[1, 0])
        intervals = sorted(row.interval for key, row in ranked.items() if key[0] == target and row.interval is not None)
        assert np.array(bars) == pytest.approx(np.array(intervals))
    assert "Vertical bars are 95 % intervals that allow for the images that folds share (Nadeau and Bengio 2003)." in item.caption
    assert "Horizontal" not in item.caption


def test_horizontal_bars_are_the_range_of_the_replicates_of_the_score() -> None:
    table = frame(methods=3)
    one = found(table, methods=["otdd=m*"], similarities=(), distances=["otdd"])
    item = by_name(correlation_figures(one))["scatter-otdd"]
    assert "Horizontal bars are from the lowest to the highest replicate of the score. Vertical bars are 95 % intervals" in item.caption
    assert "the axis of a distance runs backwards" in item.caption
    assert item.figure is not None
    rows = table[(table.target == "s00") & (table.source != "s00")][["m000", "m001", "m002"]]
    bars = sorted(tuple(segment[:, 0]) for collection in item.figure.axes[0].collections for segment in collection.get_segments()
                  if segment[0, 1] == segment[1, 1])
    assert np.array(bars) == pytest.approx(np.array(sorted(zip(rows.min(axis=1), rows.max(axis=1), strict=True))))


def test_the_map_has_ranks_and_says_itself(plain: Correlation) -> None:
    item = by_name(correlation_figures(plain))["transfer"]
    texts = words(item)
    assert texts.count("itself") == 3
    assert sum("#1" in text for text in texts) == 3
    best = max((performance, source) for source, _, performance in plain.methods[0].targets[0].points)
    assert f"{best[0]:.3f}  #1" in texts
    assert item.title == "Mean AUC of each source on each target"
    assert item.caption == ("Mean AUC over replicates, 95 % intervals that allow for the images that folds share (Nadeau and Bengio 2003), and rank within "
                            "the target (#1 is best; = is not distinguishable from the best).")


def test_pairs_of_the_same_data_under_two_names_are_itself_too() -> None:
    table = frame(names=["a", "A2", "c", "d", "e", "f"])
    texts = words(by_name(correlation_figures(found(table, alias=[("a", "A2")])))["transfer"])
    assert texts.count("itself") == 5  # a, A2 and c on themselves, a on A2, A2 on a
    assert "no value" not in texts


def test_a_missing_pair_is_hatched_and_named() -> None:
    item = by_name(correlation_figures(found(frame().iloc[1:-1])))["transfer"]
    assert item.caption.endswith("Hatched: no value (s05 -> s02).")
    assert words(item).count("no value") == 1


def test_without_replicates_ranks_are_of_the_means_and_nothing_is_called_tied() -> None:
    drawn = by_name(correlation_figures(found(frame(folds=1))))
    item = drawn["transfer"]
    assert item.title == "AUC of each source on each target"
    assert item.caption == "AUC, and rank within the target (#1 is best). Nothing is known of the noise of these values, so ranks may differ by it alone."
    assert not [text for text in words(item) if text.endswith("=") or text.startswith("[")]
    assert sorted(text.split("#")[1] for text in words(item) if "#" in text) == sorted(3 * ["1", "2", "3", "4", "5"])
    assert "bars are" not in drawn["scatter-m000"].caption


def test_a_known_noise_gives_intervals_and_ties() -> None:
    one = found(frame(folds=1).assign(performance_sd=0.015))
    drawn, data = by_name(correlation_figures(one)), one.data
    assert "Vertical bars are 1.96 standard deviations of the noise (performance_sd) to either side." in drawn["scatter-m000"].caption
    assert data is not None
    value = float(data.performance[1, 0])
    assert f"[{value - 1.96 * 0.015:.3f}, {value + 1.96 * 0.015:.3f}]" in words(drawn["transfer"])
    tied = {source for (target, source), cell in transfer_cells(correlation_content(one)).items() if target == "s00" and cell.tied}
    means = dict(zip(data.sources, data.performance[:, 0], strict=True))
    assert tied == {s for s in data.sources[2:] if means["s01"] - means[s] <= 1.96 * np.hypot(0.015, 0.015)}
    assert tied
    assert len(tied) < 4


def test_only_replicates_that_all_sources_have_are_averaged() -> None:
    rows = [{"source": s, "target": "t", "replicate": str(r), "performance": 0.9 - 0.1 * i - 0.3 * (r == 2), "method": "m", "value": float(i),
             "higher_is_better": False} for i, s in enumerate("abcd") for r in range(3) if not (s == "a" and r == 2)]
    one = correlate(pd.DataFrame(rows), metric="auc", permutations=99, bootstraps=0)
    content = correlation_content(one)
    assert one.data is not None
    assert {source: cell.mean for (_, source), cell in transfer_cells(content).items()} == pytest.approx(
        dict(zip(one.data.sources, one.data.performance[:, 0], strict=True)))
    assert {cell.n for cell in transfer_cells(content).values()} == {2}


def test_the_forest_plot_prints_mean_interval_p_and_adjusted_p(plain: Correlation) -> None:
    item = by_name(correlation_figures(plain))["forest"]
    texts = words(item)
    for one in plain.methods:
        assert one.interval is not None
        assert one.p_max is not None
        assert f"{one.mean:+.2f}  [{one.interval[0]:+.2f}, {one.interval[1]:+.2f}]" in texts
        assert f"{one.p_value:.3f}" in texts
        assert f"{one.p_max:.3f}" in texts
    assert {"static (baseline)", "random (baseline)", "max-T", "mean Spearman correlation with performance, over targets"} <= set(texts)
    assert "source-size (baseline)" not in texts
    assert item.caption.endswith("Not drawn because undefined: source-size.")
    bands = "Pale bands are those for these sources alone, only targets resampled."
    assert (bands in item.caption) == any(one.fixed_sources_interval for one in plain.methods)
    assert bands in by_name(correlation_figures(found(frame(targets=5))))["forest"].caption


def test_baselines_are_diamonds_in_the_forest_plot(plain: Correlation) -> None:
    item = by_name(correlation_figures(plain))["forest"]
    assert item.figure is not None
    diamonds = [float(line.get_xdata()[0]) for line in item.figure.axes[0].lines if line.get_marker() == "D"]
    means = [one.mean for one in plain.baselines if one.mean is not None]
    assert sorted(diamonds) == pytest.approx(sorted(means))
    assert 0.0 in diamonds


@pytest.mark.parametrize(("statistic", "name"), [("kendall", "Kendall"), ("weighted-tau", "weighted tau")])
def test_another_primary_statistic_is_named(statistic: str, name: str) -> None:
    one = found(frame(), statistic=statistic)
    drawn = by_name(correlation_figures(one))
    assert f"mean {name} correlation with performance, over targets" in words(drawn["forest"])
    value = getattr(one.methods[0].targets[0], statistic.replace("-", "_"))
    assert f"n = 5, {name} {value:+.2f}" in words(drawn[f"scatter-{one.methods[0].method}"])
    assert f"{one.methods[0].mean:+.2f}" in " ".join(words(drawn["forest"]))


def test_a_relative_gain_is_drawn_with_its_sign_and_unit() -> None:
    drawn = by_name(correlation_figures(found(frame(), baseline="self")))
    item = drawn["transfer"]
    assert item.title == "Mean gain of AUC over self in % of each source on each target"
    assert sum(text.startswith("-") for text in words(item)) >= 5
    assert all(len(text.split(".")[1].split()[0]) == 2 for text in words(item) if "#" in text)  # values of ten and more have two digits
    assert "gain of AUC over self in %" in words(drawn["scatter-m000"])


def test_a_pattern_is_no_metric() -> None:
    assert by_name(correlation_figures(found(frame(), metric=None)))["transfer"].title == "Mean performance of each source on each target"


def test_one_method_and_one_target() -> None:
    one = found(frame(targets=1, methods=1))
    drawn = correlation_figures(one)
    assert [item.name for item in drawn] == ["scatter-m000", "forest", "transfer"]
    assert drawn[0].figure is not None
    assert len(drawn[0].figure.axes) == 1
    assert drawn[1].caption.endswith("Not drawn because undefined: static, source-size.")


def test_twelve_targets_make_twelve_panels_and_two_maps() -> None:
    one = found(frame(sources=15, targets=12, methods=2), bootstraps=0)
    drawn = by_name(correlation_figures(one))
    assert [name for name in drawn if name.startswith("transfer")] == ["transfer-1", "transfer-2"]
    scatter = drawn["scatter-m000"].figure
    assert scatter is not None
    assert len(scatter.axes) == 12


def test_many_sources_have_one_line_each_and_no_intervals() -> None:
    item = by_name(correlation_figures(found(frame(sources=71, targets=2, methods=1), bootstraps=0)))["transfer"]
    assert item.figure is not None
    assert item.figure.get_size_inches()[1] < 18
    assert item.caption.endswith("Intervals are not printed, because there are more than 40 sources.")
    assert "95 %" not in item.caption
    assert not [text for text in words(item) if text.startswith("[")]


def test_a_thousand_methods_are_cut_to_the_best_in_bounded_time(plain: Correlation) -> None:
    assert plain.data is not None
    names, one = [f"n{i:04d}" for i in range(1000)], plain.methods[0]
    methods = tuple(replace(one, method=name, mean=0.9 - i / 1000) for i, name in enumerate(names))
    many = replace(plain, methods=methods, data=replace(plain.data, scores=dict.fromkeys(names, plain.data.scores[one.method])))
    start = time.perf_counter()
    drawn = correlation_figures(many)
    assert time.perf_counter() - start < 20
    assert [item.name for item in drawn if item.name.startswith("scatter")] == [f"scatter-{name}" for name in names[:4]]
    forest = by_name(drawn)["forest"]
    assert "Drawn are the 40 measures with the highest mean; 960 more are not." in forest.caption
    assert forest.figure is not None
    assert [tick.get_text() for tick in forest.figure.axes[0].get_yticklabels()][:40] == names[:40]
    assert forest.figure.get_size_inches()[1] < 14


def test_undefined_methods_are_named_and_not_plotted() -> None:
    drawn = by_name(correlation_figures(found(frame().assign(m000=1.0, m001=2.0))))
    assert drawn["scatter"].missing == "No measure has a defined rank correlation with transfer."
    assert drawn["forest"].caption.endswith("Not drawn because undefined: m000, m001, source-size.")
    assert drawn["transfer"].figure is not None


def test_a_correlation_without_its_data_says_what_is_missing(plain: Correlation) -> None:
    drawn = by_name(correlation_figures(replace(plain, data=None)))
    assert {name for name, item in drawn.items() if item.figure is None} == {"scatter", "transfer"}
    assert all(item.missing for item in drawn.values() if item.figure is None)


def test_large_scores_say_their_power_of_ten_in_the_name_of_the_axis() -> None:
    table = frame()
    item = by_name(correlation_figures(found(table.assign(m000=table.m000 * 1e7))))["scatter-m000"]
    assert "m000 (higher = better, times 1e7)" in words(item)
    assert "1e7" not in words(item)


ODD = ["<script>alert(1)</script>", "../../etc/passwd", "$x^2$ & co", "a-data-set-whose-name-is-forty-five-chars-lon", "x -> y", "bell\x07é"]


def test_odd_names_are_written_whole_and_files_are_safe(tmp_path: Path) -> None:
    table = frame(names=ODD).rename(columns={"m000": "../otdd $y$", "m001": "../OTDD_$y$"})
    one = found(table, similarities=["../otdd $y$", "../OTDD_$y$"])
    paths = save_correlation_figures(one, tmp_path / "figures", dpi=40)
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    assert len({path.name.lower() for path in paths}) == len(paths) == 9  # four figures, each twice, and the captions
    texts = words(by_name(correlation_figures(one))["transfer"])
    joined = "".join(texts).replace(" ", "")
    assert all(name.replace(" ", "").replace("\x07", "\\x07") in joined for name in ODD)
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_files_are_pairs_with_captions_and_the_same_bytes_twice(plain: Correlation, tmp_path: Path) -> None:
    first, second = (save_correlation_figures(found(frame()), tmp_path / name, dpi=40) for name in "ab")
    names = [f"scatter-{one.method}" for one in plain.methods] + ["forest", "transfer"]
    assert [path.name for path in first] == [f"{name}.{kind}" for name in names for kind in ("svg", "png")] + ["captions.txt"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    captions = first[-1].read_text(encoding="utf-8")
    assert captions.split("\n\n")[-1].startswith("transfer: Mean AUC of each source on each target\nMean AUC over replicates")
    assert all(item.caption in captions for item in correlation_figures(plain))


def test_no_ink_touches_the_edge(tmp_path: Path) -> None:
    from PIL import Image

    for path in save_correlation_figures(found(frame(names=ODD)), tmp_path, dpi=60):
        if path.suffix == ".png":
            pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
            border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert (border > 245).all(), path.name


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(plain: Correlation, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ResourceError, match=r"taken.*(cannot write it|no permission)"):
        save_correlation_figures(plain, tmp_path / "taken")
