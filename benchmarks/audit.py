"""Whether the rows of a zoo are what they say: `model-zoos verify`.

A state's weights make a network; the network, run on the zoo's images, has an accuracy and a loss;
these must be the recorded ones. Sampled states (or all) are evaluated many at a time by the
population engines. On the same engine that recorded them they must agree to the last bit of the
row's float32; on another, where sums are taken in another order, accuracies to one image and losses
to 1e-3. Beside that every row is looked at: files, layout, ids, epochs, splits, values that are not
finite, duplicates, the first weights that a seed gives, and a twin's parent, split and sparsity; of
twins made here also that they have their parent's hyperparameters and start from its last weights.

What an audit cannot see: training metrics after epoch 0, which are running means over an epoch, and
the order of a trajectory whose rows were permuted whole.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import load_dataset

import model_zoos

from ..builders.catalog import ZOOS, twin_name
from ..builders.layout import Layout
from ..builders.machine import cores
from ..builders.model_file import ModelFile
from ..builders.specification import ACTIVATIONS, INITS
from ..builders.splits import METRIC_OF_SPLIT, SHARES, SPLITS, assign_splits, next_split
from ..builders.zoo_directory import ZooDirectory, open_zoo
from ..errors import FaultyFile, ImageFilesError, ZooNotFound
from ..generation.engines import evaluate, reference
from ..generation.engines.lanes import LanesUnavailable, lanes_count
from ..generation.images import ImageData, load_images
from ..generation.streams import initial_weights

STATES = 512
"""Evaluated by default."""

LOSS_TOLERANCE = 1e-3
"""Relative, on another engine than the one that recorded a loss. Measured on the states of three
imported zoos, diverged models among them: 1e-5 at most."""

_BLOCK = 64
"""States that are evaluated together."""

_BLOCK_BYTES = 32 << 20
"""Of weights read at a time."""

_SHOWN = 10


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        checked: how many things: models, states or recorded values.
        wrong: how many of them are wrong.
        offenders: the first ten, in words.
        note: what a reader must know beside: why a check could not be made, what was not covered.
        undone: it should have been made and could not.
    """

    name: str
    checked: int
    wrong: int = 0
    offenders: tuple[str, ...] = ()
    note: str = ""
    undone: bool = False


@dataclass(frozen=True)
class Audit:
    """All checks of one zoo.

    Attributes:
        zoo: name.
        models, states: in its good files.
        evaluated: states that were rebuilt and evaluated.
        engine: that evaluated; None if nothing was.
        recorded_engine: that made the zoo, as zoo.json says.
        to_the_bit: whether recorded and evaluated metrics had to be equal in all bits.
        checks: in a fixed order.
    """

    zoo: str
    models: int
    states: int
    evaluated: int
    engine: str | None
    recorded_engine: str | None
    to_the_bit: bool
    checks: Sequence[Check]

    @property
    def good(self) -> bool:
        """Nothing is wrong, and every check that should have been made was."""
        return not any(check.wrong or check.undone for check in self.checks)


