"""Networks of sources from end to end: in a study file, on the command line, from the runner's pretrainings; what is refused, and what is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from images import FINETUNE, study_text, write_images
from torchvision.models import get_model

import simkit
from simkit.cli import entry
from simkit.errors import DataError, IntegrityError, NotEnoughData, SimkitError, UsageError
from simkit.pipeline import networks
from simkit.study import network_of, read_study, study_from

TINY = "squeezenet1_1"


def weights(path: Path, classes: int = 2, seed: int = 0) -> Path:
    """A tiny network with a head, which has seen nothing: what matters here is whose numbers come out."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_model(TINY, weights=None, num_classes=classes)
    torch.save(model.state_dict(), path)
    return path


def network_study(folder: Path, *, methods: str = '["logme", "leep", "knn"]', entries: str = "", finetune: str = "", sources: str = "") -> Path:
    for number, name in enumerate(("near", "far", "other")):
        if not (folder / f"{name}.pth").exists():
            weights(folder / f"{name}.pth", 2, number)
    text = study_text(folder, finetune=finetune, extra=sources).replace('["frechet", "domain-classifier", "source-size"]', methods)
    path = folder / "s.toml"
    path.write_text(text + entries)
    return path


ENTRIES = """
[networks.near]
checkpoint = {network = "squeezenet1_1", path = "near.pth", image_size = 32}
[networks.far]
checkpoint = {network = "squeezenet1_1", path = "far.pth", image_size = 32}
[networks.other]
checkpoint = {network = "squeezenet1_1", path = "other.pth", image_size = 32}
images = 5000
"""


# --- the study file ------------------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_arrays(tmp_path: Path) -> None:
    """Each pair's score is what simkit.transferability says of the features and outputs of that source's network on the target."""
    path = network_study(tmp_path, entries=ENTRIES)
    results = simkit.run(path, out=tmp_path / "out")
    rows = {(r["source"], r["method"]): r for r in results.scores.records}
    assert {source for source, _ in rows} == {"near", "far", "other"}
    target = simkit.load(tmp_path / "goal")
    for source in ("near", "other"):
        classifier = read_study(path).networks[source].extractor.classifier()
        session = classifier.session("cpu")
        made = session.features([session.prepare(target.read(i)) for i in range(len(target))])
        probabilities = networks.softmax(made[:, -2:])
        for method, given in (("logme", None), ("leep", probabilities), ("knn", None)):
            assert rows[source, method]["value"] == pytest.approx(simkit.transferability(method, made[:, :-2], target.labels, given).value, rel=1e-5)
    assert rows["other", "logme"]["n_source"] is None
    assert rows["near", "logme"]["n_source"] == 26
    assert len({row["extractor"] for row in results.scores.records}) == 3, "each source has its own features"
    assert all(row["floor"] is not None for row in results.scores.records)
    assert all(row["lower"] is not None for row in results.scores.records if row["method"] == "logme")


def test_one_forward_pass_serves_all_measures_and_is_never_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    launch = networks.Classifier.session
    monkeypatch.setattr(networks.Classifier, "session", lambda self, device: made.append(1) or launch(self, device))
    path = network_study(tmp_path, entries=ENTRIES)
    simkit.run(path, out=tmp_path / "out")
    assert len(made) == 3, "three networks, one target, three measures"
    assert "nothing was done twice" in simkit.run(path, out=tmp_path / "out").done_line
    path = network_study(tmp_path, entries=ENTRIES, methods='["logme", "hscore", "transrate"]')
    again = simkit.run(path, out=tmp_path / "more")
    assert len(made) == 3, "other measures of the same networks need no other pass"
    assert (again.scores_made, again.scores_found) == (6, 3)


def test_the_plan_names_the_networks_and_what_is_stored(tmp_path: Path) -> None:
    path = network_study(tmp_path, entries=ENTRIES)
    before = simkit.plan(read_study(path)).text()
    assert "see by near ([networks] checkpoint)" in before
    assert "26 to do" in before
    simkit.run(path, out=tmp_path / "out")
    assert "everything is stored" in simkit.plan(read_study(path)).text()


