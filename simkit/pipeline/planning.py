"""What a study will do: everything resolved and checked, what is stored already, what cannot be done and why, and an estimate of the work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from simkit.dataset import Dataset, DatasetCard
from simkit.errors import DataError, NotEnoughData, Problems, ResourceError, SimkitError, UsageError
from simkit.estimators.comparison import Sampling
from simkit.execution import duration
from simkit.extractors.base import extract
from simkit.pipeline.gradients import stored_gradients
from simkit.pipeline.networks import SourceNetwork, check_networks, network_names, network_sources, pairs_of, source_cards, wanted_pretrainings
from simkit.pipeline.progress import Progress
from simkit.pipeline.scoring import common_sizes, score_key, settled, view_digest_of
from simkit.pipeline.stages import check_projection, read_card, space_of, stored_card, strictly
from simkit.pipeline.tasks import probe_of, stored_task
from simkit.pipeline.transferability import transferability_key
from simkit.recipe import digest
from simkit.report.content import Unavailable
from simkit.store import Store
from simkit.study import Study, load_datasets
from simkit.tables import TransferTable
from simkit.transfer import TransferPlan, plan_units, pretrained

__all__ = ["Plan", "Step", "plan"]


SECONDS_A_LOOK = 0.002
"""Of decoding an image and keeping what tells copies."""


@dataclass(frozen=True)
class Step:
    """One stage of a study for one item.

    Attributes:
        stage: "check", "embed", "look for" (copies), "pretrain", "see by" (a network looks at its targets), "gradients", "score" or "finetune".
        item: data set, method, or pair.
        total: units of work (images, pairs, runs).
        stored: how many of them are in the store already.
        unit: what is counted.
        seconds: estimate for the rest, or None where it is not known before a first run.
    """

    stage: str
    item: str
    total: int
    stored: int
    unit: str
    seconds: float | None = None

    @property
    def todo(self) -> int:
        return self.total - self.stored


@dataclass(frozen=True)
class Plan:
    """A checked study. ``text()`` says what will be computed, what is there, what cannot be and why, and an estimate of the work.

    ``datasets`` are as loaded, ``readable`` without the images that are known to be unreadable (from stored cards).
    """

    study: Study
    device: str
    datasets: Mapping[str, Dataset]
    readable: Mapping[str, Dataset]
    steps: tuple[Step, ...]
    impossible: tuple[Unavailable, ...]
    methods: tuple[Any, ...]
    transfer: TransferPlan | None = None
    measured: TransferTable | None = None
    store: Store = field(default_factory=Store)
    networks: Mapping[str, SourceNetwork] = field(default_factory=dict)

    def pairs(self, method: Any) -> list[tuple[str, str]]:
        """The pairs that a measure can have."""
        cannot = {(u.source, u.target) for u in self.impossible if u.method == method.name}
        lost = self.diverged if method.view == "network" else frozenset()
        return [pair for pair in pairs_of(self.study, method) if pair not in cannot and pair[0] not in lost]

    @property
    def diverged(self) -> frozenset[str]:
        """Sources whose pretraining was done and has no result: nothing looks through their networks."""
        keys = {name: network.pretraining for name, network in self.networks.items() if network.pretraining}
        return frozenset(name for name, key in keys.items() if "failed" in (self.store.load_json("pretrain", key) or {}))

    @property
    def seconds(self) -> float:
        """Estimated seconds of the steps whose cost is known."""
        return sum(step.seconds or 0.0 for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The plan in JSON form."""
        return {
            "study": self.study.name, "device": self.device, "store": str(self.store.root), "out": str(self.study.out), "seconds": round(self.seconds, 1),
            "steps": [{"stage": s.stage, "item": s.item, "total": s.total, "stored": s.stored, "todo": s.todo, "unit": s.unit, "seconds": s.seconds}
                      for s in self.steps],
            "impossible": [{"method": u.method, "source": u.source, "target": u.target, "reason": u.reason} for u in self.impossible],
        }

    def text(self) -> str:
        """The plan as lines for a terminal."""
        sources = {source for method in self.methods for source, _ in pairs_of(self.study, method)} or set(self.study.sources)
        counts = f"{len(sources)} sources, {len(self.study.targets)} targets, {len(self.methods)} methods, on {self.device}"
        lines = [f"study {self.study.name}: {counts}",
                 f"store {self.store.root}", f"results {self.study.out}", ""]
        width = max(len(f"{s.stage} {s.item}") for s in self.steps)
        for step in self.steps:
            cost = "" if step.todo == 0 else "  time known after the first run" if step.seconds is None else f"  {duration(step.seconds)}"
            state = "all stored" if step.todo == 0 else f"{step.todo:,} to do" + (f", {step.stored:,} stored" if step.stored else "")
            lines.append(f"  {f'{step.stage} {step.item}':<{width}}  {step.total:>7,} {step.unit:<6}  {state}{cost}")
        if self.impossible:
            lines += ["", "cannot be computed:"]
            by_reason: dict[tuple[str, str], list[str]] = {}
            for u in self.impossible:
                by_reason.setdefault((u.method, u.reason), []).append(f"{u.source} -> {u.target}")
            lines += [f"  {method}: {reason} ({len(pairs)} pairs)" for (method, reason), pairs in by_reason.items()]
        lines += [f"note: {note}" for note in (self.transfer.notes if self.transfer else ())]
        todo = sum(step.todo for step in self.steps)
        unknown = ", and the scores whose time is not known yet" if any(s.todo and s.seconds is None for s in self.steps) else ""
        lines += ["", f"estimate of the work: {duration(self.seconds)}{unknown}" if todo else "everything is stored: a run only writes the tables and the page"]
        return "\n".join(lines)