def audit_zoo(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    states: int | None = STATES,
    images: ImageData | None = None,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    threads: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Check a zoo: every row's form, and the accuracies of some or all states.

    Args:
        name: a zoo directory's; not a union.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        states: how many to evaluate, spread over models and epochs; None for all, 0 for none.
        images: that its models saw; by default those that zoo.json names are loaded.
        images_dir, download: as images.load_images.
        threads: cores to evaluate on; None for all that this process may use.
        seed: of the choice of states.
        on_progress: called with the number of rows read and of rows in all.

    Raises:
        ZooNotFound: there is no such zoo directory.
        FaultyZoo: none of its files can be read at all.
        ValueError: the images do not fit the architecture, or a negative number of states.
    """
    if states is not None and states < 0:
        raise ValueError(f"states must be 0 or more, found {states}")
    root = model_zoos.zoos_home(data_dir)
    directory = open_zoo(root, name)
    splits = directory.splits()
    good, faulty = directory.scan()
    rows = _rows(directory)
    chosen = _choose(rows, states, seed)
    findings = _Findings()
    _check_files(findings, good, faulty, splits, directory.published().freed)
    _check_layout(findings, directory)
    _check_ids(findings, directory, good, rows)
    _check_epochs(findings, directory, rows)
    _check_splits(findings, directory, splits, rows)
    _check_parents(findings, directory, good, splits, rows)

    undone = ""
    if len(chosen) and images is None:
        try:
            images = load_images(
                directory.zoo.images, images_dir, download=download, progress=False
            )
        except (ImageFilesError, ValueError) as error:
            undone = f"not checked: {error}"
    recorded = (directory.info.get("images") or {}).get("sha256")
    if len(chosen) and images is not None and recorded not in (None, images.digest()):
        undone = (
            f"not checked: zoo.json names other images (sha256 {recorded[:12]}...) than these "
            f"{images.name} ({images.digest()[:12]}...); give those that the models saw"
        )
    evaluator = None
    if len(chosen) and not undone:
        assert images is not None
        evaluator = _Evaluator(directory, images, threads)
        if recorded is None:
            findings.note(
                "accuracy",
                "zoo.json has no digest of the images: if most states are wrong, the models may "
                "have seen others",
            )
    for name_ in ("accuracy", "loss"):
        findings.see(name_, 0)
        if not len(chosen):
            findings.note(name_, "not asked for (0 states)")
        elif name_ == "loss" and _penalised(directory):
            findings.note(name_, "not compared: those of imported twins hold the divergence too")
    if undone:
        findings.undone("accuracy", undone)
        findings.undone("loss", undone)

    _check_weights(findings, directory, rows, set(chosen.tolist()), evaluator, on_progress)
    return Audit(
        zoo=directory.zoo.name,
        models=len(set(rows["model_id"])),
        states=len(rows["model_id"]),
        evaluated=evaluator.states if evaluator else 0,
        engine=evaluator.engine if evaluator else None,
        recorded_engine=directory.info.get("engine"),
        to_the_bit=evaluator.to_the_bit if evaluator else False,
        checks=findings.checks(),
    )


class _Findings:
    """What was found, check by check."""

    def __init__(self) -> None:
        self._checked: dict[str, int] = {}
        self._wrong: dict[str, list[str]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)
        self._undone: set[str] = set()

    def see(self, name: str, count: int = 1) -> None:
        self._checked[name] = self._checked.get(name, 0) + count

    def wrong(self, name: str, offender: str) -> None:
        self._wrong[name].append(offender)

    def note(self, name: str, text: str) -> None:
        self._checked.setdefault(name, 0)
        self._notes[name].append(text)

    def undone(self, name: str, why: str) -> None:
        self.note(name, why)
        self._undone.add(name)

    def checks(self) -> list[Check]:
        return [
            Check(
                name=name,
                checked=count,
                wrong=len(self._wrong[name]),
                offenders=tuple(self._wrong[name][:_SHOWN]),
                note="; ".join(self._notes[name]),
                undone=name in self._undone,
            )
            for name, count in self._checked.items()
        ]


# --- Rows without their weights -------------------------------------------------------------------

_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
_COLUMNS = (
    "model_id",
    "parent_model_id",
    "epoch",
    *_METRICS,
    "sparsity",
    "activation",
    "init",
    "seed",
)


def _tables(directory: ZooDirectory, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Split and rows, some at a time, in one order; unreadable files are left out.

    Streamed: an audit must see what is on disk now, and leave no copy in a cache.
    """
    streams = load_dataset(
        "model_zoos",
        directory.zoo.name,
        data_dir=str(directory.path.parent),
        columns=list(columns),
        streaming=True,
        on_bad_files="skip",
    )
    size = max(1, min(256, _BLOCK_BYTES // (4 * directory.zoo.layout.size)))
    for split, stream in streams.items():
        for table in stream.with_format("arrow").iter(batch_size=size):
            yield split, table


def _rows(directory: ZooDirectory) -> dict[str, list[Any]]:
    """All columns of all rows but their weights, and their split."""
    rows: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, "split")}
    for split, table in _tables(directory, _COLUMNS):
        for name in _COLUMNS:
            rows[name] += table[name].to_pylist()
        rows["split"] += [split] * len(table)
    return rows


def _state(rows: Mapping[str, Sequence[Any]], row: int) -> str:
    return f"{rows['model_id'][row]} epoch {rows['epoch'][row]}"


def _choose(rows: Mapping[str, Sequence[Any]], states: int | None, seed: int) -> np.ndarray:
    """Rows to evaluate, int64: as many of each model and of each epoch as can be."""
    total = len(rows["epoch"])
    if states is None or states >= total:
        return np.arange(total)
    generator = np.random.default_rng(seed)
    order = generator.permutation(total)
    # The first rows of all models, then the second of all, ...: each model's in random order.
    turn, seen = np.empty(total, np.int64), defaultdict(int)
    for row in order:
        turn[row] = seen[rows["model_id"][row]]
        seen[rows["model_id"][row]] += 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:states])


