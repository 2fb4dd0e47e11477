"""The command line as a user meets it: output, errors in one shape, exit status."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from images import FINETUNE, study_text, write_images

from simkit.cli import entry
from simkit.errors import ResourceError
from simkit.files import check_writable, write_text

HEAVY = ("torch", "torchvision", "ot", "sklearn", "pandas", "matplotlib", "seaborn", "umap", "faiss", "skimage", "scipy")


def run(*arguments: str) -> int:
    return entry([str(a) for a in arguments])


@pytest.mark.parametrize("code", [
    "import simkit.cli", "from simkit.cli import entry; entry(['--help'])", "from simkit.cli import entry; entry(['run', '--help'])",
    "from simkit.cli import entry; entry(['explain', 'SK203'])",
])
def test_nothing_heavy_is_imported_for_help(code: str) -> None:
    check = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_help_needs_no_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", "from simkit.cli import entry; entry(['--help']); import sys; print('numpy' in sys.modules)"],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (("distanse",), 2, "error[SK101] command line: unknown command 'distanse' (did you mean 'distance'?)"),
    (("run", "--dryrun", "x"), 2, "error[SK101] simkit run: No such option"),
    (("run",), 2, "error[SK101] simkit run: Missing argument 'STUDY'"),
    (("run", "nothing.toml"), 2, "the study file does not exist"),
    (("explain", "SK2O3"), 2, "unknown code 'SK2O3' (did you mean 'SK203'?)"),
    (("list", "otd"), 2, "nothing is called 'otd' (did you mean 'otdd'?)"),
    (("embed", "nowhere", "--extractor", "pixels"), 3, "nowhere"),
    (("embed", "x", "--extractor", "pixles"), 2, "unknown extractor 'pixles' (did you mean 'pixels'?)"),
    (("embed", "x", "--extractor", "pixels", "--set", "siz=3"), 2, "pixels.siz: unknown option (did you mean 'size'?)"),
    (("embed", "x", "--extractor", "pixels", "--set", "size"), 2, "'size' is not of the form option=value"),
    (("embed", "x", "--extractor", "pixels", "--set", "size=big"), 2, "'big' is not valid here: expected whole number"),
    (("distance", "a", "--target", "b", "--method", "otdd", "--method", "frechet", "--set", "label_cost=exact"), 2, "does not name one of the methods"),
    (("distance", "a", "--target", "b", "--json", "c"), 2, "'c' does not end in .json: is it an argument of the command?"),
    (("correlate", "x.csv", "--alias", "a"), 2, "'a' is not of the form a=b"),
])
def test_wrong_usage_gives_one_shape_of_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert "\nfix: " in err
    assert "more: simkit explain SK" in err


def test_embed_stores_and_finds_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 5, "b": 4})
    assert run("embed", folder, "--extractor", "pixels", "--set", "size=4", "--json") == 0
    out, err = capsys.readouterr()
    row = json.loads(out)[0]
    assert (row["images"], row["features"], row["embedded"], row["stored"]) == (9, 48, 9, 0)
    assert "9 embedded in" in err
    assert "images/s" in err
    assert run("embed", folder, "--extractor", "pixels", "--set", "size=4", "-q") == 0
    assert capsys.readouterr().out == "demo\n"
    assert run("embed", folder, "--extractor", "pixels", "--set", "size=4") == 0
    assert "all found in the store" in capsys.readouterr().err


def test_an_unreadable_image_is_skipped_named_counted_and_gives_status_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 5, "b": 4})
    victim = folder / "a" / "002.png"
    victim.write_bytes(victim.read_bytes()[:60])
    assert run("embed", folder, "--extractor", "pixels", "--json") == 4
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["skipped"] == 1
    assert "error[SK601] finished, but 1 item was skipped" in err
    assert "002.png" in err
    assert run("embed", folder, "--extractor", "pixels", "--strict") == 3
    assert "002.png" in capsys.readouterr().err


def test_distance_prints_scores_with_n_floor_and_interval(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_text(tmp_path)
    command = ("distance", "near", "far", "--target", "goal", "--method", "frechet", "--method", "otdd", "--extractor", "pixels", "--extractor-set", "size=4")
    assert run(*command, "--out", "scores.csv", "--repeats", "3", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert [(r["source"], r["method"]) for r in rows] == [("near", "frechet"), ("far", "frechet"), ("near", "otdd"), ("far", "otdd")]
    for row in rows:
        assert row["lower"] <= row["value"] <= row["upper"]
        assert row["floor"] > 0
        assert (row["n_source"], row["n_target"]) == (26, 26)
    assert rows[0]["value"] < rows[1]["value"]
    assert rows[2]["value"] < rows[3]["value"]
    assert (tmp_path / "scores.csv").read_text().startswith("source,target,method,value")
    assert run(*command, "--repeats", "3") == 0
    text = capsys.readouterr().out
    assert "frechet" in text
    assert "floor" in text


def test_measures_of_cards_need_no_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simkit.extractors.torchvision.weights_present", lambda url: pytest.fail(f"asked for {url}"))
    study_text(tmp_path)
    assert run("distance", "near", "--target", "goal", "--method", "number-of-classes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["value"] == 0.0


def test_method_all_lists_what_cannot_be_and_why(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_text(tmp_path)
    assert run("distance", "near", "far", "--target", "goal", "--method", "all", "--extractor", "pixels", "--extractor-set", "size=4", "--repeats", "0") == 0
    text = capsys.readouterr().out
    assert "cannot be computed:" in text
    assert "modality" in text
    assert "source-size" in text


def test_two_data_sets_of_one_name_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = "x/same", "y/same"
    for place in (first, second):
        write_images(tmp_path / place, {"a": 4, "b": 4})
    assert run("distance", first, "--target", second, "--extractor", "pixels") == 2
    assert "two data sets are called 'same'" in capsys.readouterr().err
    assert run("embed", first, second, "--extractor", "pixels") == 2
    assert "two data sets are called 'same'" in capsys.readouterr().err


def test_a_plugin_file_beside_the_user_is_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study_text(tmp_path)
    (tmp_path / "mean_gap.py").write_text('''
from dataclasses import dataclass
import numpy as np
from simkit import FeatureEstimator, Score

@dataclass(frozen=True)
class MeanGap(FeatureEstimator):
    """Distance between mean feature vectors, in units of the target's spread."""

    name, kind, symmetric = "mean-gap", "distance", False
    scaled: bool = True

    def compare(self, source, target, rng):
        gap = source.features.mean(0) - target.features.mean(0)
        spread = target.features.std() if self.scaled else 1.0
        return Score(float(np.linalg.norm(gap) / spread))
