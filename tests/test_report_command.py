"""`simkit report`: the page of a study from the store alone, and of tables without a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from images import FINETUNE, study_text, write_images

import simkit
from simkit.cli import entry
from simkit.errors import DataError, UsageError
from simkit.pipeline.reporting import report_study, report_tables
from simkit.tables import RawTable, ScoreTable, is_score_table, read_scores

EXAMPLES = Path(__file__).parents[1] / "examples"


def study(folder: Path, **parts: str) -> Path:
    path = folder / "study.toml"
    path.write_text(study_text(folder, **parts))
    return path


def test_a_finished_study_gives_the_same_bytes_again(tmp_path: Path) -> None:
    path = study(tmp_path, finetune=FINETUNE)
    first = simkit.run(path)
    page, run = first.page.read_bytes(), json.loads((first.out / "run.json").read_text())
    figures = {one.name: one.read_bytes() for one in (first.out / "figures").iterdir()}
    for one in (first.out / "figures").iterdir():
        one.unlink()
    first.page.unlink()
    again = report_study(path)
    assert again.page.read_bytes() == page
    assert {one.name: one.read_bytes() for one in (first.out / "figures").iterdir()} == figures
    assert again.done_line.startswith("nothing was done twice")
    assert json.loads((first.out / "run.json").read_text())["work"] == run["work"]
    assert {(row["stage"], row["count"]) for row in run["work"]} >= {("embed", 26), ("finetune", 8)}
    assert all(row["seconds"] >= 0 for row in run["work"])


def test_the_folder_of_a_run_is_enough(tmp_path: Path) -> None:
    first = simkit.run(study(tmp_path))
    (tmp_path / "study.toml").unlink()
    made = report_study(first.out, thumbnails=False)
    assert made.page == first.page
    assert made.content.thumbnails == {}
    assert b"data:image/webp" not in made.page.read_bytes()
    assert made.scores.records == first.scores.records


def test_what_is_left_of_a_study_is_said_and_not_done(tmp_path: Path) -> None:
    path = study(tmp_path, finetune=FINETUNE)
    with pytest.raises(UsageError, match=r"SK111.*small: the study is not finished: embed near: 26 of 26 images; .* and \d+ more\n?.*simkit run"):
        report_study(path)
    simkit.embed(tmp_path / "near", extractor={"pixels": {"size": 4}})
    with pytest.raises(UsageError, match=r"not finished: embed far: 26 of 26 images"):
        report_study(path)


def test_times_add_up_over_runs_of_one_configuration(tmp_path: Path) -> None:
    path = study(tmp_path)
    first = simkit.run(path)
    rows = {(row["stage"], row["item"]): row for row in first.content.work}
    assert rows["embed", "goal"]["count"] == 26
    grown = simkit.run(study(tmp_path, finetune=FINETUNE), overwrite=True)  # another configuration: its folder starts anew
    assert {row["stage"] for row in grown.content.work} == {"finetune"}


def test_tables_of_simkit_give_a_page_with_predictions(tmp_path: Path) -> None:
    made = report_tables(EXAMPLES / "scores.csv", performance=EXAMPLES / "transfer.csv", out=tmp_path / "page", permutations=99, bootstraps=100)
    assert made.content.correlation is not None
    assert made.content.targets[-1] == "ultrasound"
    assert set(made.content.recommendations) == {"ultrasound"}
    assert made.content.answers["ultrasound"].endswith("(predicted from scores: no transfer to ultrasound was measured).")
    assert made.content.answers["skin"].startswith("skin: take imagenet")
    assert {info.name for info in made.content.methods} == {"otdd", "frechet", "domain-classifier", "expert"}
    assert next(info for info in made.content.methods if info.name == "otdd").citation.startswith("Alvarez-Melis")
    text = made.page.read_text()
    assert "predicted from scores" in text
    assert (tmp_path / "page" / "figures" / "transfer.svg").is_file()
    again = report_tables(EXAMPLES / "scores.csv", performance=EXAMPLES / "transfer.csv", out=tmp_path / "again", permutations=99, bootstraps=100)
    assert again.page.read_bytes() == made.page.read_bytes()


def test_scores_alone_and_a_wide_table(tmp_path: Path) -> None:
    alone = report_tables(EXAMPLES / "scores.csv", out=tmp_path / "alone", methods=("otdd",))
    assert alone.content.correlation is None
    assert {record["method"] for record in alone.content.scores.records} == {"otdd"}
    assert "No transfer was measured" in alone.page.read_text()
    rows = [(s, t, i + j, round(0.6 + 0.03 * i + 0.01 * j, 3)) for j, t in enumerate("xy") for i, s in enumerate(("a", "b", "c", "d"))]
    (tmp_path / "wide.csv").write_text("source,target,mine,auc\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    wide = report_tables(tmp_path / "wide.csv", out=tmp_path / "wide", similarities=("mine",), permutations=99, bootstraps=100)
    assert wide.content.correlation is not None
    assert wide.content.correlation.methods[0].mean == pytest.approx(1.0)
    assert wide.content.answers["x"].startswith("x: no source stands out; the highest mean is that of d")
    with pytest.raises(UsageError, match=r"'otd' is no measure of the table \(did you mean 'otdd'\?\)"):
        report_tables(EXAMPLES / "scores.csv", out=tmp_path / "alone", methods=("otd",))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["report", str(EXAMPLES / "scores.csv"), "--out", str(tmp_path / "out"), "-q"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'report.html'}\n"
    for arguments, status, words in (
        (["report", "nothing.toml"], 2, "nothing.toml: does not exist"),
        (["report", str(tmp_path)], 2, "is no folder of a run: it has no config.toml"),
        (["report", str(EXAMPLES / "quickstart.toml"), "--metric", "auc"], 2, "--metric: is an option of tables"),
        (["report", str(EXAMPLES / "scores.csv"), "--store", str(tmp_path)], 2, "--store: is an option of studies"),
        (["report", str(EXAMPLES / "transfer.csv"), "--out", str(tmp_path / "bad")], 2, "error[SK"),
    ):
        assert entry(arguments) == status
        assert words in capsys.readouterr().err
    assert not (tmp_path / "bad" / "report.html").exists()


def test_a_written_score_table_is_read_back(tmp_path: Path) -> None:
    table = ScoreTable((
        {"source": "=a", "target": "t", "method": "otdd", "value": 1.5, "higher_is_better": False, "kind": "distance", "lower": 1.0, "upper": None,
         "floor": 0.5,
         "ceiling": None, "p": 0.01, "matched": 12,
         "n_source": 5, "n_target": 6, "skipped_source": 0, "skipped_target": 1, "converged": True, "flags": "x; y",
         "extractor": "abc"},
        {"source": "b", "target": "t", "method": "logme", "value": -2.0, "higher_is_better": True, "converged": None},
    ))
    table.to_csv(tmp_path / "s.csv")
    back = read_scores(tmp_path / "s.csv")
    assert [{k: v for k, v in r.items() if v not in (None, "")} for r in back.records] == [{k: v for k, v in r.items() if v is not None} for r in table.records]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("True", "maybe", r"s.csv:2 \(column 'higher_is_better'\): 'maybe' is neither true nor false"),
    ("1.5", "much", r"s.csv:2 \(column 'value'\): 'much' is not a number"),
    ("higher_is_better", "better", r"column 'higher_is_better' is missing"),
    ("p\n", "q\n", r"column 'q' is none of a score table"),
])
def test_wrong_score_tables_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = "source,target,method,value,higher_is_better,p\na,t,otdd,1.5,True,0.5\n"
    (tmp_path / "s.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / "s.csv")


def test_a_table_with_other_columns_is_no_score_table() -> None:
    columns = [*ScoreTable.REQUIRED, "source_size"]
    assert is_score_table(RawTable.of_records([{"source": "a"}], columns, name="t"))
    assert not is_score_table(RawTable.of_records([{"source": "a"}], [*columns, "auc"], name="t"))


def test_files_of_the_user_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    (tmp_path / "figures" / "measures-old.svg").write_text("mine too")
    report_tables(EXAMPLES / "scores.csv", out=tmp_path, methods=("otdd", "frechet"))
    assert (tmp_path / "figures" / "measure-agreement.svg").is_file()
    report_tables(EXAMPLES / "scores.csv", out=tmp_path, methods=("otdd",))  # one measure: no agreement, and its figure goes
    assert not (tmp_path / "figures" / "measure-agreement.svg").exists()
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"
    assert (tmp_path / "figures" / "measures-old.svg").read_text() == "mine too"
    (tmp_path / "report.html").write_text("<html>my own</html>")
    with pytest.raises(UsageError, match=r"report.html is no page of simkit's|is no page of simkit's, and would be replaced"):
        report_tables(EXAMPLES / "scores.csv", out=tmp_path)
    assert (tmp_path / "report.html").read_text() == "<html>my own</html>"


def test_the_folder_of_a_run_knows_all_of_its_study(tmp_path: Path) -> None:
    text = study_text(tmp_path, extra='projection = "pca:3"\nstore = "own-store"').replace('["frechet", "domain-classifier", "source-size"]', '"all"')
    (tmp_path / "study.toml").write_text(text)
    first = simkit.run(tmp_path / "study.toml", thumbnails=False)
    assert (tmp_path / "own-store").is_dir()
    again = report_study(first.out)
    assert again.scores.records == first.scores.records
    assert again.content.thumbnails == {}  # as the run before
    assert report_study(first.out, thumbnails=True).content.thumbnails != {}
    (tmp_path / "study.toml").write_text(text.replace("pca:3", "pca:2"))
    with pytest.raises(UsageError, match=r"another configuration \(different: projection\)\n?.*run the changed study first"):
        report_study(tmp_path / "study.toml")


def test_pairs_without_a_partner_are_an_error_unless_allowed(tmp_path: Path) -> None:
    renamed = (EXAMPLES / "transfer.csv").read_text().replace("bones,", "bonesx,")
    (tmp_path / "transfer.csv").write_text(renamed)
    with pytest.raises(DataError, match=r"SK209.*bones.*"):
        report_tables(EXAMPLES / "scores.csv", performance=tmp_path / "transfer.csv", out=tmp_path / "out", permutations=99, bootstraps=100)
    assert not (tmp_path / "out" / "report.html").exists()


def test_too_few_sources_for_statistics_still_give_a_page(tmp_path: Path) -> None:
    scores = "source,target,method,value,higher_is_better\n" + "".join(f"{s},{t},otdd,{v},False\n" for t in "xy" for s, v in (("a", 1.0), ("b", 2.0)))
    transfers = "source,target,fold,metric,value\n" + "".join(
        f"{s},{t},{f},auc,{v + f / 100}\n" for t in "xy" for s, v in (("a", 0.8), ("b", 0.7)) for f in (1, 2, 3))
    (tmp_path / "s.csv").write_text(scores)
    (tmp_path / "t.csv").write_text(transfers)
    made = report_tables(tmp_path / "s.csv", performance=tmp_path / "t.csv", out=tmp_path / "out")
    assert made.content.correlation is None
    assert made.content.answers["x"].startswith("x: take a")
    assert [item.method for item in made.content.unavailable] == ["correlation"]
    assert "fewer than 3 sources" in made.page.read_text()


def test_measures_of_different_sources_have_no_common_order(tmp_path: Path) -> None:
    rows = [f"{s},t,{m},{i}.5,False\n" for m, sources in (("m1", "ab"), ("m2", "cd")) for i, s in enumerate(sources)]
    (tmp_path / "s.csv").write_text("source,target,method,value,higher_is_better\n" + "".join(rows))
    assert report_tables(tmp_path / "s.csv", out=tmp_path / "out").page.is_file()


def test_scores_that_are_undefined_leave_nothing_to_do(tmp_path: Path) -> None:
    """cross-learning has no value where two data sets have no class in common."""
    (tmp_path / "study.toml").write_text(study_text(tmp_path).replace('"source-size"]', '"cross-learning"]'))
    (tmp_path / "far").rename(tmp_path / "other")
    write_images(tmp_path / "far", {"x": 14, "y": 12}, shift=60)
    first = simkit.run(tmp_path / "study.toml")
    assert [(item.method, item.source) for item in first.content.unavailable] == [("cross-learning", "far")]
    again = report_study(tmp_path / "study.toml")
    assert again.page.read_bytes() == first.page.read_bytes()
