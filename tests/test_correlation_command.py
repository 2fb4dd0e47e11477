"""`simkit correlate` as a user meets it: the printed page, the files, the options."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from simkit.cli import entry

EXAMPLES = Path(__file__).parent.parent / "examples"
BOTH = ("--permutations", "99", "--bootstraps", "100")


def correlate(*arguments: str) -> int:
    return entry(["correlate", *map(str, arguments)])


def example(*arguments: str) -> int:
    return correlate(str(EXAMPLES / "scores.csv"), "--performance", str(EXAMPLES / "transfer.csv"), "--allow-missing", *arguments)


@pytest.mark.shared
def test_the_seed_study_is_printed_as_it_is(shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not depend on random numbers stands there to the digit; values computed independently with pandas and scipy."""
    monkeypatch.setenv("COLUMNS", "200")
    table = shared / "reference/cats-scans/aucs_scores_distances_experts.csv"
    assert correlate(str(table), "--replicates", "fold_*", "--methods", "task2vec=distance_*,expert=expert_distance", "--distance", "task2vec,expert",
                     "--include-self", "--pooled") == 0
    out = capsys.readouterr().out
    assert out.startswith("No method is distinguishable from chance with 9 sources and 3 targets (power ")
    title = out.splitlines()[2]
    assert title.startswith("24 pairs, 9 sources, 3 targets; 3 self pairs left out; ")
    assert title.endswith("; seed 0")
    rows = {line.split()[0]: line.split() for line in out.split("* baseline:")[0].splitlines()[5:] if line}
    assert rows["task2vec"][1:3] == ["2/3", "+0.25"]
    assert rows["expert"][1:3] == ["1/3", "-0.16"]
    assert rows["static*"][1:3] == ["2/3", "+0.35"]
    assert (rows["task2vec"][-1], rows["expert"][-1]) == ("-0.10", "-0.51")
    assert (rows["expert"][-2], rows["static*"][-2], rows["random*"][-2]) == ("0.059", "0.000", "0.043")
    assert rows["source-size*"][2] == "undefined"
    per_target = out.split("Spearman per target")[1]
    assert re.search(r"chest \(7\) +isic \(7\) +pcam-middle \(7\)", per_target)
    assert re.search(r"task2vec +-0\.11 +\+0\.29 +\+0\.58", per_target)
    assert re.search(r"expert +-0\.78 +\+0\.42 +-0\.12", per_target)
    assert "as they stand; of a distance, negative is as hoped: task2vec -0.46 (21 pairs, with self pairs -0.21)" in out
    assert "pooled r of value and performance as they stand, task2vec: r = +0.3365, p = 0.1358 (21 pairs, self pairs left out)" in out
    assert "noise ceiling, one replicate of the performance against the mean of the others: chest 0.94, isic 0.77, pcam-middle 0.99" in out
    assert "warning: task2vec: pooled over targets r = +0.34, within targets r = -0.46 (Simpson's paradox)" in out
    assert "|Spearman| must exceed 0.75" in out
    assert "No method is distinguishable from chance with 9 sources and 3 targets" in out


def test_out_writes_methods_and_targets_and_json_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("--out", str(tmp_path / "new" / "o.csv"), "--json", str(tmp_path / "o.json"), *BOTH) == 0
    said = capsys.readouterr().err
    assert f"wrote 7 rows to {tmp_path / 'new' / 'o.csv'}" in said
    methods = list(csv.DictReader((tmp_path / "new" / "o.csv").open()))
    targets = list(csv.DictReader((tmp_path / "new" / "o-targets.csv").open()))
    whole = json.loads((tmp_path / "o.json").read_text())
    assert [row["method"] for row in methods][-3:] == ["static", "source-size", "random"]
    assert len(targets) == 7 * 5
    for row, one in zip(methods, whole["methods"], strict=False):
        assert (row["method"], float(row["mean"]), float(row["p_max"])) == (one["method"], one["mean"], one["p_max"])
        assert float(row["lower"]) == one["interval"][0]
    assert float(targets[0]["kendall"]) == whole["methods"][0]["targets"][0]["kendall"]
    assert {"seed", "permutations", "bootstraps", "versions", "notes", "warnings", "power", "resolution"} <= set(whole)
    assert whole["methods"][0]["higher_is_better"] is False
    assert "data" not in whole