def plan(study: Study, *, strict: bool = False, probe: bool = True) -> Plan:
    """Checks a whole study before any work and says what is to be done.

    Args:
        study: as read by :func:`simkit.study.read_study`.
        strict: refuse data sets with images that would be skipped.
        probe: time one small batch per extractor for the estimate, where something is to be embedded.

    Raises:
        UsageError, DataError, ResourceError: with all problems of the first stage that has any.
    """
    from simkit.device import describe_device, resolve_device

    device = resolve_device(study.device, where="device")
    _check_pairs(study)
    if any(m.view == "embedding" for m in study.methods):
        study.extractor.check()
    used = [name for name in study.datasets if name in {*study.sources, *study.targets}]
    datasets = load_datasets(study, used)
    if (unrelated := study.unrelated) is not None and unrelated.name not in datasets:
        datasets[unrelated.name] = unrelated.load(study.base)
    if strict:
        _all_strict(datasets)
    store = Store(study.store)
    explicit = network_sources(study, None)
    if any(method.view == "network" or method.reads_source_card for method in study.methods):
        check_networks(explicit, datasets, study, store)
    cards = source_cards(study, explicit, store) if any(method.reads_source_card for method in study.methods) else {}
    methods, impossible = _possible(study, {**datasets, **cards})
    impossible += _without_outputs(study, methods, explicit, store)
    methods, without = _with_probes(study, methods)
    impossible += without
    for method in methods:
        if isinstance(getattr(method, "device", None), str):
            resolve_device(method.device, where=f"methods: {method.name}.device")
    _check_sizes(methods, study, datasets)
    check_projection(study.projection, [dataset for name, dataset in datasets.items() if name in {*study.sources, *study.targets}])
    if study.protocol is not None:  # its plan decodes the images: those that cannot be read must be known before
        for dataset in datasets.values():
            read_card(dataset, store, Progress())
    steps, kept = _embedding_steps(study, datasets, store, str(device), probe=probe)
    transfer, measured = None, _measured(study)
    if study.protocol is not None:
        transfer = plan_transfer(study, kept, store)
    networks = network_sources(study, transfer) if any(method.view == "network" for method in methods) else {}
    made = Plan(study, describe_device(device), datasets, kept, (), tuple(impossible), methods, transfer, measured, store, networks)
    steps += [*_copies_steps(made), *_looking_steps(made), *_score_steps(made, cards)]
    if study.protocol is not None and transfer is not None:
        steps.append(Step("finetune", study.protocol.network, len(transfer.runs), len(transfer.done), "runs", transfer.seconds))
    return replace(made, steps=tuple(steps))


def _copies_steps(made: Plan) -> list[Step]:
    """The images that are to be looked at for copies."""
    from simkit.pipeline.copies import unseen

    left = unseen(made.study, made.readable, made.store)
    total = sum(len(made.readable[name]) for name in left)
    if not left:
        return []
    return [Step("look for", "copies", total, total - sum(left.values()), "images", SECONDS_A_LOOK * sum(left.values()))]


def _check_pairs(study: Study) -> None:
    """Refuses a study without a pair to score."""
    if not any(pairs_of(study, method) for method in study.methods) and not study.pairs:
        if study.networks:
            named = ", ".join(method.name for method in study.methods)
            message = f"the sources are networks ({', '.join(study.networks)}), and {named} compares two data sets"
            raise UsageError("SK104", study.name, message, "choose a measure that looks through a network (logme, knn, leep ...), or name data sets as sources")
        raise UsageError("SK104", study.name, "there is no source-target pair besides self pairs", "name sources that differ from the targets")