def _generated(directory: ZooDirectory) -> bool:
    """Whether this package made the zoo, so that ids, epochs and first weights are known."""
    architecture = directory.zoo.layout.architecture
    return bool(architecture.layers) and directory.info.get("engine") in architecture.engines


def _penalised(directory: ZooDirectory) -> bool:
    """Whether these are imported twins, whose losses are not cross entropies alone."""
    return directory.parent_zoo is not None and "sparsification" not in directory.info


def _check_files(
    findings: _Findings,
    good: Sequence[ModelFile],
    faulty: Sequence[FaultyFile],
    splits: Mapping[str, str],
    freed: frozenset[str],
) -> None:
    findings.see("files", len(good) + len(faulty))
    for error in faulty:
        findings.wrong("files", str(error))
    present = {states.model_id for states in good}
    for model in sorted(present - set(splits)):
        findings.wrong("files", f"{model}: splits.json has no split for it")
    if absent := len(set(splits) - present - freed):
        findings.note("files", f"{absent} models of splits.json have no (readable) file")


def _check_layout(findings: _Findings, directory: ZooDirectory) -> None:
    zoo = directory.zoo
    findings.see("layout")
    if directory.info.get("layout") != zoo.layout.to_json():
        findings.wrong(
            "layout", "zoo.json: the tensors of `layout` are not those of its architecture"
        )
    if zoo.name in ZOOS:
        for key in ("image_dataset", "images", "architecture", "variant", "channels", "classes"):
            here, there = getattr(zoo, key), getattr(ZOOS[zoo.name], key)
            if here != there:
                findings.wrong("layout", f"zoo.json: {key} is {here!r}, in the catalog {there!r}")


def _check_ids(
    findings: _Findings,
    directory: ZooDirectory,
    good: Sequence[ModelFile],
    rows: Mapping[str, Sequence[Any]],
) -> None:
    """No state twice; a generated model is one of its zoo, with that model's hyperparameters."""
    seen: set[tuple[str, int]] = set()
    for row, key in enumerate(zip(rows["model_id"], rows["epoch"], strict=True)):
        findings.see("ids")
        if key in seen:
            findings.wrong("ids", f"{_state(rows, row)}: there are two of it")
        seen.add(key)
    if not _generated(directory) or directory.parent_zoo is not None:
        return
    known = {model.model_id: model for model in directory.zoo.models()}
    for states in good:
        model = known.get(states.model_id)
        if model is None:
            findings.wrong("ids", f"{states.model_id}: no model of this zoo has this id")
        elif dict(states.hyperparameters) != model.hyperparameters():
            findings.wrong("ids", f"{states.model_id}: its hyperparameters have another id")