def test_json_on_stdout_is_only_json_and_q_prints_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("--json", *BOTH) == 0
    assert json.loads(capsys.readouterr().out)["n_pairs"] == 45
    assert example("-q", *BOTH) == 0
    assert set(capsys.readouterr().out.split()) == {"otdd", "frechet", "expert", "domain-classifier"}


def test_plot_draws_scatter_forest_and_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example("--plot", str(tmp_path / "figures"), *BOTH) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"forest.svg", "forest.png", "transfer.svg", "transfer.png", "scatter-otdd.svg", "scatter-otdd.png"} <= names
    assert "drew 6 figures, each as SVG and PNG" in capsys.readouterr().err


@pytest.mark.parametrize("width", ["60", "100", "200"])
def test_details_are_printed_when_few_or_asked_for(width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for arguments, there in (((), False), (("--details",), True), (("--no-details",), False)):
        assert example(*arguments, *BOTH) == 0
        out = capsys.readouterr().out
        assert ("Taking the first source" in out) is there
        assert max(map(len, out.splitlines())) <= int(width)
        assert "histology-small" in out


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (("--replicates", "fold_*"), 2, "both say where the performance is"),
    (("--baseline", "self"), 3, "5 of 5 targets have no row whose source is the target itself, the baseline"),
    (("--baseline", "scratch"), 3, "'scratch', the baseline"),
    (("--statistic", "pearson"), 2, "'pearson' is not one of 'spearman', 'kendall', 'weighted-tau'"),
    (("--permutations", "5"), 2, "5 is not in the range"),
    (("--methods", "otdd,otd"), 2, "'otd' is not a method of"),
    (("--out", "."), 5, "cannot write it (EISDIR: is a folder, a file is wanted)"),
    (("--json", "/proc/nowhere/x.json"), 5, "/proc/nowhere/x.json"),
    (("--plot", "/proc/nowhere"), 5, "/proc/nowhere"),
])
def test_wrong_options_are_answered_before_the_work(arguments: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert example(*arguments) == status
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert "fix: " in said.err


def test_a_target_without_transfers_is_listed_unless_missing_pairs_are_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert correlate(str(EXAMPLES / "scores.csv"), "--performance", str(EXAMPLES / "transfer.csv")) == 3
    said = capsys.readouterr().err
    assert "10 of 55 pairs have no performance in" in said
    assert "targets that are not there: 'ultrasound'" in said
    assert "--allow-missing" in said


def test_nothing_defined_is_printed_and_has_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flat.csv"
    path.write_text("source,target,auc,far\n" + "".join(f"{s},{t},0.5,{i}\n" for t in "tu" for i, s in enumerate("abcd")))
    assert correlate(str(path), "--distance", "far", *BOTH) == 7
    said = capsys.readouterr()
    assert "No method has a defined correlation with 4 sources and 2 targets" in said.out
    assert "error[SK502] " in said.err
    assert "far: t: the performance is constant (4 sources)" in said.err


def test_the_rows_of_a_metric_are_picked_and_an_unknown_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, transfers = tmp_path / "scores.csv", tmp_path / "transfer.csv"
    scores.write_text("source,target,far\n" + "".join(f"s{i},t,{i}\n" for i in range(4)))
    transfers.write_text("source,target,fold,seed,metric,value,leaky\n" + "".join(
        f"s{i},t,{fold},0,{metric},{value},{int(i == 3)}\n" for i in range(4) for fold in (1, 2)
        for metric, value in (("auc", 0.9 - i / 10), ("balanced-accuracy", 0.5 + i / 10))))
    wanted = (str(scores), "--performance", str(transfers), "--distance", "far", *BOTH)
    assert correlate(*wanted, "--json", str(tmp_path / "o.json")) == 0
    assert "2 of 8 runs are leaky" in capsys.readouterr().out
    assert json.loads((tmp_path / "o.json").read_text())["metric"] == "auc"
    assert correlate(*wanted, "--metric", "balanced-accuracy", "--json", str(tmp_path / "o.json")) == 0
    assert json.loads((tmp_path / "o.json").read_text())["metric"] == "balanced-accuracy"
    capsys.readouterr()
    assert correlate(*wanted, "--metric", "acu") == 2
    assert re.search(r"error\[SK101\] metric: no row of .*transfer.csv is of the metric 'acu' \(did you mean 'auc'\?\)", capsys.readouterr().err)