def test_with_one_shared_extractor_the_plan_refuses_with_the_reason(tmp_path: Path) -> None:
    said = (r"logme needs the network that was trained on each source; with one shared extractor it is the same number for every source"
            r"(?s:.*)\[networks\](?s:.*)head = knn")
    with pytest.raises(UsageError, match=said):
        simkit.plan(read_study(network_study(tmp_path, methods='["logme"]')))
    made = simkit.plan(read_study(network_study(tmp_path, methods='["all"]')))
    assert any(one.method == "logme" and "the same number for every source" in one.reason for one in made.impossible)


def test_a_source_without_a_network_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    entries = ENTRIES.split("[networks.far]")[0]
    results = simkit.run(network_study(tmp_path, entries=entries, methods='["logme"]'), out=tmp_path / "out")
    assert [row["source"] for row in results.scores.records] == ["near"]
    assert results.incomplete == ("logme far -> goal: logme needs the network that was trained on far, and none is given",)


def test_a_target_that_is_a_source_only_because_none_was_named_is_listed_and_no_failure(tmp_path: Path) -> None:
    path = network_study(tmp_path, entries=ENTRIES, methods='["logme"]', sources="")
    path.write_text(path.read_text().replace('targets = ["goal"]', 'targets = ["goal", "near"]'))
    results = simkit.run(path, out=tmp_path / "out")
    assert any(one.source == "goal" and one.implied for one in results.content.unavailable)
    assert results.incomplete == ()
    path.write_text(path.read_text().replace("repeats = 3", 'repeats = 3\nsources = ["goal", "far"]'))
    assert any("goal -> near" in line for line in simkit.run(path, out=tmp_path / "named").incomplete)


def test_the_bridge_needs_no_network(tmp_path: Path) -> None:
    results = simkit.run(network_study(tmp_path, methods='[{leep = {head = "knn"}}, {nce = {head = "logistic"}}]'), out=tmp_path / "out")
    assert {(row["source"], row["method"]) for row in results.scores.records} == {(s, m) for s in ("near", "far") for m in ("leep", "nce")}
    near, goal = (simkit.embed(tmp_path / name, extractor={"pixels": {"size": 4}}) for name in ("near", "goal"))
    value = next(row["value"] for row in results.scores.records if (row["source"], row["method"]) == ("near", "leep"))
    assert value == simkit.compare("leep", near, goal, head="knn").value


def test_baselines_stand_in_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "past.csv").write_text("source,target,performance\nnear,x,0.9\nfar,x,0.7\nother,x,0.8\nnear,y,0.8\nfar,y,0.7\nother,y,0.9\n")
    methods = '["logme", "source-size", "source-classes", {random = {seed = 1}}, {static = {path = "past.csv", value = "performance"}}]'
    results = simkit.run(network_study(tmp_path, entries=ENTRIES, methods=methods), out=tmp_path / "out")
    rows = {(row["source"], row["method"]): row["value"] for row in results.scores.records}
    assert len(rows) == 15
    assert rows["other", "source-size"] == pytest.approx(np.log10(5000))
    assert rows["other", "source-classes"] == pytest.approx(np.log10(2))
    assert rows["near", "static"] == rows["other", "static"] > rows["far", "static"]


def test_a_source_of_unknown_size_is_said_to_be(tmp_path: Path) -> None:
    results = simkit.run(network_study(tmp_path, entries=ENTRIES.replace("images = 5000", ""), methods='["source-size"]'), out=tmp_path / "out")
    assert [row["source"] for row in results.scores.records] == ["near", "far"]
    assert any("the number of training images of 'other' is not known" in line for line in results.incomplete)


def test_the_config_that_is_written_makes_the_same_study(tmp_path: Path) -> None:
    path = network_study(tmp_path, entries=ENTRIES)
    results = simkit.run(path, out=tmp_path / "out")
    again = read_study(tmp_path / "out" / "config.toml")
    assert again.networks["other"].images == 5000
    assert "nothing was done twice" in simkit.run(again, out=tmp_path / "again").done_line
    provenance = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(provenance["networks"]) == {"near", "far", "other"}
    assert len(results.scores.records) == 9