def _check_epochs(
    findings: _Findings, directory: ZooDirectory, rows: Mapping[str, Sequence[Any]]
) -> None:
    zoo = directory.zoo
    epochs: dict[str, list[int]] = defaultdict(list)
    for model, epoch in zip(rows["model_id"], rows["epoch"], strict=True):
        epochs[model].append(epoch)
    complete = set(range(0 if zoo.keeps_epoch_0 else 1, zoo.epochs + 1))
    partial = 0
    for model, found in epochs.items():
        findings.see("epochs")
        if outside := set(found) - set(range(zoo.epochs + 1)):
            findings.wrong("epochs", f"{model}: has epoch {max(outside)}, the zoo has {zoo.epochs}")
        elif missing := complete - set(found):
            if _generated(directory):
                findings.wrong("epochs", f"{model}: lacks epoch {min(missing)}")
            else:
                partial += 1
    if partial:  # what an import left out, import_report.json names
        findings.note("epochs", f"{partial} models lack some, as their source may")


# --- Splits ---------------------------------------------------------------------------------------


def _check_splits(
    findings: _Findings,
    directory: ZooDirectory,
    splits: Mapping[str, str],
    rows: Mapping[str, Sequence[Any]],
) -> None:
    findings.see("splits", len(splits))
    found: dict[str, str] = {}
    for model, split in zip(rows["model_id"], rows["split"], strict=True):
        if found.setdefault(model, split) != split:
            findings.wrong("splits", f"{model}: has states in {found[model]} and in {split}")
    if directory.parent_zoo is not None:
        return  # a twin lies in its parent's, which is checked there
    source = directory.info.get("source") or {}
    if str(source.get("file", "")).endswith((".pt", ".pth")):
        findings.note("splits", "published with the zoo: nothing to compute them from")
        return
    counts = {split: list(splits.values()).count(split) for split in SPLITS}
    for split, share in SHARES.items():
        if abs(counts[split] - share * len(splits)) > 1 + 1e-9:
            findings.wrong(
                "splits", f"{counts[split]} of {len(splits)} models are {split}, not {share:.0%}"
            )
    if _generated(directory):
        order = [m.model_id for m in directory.zoo.models() if m.model_id in splits]
        right = _assigned_in_runs(splits, order) if len(order) == len(splits) else None
    elif source and not (directory.path.parent / twin_name(directory.zoo.name)).exists():
        right = splits == assign_splits({}, splits)
    else:
        right = None
    if right is None:
        findings.note("splits", "shares only: nothing says in which order they were assigned")
    elif not right:
        expected = assign_splits({}, splits)
        others = [model for model in splits if splits[model] != expected[model]]
        findings.wrong(
            "splits",
            f"not those that the models' ids give: against one run {len(others)} differ, first "
            f"{others[0]}, which is {splits[others[0]]}, expected {expected[others[0]]}",
        )


def _assigned_in_runs(splits: Mapping[str, str], order: Sequence[str]) -> bool | None:
    """Whether assigning models run by run, each run some more of `order`, gives these splits.

    Returns:
        None if there are too many ways to try.
    """
    counts, wanted = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    cuts = [0]  # after how many models a run can have ended
    for number, model in enumerate(order, start=1):
        wanted[next_split(wanted)] += 1
        counts[splits[model]] += 1
        if counts == wanted:
            cuts.append(number)
    if cuts[-1] != len(order):
        return False
    reached, seen, trials = [0], {0}, 0
    while reached:
        start = reached.pop(0)
        first = {model: splits[model] for model in order[:start]}
        for end in reversed(cuts):  # most zoos are made in one run
            if end <= start or end in seen:
                continue
            trials += 1
            if trials > 2000:
                return None
            given = assign_splits(first, order[:end])
            if all(given[model] == splits[model] for model in order[start:end]):
                if end == len(order):
                    return True
                seen.add(end)
                reached.append(end)
    return not order