def _measured(study: Study) -> TransferTable | None:
    """The transfer results that were measured elsewhere, read and checked before any work."""
    if study.transfer is None:
        return None
    from simkit.correlation import rank_sources, read_transfer

    table = read_transfer(study.transfer)
    rank_sources(table, seed=study.seed)  # refuses mixed metrics, and those of which less is better
    known = {(str(r["source"]), str(r["target"])) for r in table.records}
    if not known & {*study.pairs, *((s, t) for t in study.targets for s in network_names(study))}:
        found = ", ".join(f"{s} -> {t}" for s, t in sorted(known)[:5])
        message = f"holds no source-target pair of the study; it holds {found}"
        raise DataError("SK209", str(study.transfer), message, "use the names of the data sets of the study in the columns source and target")
    return table


def plan_transfer(
    study: Study, datasets: Mapping[str, Dataset], store: Store, progress: Progress | None = None, *, networks: bool = True,
) -> TransferPlan:
    """The plan of the fine-tuning runs, with the pretrainings that measures look through unless ``networks`` is false; the study's device holds unless
    ``[finetune]`` names its own.
    """
    protocol = study.protocol
    assert protocol is not None
    if protocol.device == "auto":
        protocol = replace(protocol, device=study.device)
    return plan_units(protocol, datasets, study.sources, study.targets, study.seed, store,
                      progress=(progress or Progress()).say, networks=wanted_pretrainings(study) if networks else ())


def _all_strict(datasets: Mapping[str, Dataset]) -> None:
    problems = Problems()
    for dataset in datasets.values():
        try:
            strictly(dataset)
        except SimkitError as error:
            problems.catch(error)
    problems.raise_if_any(DataError)


def _possible(study: Study, datasets: Mapping[str, Dataset | DatasetCard]) -> tuple[tuple[Any, ...], list[Unavailable]]:
    """The methods that some pair can have, and the pairs that cannot, with reasons.

    Missing labels are a fact about the data: the pair is listed and everything else goes on. A method that was asked for by name and that no
    pair can have for another reason (no tags, no attributes, no network of the sources) is an error of the study.

    Raises:
        UsageError: such a method.
        NotEnoughData: nothing at all can be computed.
    """
    problems, impossible = Problems(), []
    methods = []
    for method in study.methods:
        reasons = _reasons(study, method, datasets)
        refused = {pair: reason for pair, reason in reasons.items() if reason}
        by_labels = any(_lacks_labels(method, datasets.get(s), datasets[t]) for s, t in refused) or (method.view == "network" and bool(pairs_of(study, method)))
        if len(refused) == len(reasons) and not study.all_methods and not by_labels:
            fix = 'add what is missing, leave the method out, or use methods = "all", which lists it as impossible'
            for reason in dict.fromkeys(refused.values()):
                problems.add("SK108", f"methods: {method.name}", reason, ADD_NETWORKS if method.view == "network" else fix)
        without = set(network_names(study))
        impossible += [Unavailable(method.name, s, t, reason, method.view == "network" and not study.sources_named and s in study.targets and s not in without)
                       for (s, t), reason in refused.items()]
        if len(refused) < len(reasons):
            methods.append(method)
    problems.raise_if_any(UsageError)
    if not methods:
        grouped: dict[str, list[str]] = {}
        for u in impossible:
            grouped.setdefault(u.reason.removeprefix(u.method).removeprefix(":").strip(), []).append(u.method)
        for reason, names in grouped.items():
            said, _, remedy = reason.removesuffix(")").partition(" (") if reason.endswith(")") else (reason, "", "")
            fix = remedy or "give labels (a folder per class, or a label column), or choose label-free methods"
            problems.add("SK208", study.name, f"{', '.join(dict.fromkeys(names))} {said}", fix)
        problems.raise_if_any(NotEnoughData)
    return tuple(methods), impossible


ADD_NETWORKS = ("give the network of each source in [networks] (or `simkit distance --network`), or a [finetune] table, whose pretrained networks are taken; "
                "for leep and nce, head = knn fits a head on the source's features instead")