''')
    command = [sys.executable, "-m", "simkit", "distance", "near", "--target", "goal", "--method", "mean_gap:MeanGap", "--set", "scaled=false",
               "--extractor", "pixels", "--repeats", "0", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [r["method"] for r in json.loads(done.stdout)["scores"]] == ["mean-gap"]


def test_list_shows_everything_and_one_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    text = capsys.readouterr().out
    named = ("folder", "table", "npz", "samples", "pixels", "torchvision", "otdd", "frechet", "domain-classifier", "questionnaire", "ratings", "source-size")
    for name in named:
        assert f"  {name} " in text
    assert run("list", "otdd") == 0
    text = capsys.readouterr().out
    assert "label_cost (one of: gaussian, exact, means, none; default gaussian)" in text
    assert "citation" in text
    assert run("list", "--json") == 0
    assert {row["component"] for row in json.loads(capsys.readouterr().out)} == {"source", "extractor", "method"}


def test_explain_and_schema_and_init(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("explain", "sk203") == 0
    assert "A field of a table" in capsys.readouterr().out
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "simkit study"
    assert run("init") == 0
    assert run("init") == 2
    assert "exists already" in capsys.readouterr().err


def test_store_verify_finds_and_repairs_a_damaged_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 5, "b": 4})
    assert run("embed", folder, "--extractor", "pixels") == 0
    assert run("store", "verify") == 0
    shard = next((tmp_path / "store" / "embeddings").rglob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    capsys.readouterr()
    assert run("embed", folder, "--extractor", "pixels") == 6
    assert shard.name in capsys.readouterr().err
    assert run("store", "verify") == 6
    assert run("store", "verify", "--repair") == 0
    assert run("embed", folder, "--extractor", "pixels") == 0
    assert run("store", "list") == 0
    assert "embeddings" in capsys.readouterr().out
    assert run("store", "prune", "--kind", "embeddings", "--yes") == 0
    assert not (tmp_path / "store" / "embeddings").exists()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    done = subprocess.run(f"{sys.executable} -m simkit schema | head -1", shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{")
    assert done.stderr == ""


def test_ascii_terminals_get_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "simkit", "embed", "nichts-da-ä", "--extractor", "pixels"], capture_output=True, check=False,
                          env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr


def test_a_bug_leaves_a_short_message_and_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.registry.ESTIMATORS.names", lambda: 1 / 0)
    assert run("list") == 1
    err = capsys.readouterr().err
    assert "error[SK999] this is a bug in simkit: ZeroDivisionError" in err
    path = Path(err.split("report it with ")[1].split(";")[0])
    assert "Traceback" in path.read_text()
    path.unlink()


def test_more_than_twenty_problems_go_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = "\n".join(f"no/{i}.png,a" for i in range(30))
    (tmp_path / "many.csv").write_text(f"path,label\n{rows}\n")
    assert run("embed", tmp_path / "many.csv", "--extractor", "pixels") == 3
    err = capsys.readouterr().err
    assert "... and 10 more problems of 30" in err
    path = Path(err.split("all 30 problems: ")[1].strip())
    assert "no/29.png" in path.read_text()
    path.unlink()


def test_run_does_nothing_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(study_text(tmp_path, finetune=FINETUNE))
    assert run("run", tmp_path / "s.toml", "--dry-run") == 0
    plan = capsys.readouterr().out
    assert "26 to do" in plan
    assert "estimate of the work" in plan
    assert not (tmp_path / "results").exists()
    assert run("run", tmp_path / "s.toml") == 0
    out = capsys.readouterr().out
    page = tmp_path / "results" / "small" / "report.html"
    assert f"report: {page}" in out
    first = page.read_bytes()
    for name in ("scores.csv", "transfer.csv", "ranking.csv", "run.json", "config.toml"):
        assert (page.parent / name).stat().st_size > 0
    assert run("run", tmp_path / "s.toml") == 0
    assert "nothing was done twice: embedded 0 images (334 found in the store)" in capsys.readouterr().out
    assert page.read_bytes() == first
    assert run("run", tmp_path / "s.toml", "--dry-run") == 0
    assert "everything is stored" in capsys.readouterr().out
    (tmp_path / "s.toml").write_text(study_text(tmp_path, finetune=FINETUNE).replace("repeats = 3", "repeats = 4"))
    assert run("run", tmp_path / "s.toml") == 2
    assert "another configuration (different: repeats)" in capsys.readouterr().err
    assert run("run", tmp_path / "s.toml", "--overwrite") == 0
    run_json = json.loads((page.parent / "run.json").read_text())
    assert run_json["networks_trained"] == 0
    assert run_json["config"]["repeats"] == 4


def test_entropic_scores_are_flagged_and_unconverged_ones_never_bare(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ("distance", "near", "--target", "goal", "--extractor", "pixels", "--extractor-set", "size=4", "--set", "solver=sinkhorn", "--repeats", "0")
    assert run(*command) == 0
    assert "entropic (epsilon 0.01 of the mean cost)" in " ".join(capsys.readouterr().out.split())
    stopped = (*command, "--set", "passes=1", "--set", "epsilon=0.0001")
    assert run(*stopped) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "!" in out.split("near")[1].split("* best")[0]
    assert "not converged: marginals off by" in out
    assert run(*stopped, "-q") == 0
    assert capsys.readouterr().out.strip().endswith("\tnot converged")
    assert run(*stopped, "--json") == 0
    score = json.loads(capsys.readouterr().out)["scores"][0]
    assert score["converged"] is False
    assert score["flags"].count("not converged") == 1
    assert score["detail"]["iterations"] == 1
    low, high = score["detail"]["exact_between"]
    assert low <= high


def test_sizes_that_no_solver_takes_are_refused_before_an_image_is_embedded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simkit.pipeline.running.embed_dataset", lambda *args, **options: pytest.fail("embedded"))
    command = ("distance", "near", "far", "--target", "goal", "--extractor", "pixels", "--set", "solver=exact", "--set", "exact_up_to=20")
    assert run(*command) == 5
    err = capsys.readouterr().err
    assert "error[SK301] methods: otdd, near -> goal: 26 images, the exact solver takes at most 20 a side (option exact_up_to): " in err
    assert "26 x 26 need 0.0309 MiB and about 0 s" in err
    assert "far -> goal" in err
    assert "solver = sinkhorn" in err


def test_long_work_is_told_on_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.transport.solver.SAY_EVERY", -1.0)
    study_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ("distance", "near", "--target", "goal", "--extractor", "pixels", "--extractor-set", "size=4", "--set", "solver=sinkhorn", "--repeats", "0")
    assert run(*command) == 0
    assert "transport of 26 x 26 points: pass 1, marginals off by" in capsys.readouterr().err
    assert run(*command, "--store", str(tmp_path / "other"), "-q") == 0
    assert capsys.readouterr().err == ""


def test_the_plan_estimates_transport(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(study_text(tmp_path).replace('"frechet", "domain-classifier"', '"otdd", {wasserstein = {solver = "sinkhorn"}}'))
    assert run("run", str(tmp_path / "study.toml"), "--dry-run", "--json") == 0
    steps = {step["item"]: step["seconds"] for step in json.loads(capsys.readouterr().out)["steps"]}
    assert steps["otdd"] > 0
    assert steps["wasserstein"] > 0


def test_values_of_two_solvers_for_one_target_are_flagged(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_text(tmp_path)
    write_images(tmp_path / "large", {"dark": 30, "light": 20}, shift=30)
    monkeypatch.chdir(tmp_path)
    command = ("distance", "near", "large", "--target", "goal", "--extractor", "pixels", "--extractor-set", "size=4", "--repeats", "0", "--size-match", "off",
               "--json")
    assert run(*command, "--set", "exact_up_to=40") == 0
    flags = {row["source"]: row["flags"] for row in json.loads(capsys.readouterr().out)["scores"]}
    assert "other sources of this target were solved by exact: set one solver to rank them together" in flags["large"]
    assert "solved by" not in flags["near"]
    assert run(*command, "--set", "solver=sinkhorn") == 0
    assert all("solved by" not in row["flags"] for row in json.loads(capsys.readouterr().out)["scores"])


def test_sizes_are_matched_and_every_scale_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_text(tmp_path)
    write_images(tmp_path / "large", {"dark": 30, "light": 20}, shift=30)
    monkeypatch.chdir(tmp_path)
    command = ("distance", "near", "large", "--target", "goal", "--extractor", "pixels", "--extractor-set", "size=4", "--repeats", "3", "--method", "frechet",
               "--method", "energy")
    assert run(*command, "--json") == 0
    rows = {(row["source"], row["method"]): row for row in json.loads(capsys.readouterr().out)["scores"]}
    smallest = min(rows["near", "frechet"]["n_source"], rows["near", "frechet"]["n_target"])
    assert {rows[source, "frechet"]["matched"] for source in ("near", "large")} == {smallest}
    assert len(rows["large", "frechet"]["detail"]["draw_values"]) == 5
    assert rows["large", "energy"]["matched"] is None
    assert 0 < rows["large", "energy"]["p"] <= 1
    assert rows["large", "frechet"]["p"] is None
    assert rows["near", "frechet"]["ceiling"] > rows["near", "frechet"]["value"]
    assert run(*command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"images a side {smallest}" in text
    assert "ceiling" in text
    assert re.search(r"\[[^]]+\] p (0\.\d+|<0\.001)", text)
    assert run(*command, "--size-match", "off", "--ceiling", "large", "--json") == 0
    off = {(row["source"], row["method"]): row for row in json.loads(capsys.readouterr().out)["scores"]}
    assert off["near", "frechet"]["matched"] is None
    assert "sample sizes differ by more than half" in off["large", "frechet"]["flags"]
    assert off["near", "frechet"]["ceiling"] == pytest.approx(off["large", "frechet"]["value"], rel=1.0)
    assert off["near", "frechet"]["ceiling"] != rows["near", "frechet"]["ceiling"]


def test_sizes_that_the_data_do_not_have_are_refused_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    study_text(tmp_path)
    monkeypatch.chdir(tmp_path)
    command = ("distance", "near", "far", "--target", "goal", "--extractor", "pixels", "--extractor-set", "size=4", "--method", "frechet")
    assert run(*command, "--size-match", "5000") == 2
    said = capsys.readouterr().err
    assert "5000 images a side are more than there are" in said
    assert "'goal' has" in said
    assert "embedded" not in said
    for wrong, message in ((("--size-match", "half"), "'half' is not a number of images"), (("--ceiling", "nowhere"), "'nowhere' is not one of the data sets")):
        assert run(*command, *wrong) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("list",), ("explain", "SK203"), ("--help",), ("list", "otdd", "--json")])
def test_output_on_a_full_disk_is_a_matter_of_resources(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "simkit", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        silent = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert (done.returncode, silent.returncode) == (5, 5)
    assert done.stderr.startswith("error[SK301] output: it cannot be printed (ENOSPC: No space left on device)\nfix: free some space")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_error_of_the_system_elsewhere_is_still_a_bug(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("simkit.cli.cli.main", broken)
    assert run("list") == 1
    assert "error[SK999] this is a bug in simkit: OSError" in capsys.readouterr().err


def test_a_closed_output_is_no_bug() -> None:
    done = subprocess.run(["sh", "-c", '"$0" -m simkit explain SK203 >&-', sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_symbolic_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    real, link, ahead = tmp_path / "there" / "real.csv", tmp_path / "link.csv", tmp_path / "ahead.csv"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    ahead.symlink_to("new/file.csv")
    for path in (link, ahead):
        check_writable(path)
        write_text(path, "new")
        assert path.is_symlink()
    assert real.read_text() == (tmp_path / "new" / "file.csv").read_text() == "new"
    assert [one.name for one in real.parent.iterdir()] == ["real.csv"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for action in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(ResourceError, match=r"error\[SK301\] .*loop: cannot write it \(ELOOP: the symbolic link leads back to itself\)"):
            action(loop)


def test_what_is_no_regular_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/null")):
        for action in (check_writable, lambda path: write_text(path, "")):
            with pytest.raises(ResourceError, match=r"error\[SK301\] .*: cannot write it: it is no regular file .*\nfix: name a new file or a regular one"):
                action(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(ResourceError, match=r"cannot write it \(EISDIR: is a folder, a file is wanted\)"):
        write_text(tmp_path, "")


def test_the_answers_to_bad_tables_name_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    for code, words in (("SK203", ("--allow-missing", "--decimal", "in percent")), ("SK204", ("--aggregate mean", "replicate", "'method'")),
                        ("SK209", ("--alias A=B", "--allow-missing", "--baseline self"))):
        assert run("explain", code) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert all(word in out for word in words)