def _check_parents(
    findings: _Findings,
    directory: ZooDirectory,
    good: Sequence[ModelFile],
    splits: Mapping[str, str],
    rows: Mapping[str, Sequence[Any]],
) -> None:
    parents = dict(zip(rows["model_id"], rows["parent_model_id"], strict=True))
    dense = directory.parent_zoo
    if dense is None:
        for model, parent in parents.items():
            if parent is not None:
                findings.see("parents")
                findings.wrong("parents", f"{model}: has a parent, but this is no zoo of twins")
        return
    findings.see("parents", len(parents))
    try:
        dense_directory = open_zoo(directory.path.parent, dense)
    except ZooNotFound:
        dense_directory = None
        findings.note("parents", f"{dense} is not here: parents and their splits are not checked")
    dense_splits = dense_directory.splits() if dense_directory else {}
    # Of several files of a model the last one stays.
    present = {s.model_id: s for s in dense_directory.scan()[0]} if dense_directory else {}
    for model, parent in parents.items():
        if parent is None:
            findings.wrong("parents", f"{model}: has no parent")
        elif dense_directory and parent not in present:
            findings.wrong("parents", f"{model}: its parent {parent} is not in {dense}")
        elif dense_directory and splits[model] != dense_splits.get(parent):
            findings.wrong(
                "parents",
                f"{model}: lies in {splits[model]}, its parent in {dense_splits.get(parent)}",
            )
    if "sparsification" in directory.info:
        for states in good:
            if states.parent_model_id in present:
                _check_twin(findings, directory, states, present[states.parent_model_id])


def _check_twin(
    findings: _Findings, directory: ZooDirectory, twin: ModelFile, parent: ModelFile
) -> None:
    """A twin made here is trained as its parent was, and starts from its last weights, pruned."""
    seed = (directory.info["sparsification"] or {}).get("seed")
    expected = {**parent.hyperparameters, "epochs": directory.zoo.epochs}
    if seed != "parent":
        expected["seed"] = seed
    for name, value in twin.hyperparameters.items():
        if value != expected.get(name):
            findings.wrong(
                "parents",
                f"{twin.model_id}: its {name} is {value!r}, as a twin of {parent.model_id} it "
                f"would be {expected.get(name)!r}",
            )
    if twin.epochs[0] != 0:
        return
    findings.see("first weights")
    first, last = twin.weights([0])[0], parent.weights([len(parent.epochs) - 1])[0]
    if other := int(((first != 0) & (first != last)).sum()):
        findings.wrong(
            "first weights",
            f"{twin.model_id} epoch 0: {other} weights are neither 0 nor the last ones of its "
            f"parent {parent.model_id}",
        )


# --- Weights --------------------------------------------------------------------------------------