def _reasons(study: Study, method: Any, datasets: Mapping[str, Dataset | DatasetCard]) -> dict[tuple[str, str], str]:
    """Why a measure cannot be computed, for every pair that it is asked for; "" where it can."""
    if method.view != "network":
        return {(s, t): method.missing(datasets[s], "source") or method.missing(datasets[t], "target") for s, t in pairs_of(study, method)}
    out = {(s, t): method.missing(datasets[t], "target") for s, t in pairs_of(study, method)}
    if not out:  # not one source has a network
        said = f"{method.name} needs the network that was trained on each source; with one shared extractor it is the same number for every source"
        return dict.fromkeys(study.pairs, said)
    have = set(network_names(study))
    return {**{(s, t): f"{method.name} needs the network that was trained on {s}, and none is given" for s, t in study.pairs if s not in have}, **out}


def _with_probes(study: Study, methods: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Unavailable]]:
    """The methods whose probe network is there; with methods = "all" those whose is not are listed, else that is an error."""
    kept, without = [], []
    for method in methods:
        try:
            if method.view == "task":
                probe_of(method).check()
            kept.append(method)
        except SimkitError as error:
            if not study.all_methods:
                raise
            without += [Unavailable(method.name, *pair, f"{error.problems[0].where}: {error.problems[0].message}") for pair in pairs_of(study, method)]
    return tuple(kept), without


def _without_outputs(study: Study, methods: tuple[Any, ...], networks: Mapping[str, SourceNetwork], store: Store) -> list[Unavailable]:
    """Pairs of measures that read probabilities, of sources whose network has no head."""
    if not any("probabilities" in getattr(method, "reads", ()) for method in methods if method.view == "network"):
        return []
    bare = [name for name, network in networks.items() if network.head(store)[0] == 0]
    return [Unavailable(method.name, s, t, f"{method.name} needs the probabilities of the network's head, and the weights of {s} hold none")
            for method in methods if method.view == "network" and "probabilities" in method.reads for s, t in pairs_of(study, method) if s in bare]


def _check_sizes(methods: tuple[Any, ...], study: Study, datasets: Mapping[str, Dataset]) -> None:
    """Refuses what no machine would finish (more images than a solver takes), and sizes that the data do not have, before an image is embedded."""
    problems = Problems()
    counts = {name: len(dataset) for name, dataset in datasets.items()}
    for method in methods:
        if method.view != "embedding":
            continue
        sizes = common_sizes(method, study.pairs, counts, study.sampling, where=f"{study.name}: size_match")
        for source, target in study.pairs:
            try:
                if method.view == "embedding":
                    size = sizes.get(target)
                    method.settled(*(min(len(datasets[name]), size or len(datasets[name])) for name in (source, target)))
            except ResourceError as error:
                for problem in error.problems:
                    problems.add(problem.code, f"methods: {method.name}, {source} -> {target}", problem.message, problem.fix)
    problems.raise_if_any(ResourceError)


def _lacks_labels(method: Any, source: Dataset | DatasetCard | None, target: Dataset | DatasetCard) -> bool:
    wants = {"source": () if method.view == "network" else (*method.needs, *method.needs_of_source), "target": method.needs}
    return any("labels" in wants[role] and data is not None and not data.class_counts for role, data in (("source", source), ("target", target)))


def _embedding_steps(
    study: Study, datasets: Mapping[str, Dataset], store: Store, device: str, *, probe: bool,
) -> tuple[list[Step], dict[str, Dataset]]:
    steps, kept = [], {}
    needed = any(m.view == "embedding" for m in study.methods)
    shelf = store.shelf(study.extractor.recipe()) if needed else None
    todo: dict[str, list[int]] = {}
    for name, dataset in datasets.items():
        found = stored_card(dataset, store)
        kept[name] = found[1] if found else dataset
        steps.append(Step("check", name, len(dataset), len(dataset) if found else 0, "images", 0.0 if found else len(dataset) * 0.002))
        todo[name] = shelf.missing(kept[name].digests) if shelf else []
    if not needed:
        return steps, kept
    rate = _probe(study, kept, todo, device) if probe else None
    for name, indices in todo.items():
        distinct = len(set(kept[name].digests))
        seconds = 0.0 if not indices else None if rate is None else len(indices) * rate
        steps.append(Step("embed", name, distinct, distinct - len(indices), "images", seconds))
    return steps, kept


def _probe(study: Study, datasets: Mapping[str, Dataset], todo: Mapping[str, list[int]], device: str) -> float | None:
    """Seconds per image, from one small batch of the first data set that has something to embed; None when none has."""
    name = next((name for name, indices in todo.items() if indices), None)
    if name is None:
        return None
    session = study.extractor.session(device)
    batch = todo[name][:8]
    list(extract(session, datasets[name], batch, batch_size=8, workers=1))  # the first batch pays for warming up
    started = time.monotonic()
    list(extract(session, datasets[name], batch, batch_size=8, workers=1))
    return (time.monotonic() - started) / len(batch)