# --- what is refused -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entry", "said"), [
    ("[networks.near]\npixels = {size = 4}\n", r"networks.near: 'pixels' is no network with a classification layer"),
    ("[networks.near]\nimages = 5\n", r"networks.near: names 0 networks, wanted one"),
    ('[networks]\nnear = {random = {network = "resnet18"}, checkpoint = {}}\n', r"networks.near: names 2 networks, wanted one"),
    ('[networks.near]\nrandom = {network = "resnet18"}\nimages = "many"\n', r"networks.near.images: 'many' is not a number of images"),
    ('[networks.near]\nchekpoint = {network = "resnet18"}\n', r"networks.near.*chekpoint.*checkpoint"),
    ('[networks.near]\nrandom = {netwrk = "resnet18"}\n', r"networks.near.*netwrk"),
])
def test_the_table_of_networks_is_checked(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_study(network_study(tmp_path, entries=entry))


@pytest.mark.parametrize(("entry", "error", "said"), [
    ('path = "near.pth", network = "resnet18"', IntegrityError, r"near.pth: does not fit resnet18(?s:.*)squeezenet1_1"),
    ('path = "none.pth", network = "squeezenet1_1"', SimkitError, r"none.pth: the weights file does not exist"),
    ('path = "near.pth", network = "squeezenet1_1", layer = "stage9"', UsageError, r"SqueezeNet has no module 'stage9'"),
    ('path = "three.pth", network = "squeezenet1_1"', DataError,
     r"networks.near: the head of its network has 3 outputs, the source has 2 classes(?s:.*)name the entry after what the network was trained on"),
])
def test_networks_that_do_not_fit_are_refused_before_any_work(tmp_path: Path, entry: str, error: type[SimkitError], said: str) -> None:
    weights(tmp_path / "three.pth", 3)
    path = network_study(tmp_path, entries=f"[networks.near]\ncheckpoint = {{{entry}}}\n")
    with pytest.raises(error, match=said):
        simkit.run(path, out=tmp_path / "out")
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_weights_without_a_head_give_the_measures_of_features(tmp_path: Path) -> None:
    path = network_study(tmp_path, entries=ENTRIES)
    state = torch.load(tmp_path / "near.pth", weights_only=True)
    torch.save({key: value for key, value in state.items() if not key.startswith("classifier.")}, tmp_path / "near.pth")
    results = simkit.run(path, out=tmp_path / "out")
    have = {(row["source"], row["method"]) for row in results.scores.records}
    assert ("near", "logme") in have
    assert ("near", "leep") not in have
    assert results.incomplete == ("leep near -> goal: leep needs the probabilities of the network's head, and the weights of near hold none",)


def test_an_unlabelled_target_and_one_of_single_images_are_refused(tmp_path: Path) -> None:
    path = network_study(tmp_path, entries=ENTRIES)
    write_images(tmp_path / "goal2", {"a": 9, "b": 1})
    text = path.read_text().replace('{path = "goal"}', '{path = "goal2"}')
    path.write_text(text)
    with pytest.raises(NotEnoughData, match=r"logme, leep, knn needs at least two images of each class; goal has one of 'b'\nfix: add images"):
        simkit.plan(read_study(path))
    (tmp_path / "bare").mkdir()
    for file in (tmp_path / "goal" / "dark").iterdir():
        file.rename(tmp_path / "bare" / file.name)
    path.write_text(text.replace('{path = "goal2"}', '{path = "bare", labels = false}'))
    with pytest.raises(NotEnoughData, match=r"logme, leep, knn needs labels, goal has none"):
        simkit.plan(read_study(path))


# --- the runner's networks -------------------------------------------------------------------------------------------------------------------


def test_the_pretrained_networks_of_the_runner_are_looked_through(tmp_path: Path) -> None:
    """Pretrained first, looked through, and taken up by the fine-tuning: no network is trained twice."""
    said: list[str] = []

    class Progress(simkit.pipeline.Progress):
        def say(self, line: str) -> None:
            said.append(line)

    path = network_study(tmp_path, finetune=FINETUNE, methods='["logme", "leep"]')
    results = simkit.run(path, out=tmp_path / "out", progress=Progress())
    rows = {(row["source"], row["method"]): row["value"] for row in results.scores.records}
    assert set(rows) == {(s, m) for s in ("near", "far") for m in ("logme", "leep")}
    assert sum(line.startswith("pretraining on near") for line in said) == 1
    assert results.transfer is not None
    assert results.transfer.made == 6, "three sources (scratch, near, far) of two folds; the pretrainings were made before"
    again = simkit.run(path, out=tmp_path / "out")
    assert "nothing was done twice" in again.done_line
    assert {(row["source"], row["method"]): row["value"] for row in again.scores.records} == rows


def test_the_runner_s_network_gives_what_its_training_sees(tmp_path: Path) -> None:
    """Features of a pretrained network: the same input as the fine-tuning's, up to the rounding of two ways to resize."""
    from simkit.pipeline.planning import plan
    from simkit.transfer import run_units
    from simkit.transfer.images import decode, listing, network_input

    made = plan(read_study(network_study(tmp_path, finetune=FINETUNE, methods='["logme"]')), probe=False)
    assert made.transfer is not None
    run_units(made.transfer.only_pretrainings)
    network = made.networks["near"]
    goal = made.readable["goal"]
    one = listing(goal)
    session = network.classifier.session("cpu")
    mine = session.features([session.prepare(goal.read(int(i))) for i in one.order])
    model = network.classifier.model
    with torch.inference_mode():
        theirs = model(network_input(decode(one, 32), torch.device("cpu"))).numpy()
    np.testing.assert_allclose(mine[:, -2:], theirs, atol=0.02 * np.abs(theirs).max())
    assert network.head(made.store) == (2, ("dark", "light"))


def test_shared_images_of_source_and_target_are_flagged(tmp_path: Path) -> None:
    path = network_study(tmp_path, finetune=FINETUNE, methods='["logme"]')
    for i in range(3):
        (tmp_path / "near" / "dark" / f"shared{i}.png").write_bytes((tmp_path / "goal" / "dark" / f"{i:03d}.png").read_bytes())
    results = simkit.run(path, out=tmp_path / "out")
    flags = {row["source"]: row["flags"] for row in results.scores.records}
    assert "leaky: the source's network has seen 3 images" in flags["near"]
    assert "leaky" not in flags["far"]


# --- the command line ------------------------------------------------------------------------------------------------------------------------


def test_distance_takes_networks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "goal", {"dark": 14, "light": 12})
    birds = f"birds={TINY}:{weights(tmp_path / 'b.pth', 7)}"
    asked = ("distance", "--target", str(tmp_path / "goal"), "--method", "logme", "--method", "leep", "--repeats", "3", "--json")
    assert entry([*asked, "--network", birds, "--network", f"untrained={TINY}:random", "--network-set", "image_size=32"]) == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert {(row["source"], row["method"]) for row in rows} == {(s, m) for s in ("birds", "untrained") for m in ("logme", "leep")}
    assert rows[0]["detail"]["d"] == 512