def _check_weights(
    findings: _Findings,
    directory: ZooDirectory,
    rows: Mapping[str, Sequence[Any]],
    chosen: set[int],
    evaluator: _Evaluator | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """One pass over all weights."""
    layout, twins = directory.zoo.layout, directory.parent_zoo is not None
    no_bias = np.ones(layout.size, bool)
    for slot in layout.slots:
        no_bias[slot.slice] = not slot.name.endswith(".bias")
    first_weights = _generated(directory) and not twins and directory.zoo.keeps_epoch_0
    for name in ("finite", "duplicates"):
        findings.see(name, 0)
    digests: dict[tuple[int, bytes], int] = {}
    diverged = unknown = row = 0
    for _, table in _tables(directory, ["model_id", "epoch", "weights"]):
        flat = table["weights"].combine_chunks().flatten().to_numpy()
        keys = zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True)
        for key, vector in zip(keys, flat.reshape(-1, layout.size), strict=True):
            if key != (rows["model_id"][row], rows["epoch"][row]):
                raise RuntimeError(
                    f"{directory.path} changed while it was read: start again when nothing writes"
                )
            epoch = key[1]
            findings.see("finite")
            loss = rows["test_loss"][row]
            if finite := bool(np.isfinite(vector).all()):
                if epoch > 0:
                    findings.see("duplicates")
                    digest = (epoch, hashlib.blake2b(vector.tobytes(), digest_size=16).digest())
                    other = digests.setdefault(digest, row)
                    if other != row:
                        findings.wrong(
                            "duplicates",
                            f"{_state(rows, row)}: has the weights of {rows['model_id'][other]}",
                        )
            elif loss is not None and np.isfinite(loss):
                findings.wrong(
                    "finite",
                    f"{_state(rows, row)}: {int((~np.isfinite(vector)).sum())} weights are NaN or "
                    f"infinite, but its test_loss is {loss:.4f}",
                )
            diverged += not finite and (loss is None or not np.isfinite(loss))
            if first_weights and epoch == 0 and rows["init"][row] in INITS:
                findings.see("first weights")
                drawn, _ = initial_weights(layout, rows["init"][row], rows["seed"][row])
                if vector.tobytes() != drawn.tobytes():
                    findings.wrong(
                        "first weights", f"{_state(rows, row)}: are not those that its seed gives"
                    )
            _check_sparsity(findings, rows, row, vector[no_bias] if twins else None)
            if evaluator is not None and row in chosen:
                if rows["activation"][row] not in ACTIVATIONS:
                    unknown += 1
                else:
                    evaluator.add(findings, rows, row, vector)
            row += 1
        if on_progress is not None:
            on_progress(row, len(rows["epoch"]))
    if row != len(rows["epoch"]):
        raise RuntimeError(f"{directory.path} changed while it was read")
    if evaluator is not None:
        evaluator.finish(findings, rows)
    if diverged:
        findings.note("finite", f"{diverged} states of diverged models, whose loss is NaN too")
    if unknown:
        findings.undone("accuracy", f"{unknown} states not checked: their activation is not known")


def _check_sparsity(
    findings: _Findings, rows: Mapping[str, Sequence[Any]], row: int, weights: np.ndarray | None
) -> None:
    """A twin's recorded sparsity is the share of zeros among its weights, biases left out."""
    recorded = rows["sparsity"][row]
    if weights is None:
        if recorded is not None:
            findings.see("sparsity")
            findings.wrong("sparsity", f"{_state(rows, row)}: has one, but is no twin")
        return
    findings.see("sparsity")
    share = float((weights == 0).mean())
    if recorded is None or abs(recorded - share) > 1e-6:
        findings.wrong(
            "sparsity",
            f"{_state(rows, row)}: recorded {recorded}, of its weights {share:.6f} are 0",
        )


# --- Evaluation -----------------------------------------------------------------------------------