def _score_seconds(
    method: Any, pairs: list[tuple[str, str]], datasets: Mapping[str, Dataset], todo: int, sampling: Sampling, sizes: Mapping[str, int | None],
) -> float | None:
    """Estimated seconds of the pairs that are left, half-samples included; None where the measure does not know."""
    if method.view == "network" and todo:
        return None
    if not todo or method.view in ("card", "task"):  # measures of cards take milliseconds
        return 0.001 * todo
    seconds = 0.0
    for source, target in pairs:
        n, m = len(datasets[source]), len(datasets[target])
        size = sizes.get(target) or max(n, m)
        whole, half = method.seconds(min(n, size), min(m, size)), method.seconds(min(n // 2 or 1, size), min(m // 2 or 1, size))
        if whole is None or half is None:
            return None
        seconds += whole * (sampling.draws if max(n, m) > size else 1) + 4 * sampling.repeats * half
    return seconds * todo / len(pairs)


def _looking_steps(made: Plan) -> list[Step]:
    """Pretrainings whose networks measures look through; for each network the images of its targets that it has not seen yet; backward passes; task
    embeddings.
    """
    steps = []
    methods = [method for method in made.methods if method.view == "network"]
    if made.transfer is not None and made.transfer.wholes:
        units = [unit for unit, _ in made.transfer.wholes.values()]
        left = [unit for unit in units if not pretrained(made.store, unit.key)]
        steps.append(Step("pretrain", "networks of sources", len(units), len(units) - len(left), "runs", sum(made.transfer.costs[unit.key] for unit in left)))
    pairs = list(dict.fromkeys(pair for method in methods for pair in made.pairs(method)))
    for source, network in made.networks.items():
        shelf = made.store.shelf(network.extractor.recipe())
        targets = [target for one, target in pairs if one == source]
        missing, total = (sum(len(count) for count in counts) for counts in (
            [shelf.missing(made.readable[target].digests) for target in targets], [set(made.readable[target].digests) for target in targets]))
        if targets:
            steps.append(Step("see by", f"{source} ({network.origin})", total, total - missing, "images", 0.0 if not missing else None))
    backward = list(dict.fromkeys(pair for method in methods if "gradients" in method.reads for pair in made.pairs(method)))
    if backward:
        stored = sum(stored_gradients(made.networks[s], made.readable[t], made.store) is not None for s, t in backward)
        steps.append(Step("gradients", "of networks", len(backward), stored, "pairs", 0.0 if stored == len(backward) else None))
    return [*steps, *_task_steps(made)]


def _score_steps(made: Plan, cards: Mapping[str, DatasetCard]) -> list[Step]:
    steps, study, store, datasets = [], made.study, made.store, made.readable
    extractor = space_of(study, store, datasets)
    counts = {name: len(dataset) for name, dataset in datasets.items()}
    unrelated = study.unrelated
    ceiling = digest(["embedding", datasets[unrelated.name].fingerprint, extractor]) if unrelated else ""
    for method in made.methods:
        pairs = made.pairs(method)
        if method.view == "network":
            pool = {t: [s for s, other in pairs if other == t] for _, t in pairs}
            keys = [transferability_key(method, (s, t), made.networks, datasets[t], pool[t], study.sampling) for s, t in pairs]
            sizes: Mapping[str, int | None] = {}
        else:
            names = {name for pair in pairs for name in pair}
            digests = {name: view_digest_of(method, cards.get(name) or datasets[name], extractor) for name in names}
            sizes = common_sizes(method, pairs, counts, study.sampling) if method.view == "embedding" else {}
            keys = [score_key(method, digests, *pair, sampling=study.sampling, size=sizes.get(pair[1]), ceiling=ceiling) for pair in pairs]
        stored = sum(settled(store, key) for key in keys)
        seconds = _score_seconds(method, pairs, datasets, len(pairs) - stored, study.sampling, sizes)
        steps.append(Step("score", method.name, len(pairs), stored, "pairs", seconds))
    return steps


def _task_steps(made: Plan) -> list[Step]:
    """The task embeddings that are to be made, data set by data set."""
    steps = []
    for method in made.methods:
        if method.view == "task":
            names = {name for pair in made.pairs(method) for name in pair}
            probe = probe_of(method)
            stored = [name for name in names if stored_task(method, made.readable[name], probe, made.store) is not None]
            steps.append(Step("embed", f"tasks by {method.name}", len(names), len(stored), "sets", 0.0 if len(stored) == len(names) else None))
    return steps