def test_names_of_a_study_s_networks_are_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = network_study(tmp_path, entries=ENTRIES)
    assert entry(["distance", "other", "near", "--study", str(path), "--target", "goal", "--method", "logme", "--repeats", "0", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert [line.split("\t")[0] for line in out.strip().splitlines()] == ["near", "other"]


@pytest.mark.parametrize(("arguments", "said"), [
    (("--network", "resnet18"), "is not of the form NAME=ARCHITECTURE[:WEIGHTS]"),
    (("--network", "a=squeezenet1_1:random", "--network", "a=resnet18:random"), "'a' is given twice"),
    (("--network-set", "image_size=32"), "no --network is given"),
    ((), "no source is named"),
    (("--network", f"a={TINY}:random", "--method", "otdd"), "the sources are networks (a), and"),
    (("--network", "a=squeezenet9:random"), "unknown network 'squeezenet9'"),
    (("--network", "a=resnet18:IMAGENET1K_V9"), "has no weights 'IMAGENET1K_V9'"),
])
def test_wrong_networks_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    write_images(tmp_path / "goal", {"dark": 6, "light": 6})
    method = () if "--method" in arguments else ("--method", "logme")
    assert entry(["distance", "--target", str(tmp_path / "goal"), *method, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_networks_in_short() -> None:
    assert network_of("a=resnet18").extractor.weights == "imagenet"
    assert network_of("a=resnet18:IMAGENET1K_V1").extractor.weights == "IMAGENET1K_V1"
    assert network_of("a=timm:resnet18.a1_in1k").extractor.model == "resnet18.a1_in1k"
    assert network_of("a=timm:resnet18:a1_in1k").extractor.model == "resnet18.a1_in1k"
    assert network_of("a=timm:resnet18:w.pth").extractor.network == "timm:resnet18"
    assert network_of("a=resnet18:random", {"image_size": 64}).extractor.image_size == 64


def test_the_schema_knows_networks(tmp_path: Path) -> None:
    import tomllib

    import jsonschema

    from simkit.study import json_schema

    jsonschema.validate(tomllib.loads(network_study(tmp_path, entries=ENTRIES).read_text()), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(network_study(tmp_path, entries=ENTRIES.replace("images = 5000", 'images = "x"')).read_text()), json_schema())


def test_a_study_in_a_dict_may_have_networks(tmp_path: Path) -> None:
    content = {"targets": ["goal"], "datasets": {"goal": {"folder": {"path": "goal"}}}, "methods": ["logme"],
               "networks": {"untrained": {"random": {"network": TINY, "image_size": 32}}, "same": "random"}}
    made = study_from(content, base=tmp_path)
    assert list(made.networks) == ["untrained", "same"]
    assert networks.network_names(made) == ("untrained", "same")


# --- gradients and task embeddings ---------------------------------------------------------------------------------------------------------


def test_gradients_are_taken_once_a_pair_and_serve_both_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.extractors import triplet_gradients

    made = []
    real = triplet_gradients.gradient_norms
    monkeypatch.setattr(triplet_gradients, "gradient_norms", lambda *a, **k: made.append(1) or real(*a, **k))
    path = network_study(tmp_path, entries=ENTRIES, methods='["lp", "fu", "lp-fu"]')
    results = simkit.run(path, out=tmp_path / "out")
    assert len(made) == 3
    rows = {(row["source"], row["method"]): row for row in results.scores.records}
    assert len(rows) == 9
    parts = {name: np.array([rows[source, name]["value"] for source in ("near", "far", "other")]) for name in ("lp", "fu")}
    relative = [(values - values.min()) / (values.max() - values.min()) for values in parts.values()]
    np.testing.assert_allclose([rows[source, "lp-fu"]["value"] for source in ("near", "far", "other")], relative[0] * relative[1], atol=1e-12)
    assert rows["near", "fu"]["floor"] is None
    assert "the gradients are those of the whole target" in rows["near", "fu"]["flags"]
    simkit.run(path, out=tmp_path / "out")
    assert len(made) == 3


def test_a_network_without_convolutions_has_no_gradients_and_the_others_have(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    entries = ENTRIES + '[networks.mixer]\nrandom = {network = "timm:mixer_s32_224"}\n'
    results = simkit.run(network_study(tmp_path, entries=entries, methods='["fu", "knn"]'), out=tmp_path / "out")
    have = {(row["source"], row["method"]) for row in results.scores.records}
    assert {("near", "fu"), ("mixer", "knn")} <= have
    assert ("mixer", "fu") not in have
    assert any(line.startswith("fu mixer -> goal: fu needs gradients of the network of 'mixer': ") for line in results.incomplete)


TASK = '[{task2vec = {network = "squeezenet1_1", checkpoint = "near.pth", image_size = 32}}]'


def test_task_embeddings_are_made_once_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.extractors import fisher

    made = []
    real = fisher.task_fisher
    monkeypatch.setattr(fisher, "task_fisher", lambda *a, **k: made.append(1) or real(*a, **k))
    path = network_study(tmp_path, methods=TASK)
    assert "embed tasks by task2vec" in simkit.plan(read_study(path)).text()
    results = simkit.run(path, out=tmp_path / "out")
    assert len(made) == 3, "near, far and goal"
    rows = {row["source"]: row for row in results.scores.records}
    assert set(rows) == {"near", "far"}
    assert all(row["floor"] is not None and 0 <= row["value"] <= 1 for row in rows.values())
    assert "nothing was done twice" in simkit.run(path, out=tmp_path / "out").done_line
    again = simkit.run(network_study(tmp_path, methods=TASK.replace("image_size", 'distance = "cosine", image_size')), out=tmp_path / "cosine")
    assert len(made) == 3, "another distance is of the same embeddings"
    assert {row["source"]: row["value"] for row in again.scores.records} != {source: row["value"] for source, row in rows.items()}


def test_a_damaged_task_embedding_is_made_again(tmp_path: Path) -> None:
    path = network_study(tmp_path, methods=TASK)
    store = tmp_path / "store"
    first = simkit.run(path, out=tmp_path / "out", store=store).scores.records
    assert entry(["store", "verify", "--store", str(store)]) == 0
    for file in (store / "task").rglob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 0x55
        file.write_bytes(bytes(data))
    assert entry(["store", "verify", "--store", str(store)]) == 6
    for file in (store / "score").rglob("*.json"):
        file.unlink()
    assert simkit.run(path, out=tmp_path / "out", store=store).scores.records == first


def test_a_probe_that_is_not_there_is_refused_or_with_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("simkit.networks.host_error", lambda url: OSError("no internet"))
    with pytest.raises(SimkitError, match=r"the weights are not on this machine and cannot be downloaded \(no internet\)"):
        simkit.plan(read_study(network_study(tmp_path, methods='["task2vec"]')))
    made = simkit.plan(read_study(network_study(tmp_path, methods='["all", "task2vec"]')))
    assert any(one.method == "task2vec" and "no internet" in one.reason for one in made.impossible)
    assert "task2vec" not in {method.name for method in made.methods}


# --- keys, plans, wrong input ------------------------------------------------------------------------------------------------------------------


def test_what_is_stated_of_a_source_is_part_of_the_recipe(tmp_path: Path) -> None:
    for images in (5000, 50):
        path = network_study(tmp_path, entries=ENTRIES.replace("5000", str(images)), methods='["source-size"]')
        rows = {row["source"]: row["value"] for row in simkit.run(path, out=tmp_path / f"out{images}").scores.records}
        assert rows["other"] == pytest.approx(np.log10(images))


@pytest.mark.parametrize(("name", "methods"), [
    ("simkit.pipeline.transferability.GRADIENTS_VERSION", '["fu"]'), ("simkit.pipeline.tasks.TASK_VERSION", TASK),
])
def test_raised_versions_make_scores_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, methods: str) -> None:
    path = network_study(tmp_path, entries=ENTRIES, methods=methods)
    assert simkit.run(path, out=tmp_path / "out").scores_found == 0
    monkeypatch.setattr(name, 99)
    assert simkit.run(path, out=tmp_path / "out").scores_found == 0


def test_a_truncated_task_embedding_is_made_again(tmp_path: Path) -> None:
    path, store = network_study(tmp_path, methods=TASK), tmp_path / "store"
    first = simkit.run(path, out=tmp_path / "out", store=store).scores.records
    for file in (store / "task").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:40])
    for file in (store / "score").rglob("*.json"):
        file.unlink()
    assert simkit.run(path, out=tmp_path / "out", store=store).scores.records == first


def test_only_sources_of_pairs_are_pretrained_for_measures(tmp_path: Path) -> None:
    path = network_study(tmp_path, finetune=FINETUNE, methods='["logme"]')
    made = simkit.plan(read_study(path))
    assert made.transfer is not None
    assert {unit.source for unit in made.transfer.pretrainings} == {"near", "far"}
    steps = {(step.stage, step.item): (step.total, step.stored) for step in made.steps}
    assert steps["pretrain", "networks of sources"] == (2, 0)
    simkit.finetune(path)
    steps = {(step.stage, step.item): (step.total, step.stored) for step in simkit.plan(read_study(path)).steps}
    assert steps["pretrain", "networks of sources"] == (2, 2)


def test_a_diverged_pretraining_is_told_with_its_reason_and_the_plan_agrees_with_the_run(tmp_path: Path) -> None:
    finetune = FINETUNE.replace("pretrain_epochs = 1", 'pretrain_epochs = 1\nlearning_rate = 1e12\naugmentation = "none"')
    path = network_study(tmp_path, finetune=finetune, methods='["logme", "frechet"]')
    results = simkit.run(path, out=tmp_path / "out")
    lines = [line for line in results.incomplete if line.startswith("logme")]
    assert lines
    assert {row["method"] for row in results.scores.records} == {"frechet"}
    lost = [line for line in lines if "has no result: " in line]
    assert all("loss is nan" in line for line in lost)
    assert all("NaN or infinite" in line for line in lines if line not in lost)
    steps = {(step.stage, step.item): (step.total, step.stored) for step in simkit.plan(read_study(path)).steps}
    assert steps["score", "logme"] == (2 - len(lost), 0)


def test_a_network_of_one_channel_has_gradients(tmp_path: Path) -> None:
    finetune = FINETUNE.replace("image_size = 32", "image_size = 32\nchannels = 1")
    results = simkit.run(network_study(tmp_path, finetune=finetune, methods='["fu", "logme"]'), out=tmp_path / "out")
    assert {(row["source"], row["method"]) for row in results.scores.records} == {(s, m) for s in ("near", "far") for m in ("fu", "logme")}


def test_a_misspelt_network_is_named_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "goal", {"dark": 6, "light": 6})
    assert entry(["distance", "--target", str(tmp_path / "goal"), "--method", "logme", "--network", "a=resnet81"]) == 2
    assert "unknown network 'resnet81' (did you mean" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"networks.near.image: unknown key \(did you mean 'images'\?\)"):
        read_study(network_study(tmp_path, entries='[networks.near]\nrandom = {network = "resnet18"}\nimage = 3\n'))