class _Evaluator:
    """Collects states and evaluates those of one activation together.

    Args:
        directory: of the zoo.
        images: that its models saw.
        threads: cores.
    """

    def __init__(self, directory: ZooDirectory, images: ImageData, threads: int | None) -> None:
        self.layout: Layout = directory.zoo.layout
        self.threads = threads or cores()
        self.states = 0
        self.penalised = _penalised(directory)
        recorded = directory.info.get("engine")
        self.engine = self._choose(recorded, dict(directory.zoo.grid)["activation"][0])
        # The batched engine's sums depend on how many models are stacked; processors other than x86
        # keep subnormal numbers; the reference engine's variational twins add biases separately,
        # and torch's sums depend on its version and the processor.
        made = directory.info.get("versions") or {}
        here = {"torch": str(torch.__version__), "cpu": reference.cpu_kind()}
        method = (directory.info.get("sparsification") or {}).get("method")
        self.to_the_bit = (
            self.engine == recorded
            and self.engine in ("lanes", "reference")
            and (self.engine, method) != ("reference", "variational")
            and (self.engine == "lanes" or all(made.get(key) == here[key] for key in here))
            and platform.machine().lower() in ("x86_64", "amd64")
        )
        self.sets = {
            name: (images.normalized(split), getattr(images, split).labels)
            for split, name in reversed(METRIC_OF_SPLIT.items())
            if getattr(images, split) is not None
        }
        self._waiting: dict[tuple[str, bool], list[tuple[int, np.ndarray]]] = defaultdict(list)

    def _choose(self, recorded: str | None, activation: str) -> str:
        if not self.layout.architecture.layers or recorded == "reference":
            return "reference"
        if recorded != "batched":
            try:
                lanes_count(self.layout, activation)
            except LanesUnavailable:
                return "batched"
            return "lanes"
        return "batched"

    def add(
        self,
        findings: _Findings,
        rows: Mapping[str, Sequence[Any]],
        row: int,
        weights: np.ndarray,
    ) -> None:
        """Take one state; evaluates when enough of a kind are there."""
        key = (rows["activation"][row], rows["epoch"][row] == 0)
        self._waiting[key].append((row, weights.copy()))
        if len(self._waiting[key]) == _BLOCK:
            self._compare(findings, rows, key)

    def finish(self, findings: _Findings, rows: Mapping[str, Sequence[Any]]) -> None:
        """Evaluate what is left."""
        for key in list(self._waiting):
            self._compare(findings, rows, key)

    def _compare(
        self,
        findings: _Findings,
        rows: Mapping[str, Sequence[Any]],
        key: tuple[str, bool],
    ) -> None:
        states = self._waiting.pop(key)
        activation, untrained = key
        self.states += len(states)
        weights = np.stack([vector for _, vector in states])
        # Later training metrics are running means; an imported twin's first are its parent's.
        names = [n for n in self.sets if n != "train" or (untrained and not self.penalised)]
        for name in names:
            numbers = [
                n for n, (row, _) in enumerate(states) if rows[f"{name}_acc"][row] is not None
            ]
            if not numbers:
                continue
            loss, accuracy = evaluate(
                weights[numbers],
                self.layout,
                activation,
                *self.sets[name],
                engine=self.engine,
                threads=self.threads,
            )
            # The reference engine takes the untrained model's training loss in a random order.
            exact = self.to_the_bit and not (name == "train" and self.engine == "reference")
            for number, found_loss, found_accuracy in zip(numbers, loss, accuracy, strict=True):
                row = states[number][0]
                findings.see("accuracy")
                recorded = rows[f"{name}_acc"][row]
                step = 0.0 if self.to_the_bit else 1 / len(self.sets[name][1])
                if not abs(np.float32(found_accuracy) - np.float32(recorded)) <= step * 1.001:
                    findings.wrong(
                        "accuracy",
                        f"{_state(rows, row)}: {name}_acc is recorded as {recorded:.4f}, "
                        f"evaluated {found_accuracy:.4f}",
                    )
                recorded = rows[f"{name}_loss"][row]
                if recorded is None or self.penalised:
                    continue
                findings.see("loss")
                if not _equal_loss(float(found_loss), recorded, exact):
                    findings.wrong(
                        "loss",
                        f"{_state(rows, row)}: {name}_loss is recorded as {recorded:.9g}, "
                        f"evaluated {np.float32(found_loss):.9g}",
                    )


def _equal_loss(found: float, recorded: float, exact: bool) -> bool:
    if np.isnan(found) or np.isnan(recorded):
        return bool(np.isnan(found) and np.isnan(recorded))
    with np.errstate(over="ignore"):
        if exact or np.isinf(np.float32(found)) or np.isinf(recorded):
            return bool(np.float32(found) == np.float32(recorded))
    return abs(found - recorded) <= LOSS_TOLERANCE * abs(recorded) + 1e-6