def test_options_of_a_common_space_are_refused_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "goal", {"dark": 6, "light": 6})
    asked = ["distance", "--target", str(tmp_path / "goal"), "--method", "logme", "--network", f"a={TINY}:random"]
    for more in (["--extractor-set", "layer=nope"], ["--projection", "pca:2"], ["--extractor", "pixels"]):
        assert entry([*asked, *more]) == 2
        assert "--network-set" in capsys.readouterr().err


def test_the_page_says_what_made_the_features(tmp_path: Path) -> None:
    results = simkit.run(network_study(tmp_path, entries=ENTRIES), out=tmp_path / "out")
    assert results.content.extractor.startswith("near seen by [networks] checkpoint (network = squeezenet1_1, weights = ")
    assert "pixels" not in results.content.extractor
    assert results.content.sources == ("near", "far", "other")
    assert "looked at 78 images through networks of sources" in results.done_line
    assert json.loads((tmp_path / "out" / "run.json").read_text())["looked_at"] == 78


def test_a_source_with_scores_and_no_transfer_is_told_to_be_left_out(tmp_path: Path) -> None:
    entries = ENTRIES.split("[networks.near]")[0] + "[networks.other]" + ENTRIES.split("[networks.other]")[1]
    results = simkit.run(network_study(tmp_path, finetune=FINETUNE, methods='["logme"]', entries=entries), out=tmp_path / "out")
    assert any(one.source == "other" and "not in the correlation" in one.reason for one in results.content.unavailable)


def test_scoring_takes_no_more_threads_than_are_allowed(tmp_path: Path) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    from simkit.pipeline.scoring import in_threads

    found: list[int] = []
    with threadpool_limits(1):
        in_threads([0], lambda task: found.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"), modules={"scipy.linalg"})
    assert set(found) == {1}


def test_the_head_of_the_page_names_no_digests(tmp_path: Path) -> None:
    from simkit.pipeline.contents import _extractor_line

    line = _extractor_line(simkit.EXTRACTORS.build({"torchvision": {"network": "squeezenet1_1", "weights": "random", "image_size": 64}}, "extractor"))
    assert line == "torchvision: network = squeezenet1_1, weights = random, pool = average, image_size = 64"
