"""Whether the rows of a zoo are what they say: `model-zoos verify`.

A state's weights make a network. Run on the zoo's images, the network has an accuracy and a loss,
which must be the recorded ones. The engines that train populations evaluate sampled states (or all)
many at a time. On the engine that recorded the values they must agree in all bits of the row's
float32. On another engine, which sums in another order, accuracies must agree within one image and
losses within 1e-3.

Besides, every row is checked: files, layout, ids, epochs, splits, values that are not finite,
duplicates, the first weights that a seed gives, and a twin's parent, split and sparsity. Twins made
here must also have their parent's hyperparameters and start from its last weights.

An audit cannot see two things: training metrics after epoch 0, which are running means over an
epoch, and the order of a trajectory whose rows were permuted whole.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..builders.dataset import zoos_home
from ..builders.hyperparameters import ACTIVATIONS, INITS
from ..builders.zoo_directory import ZooDirectory, open_zoo
from ..errors import ImageFilesError, InvalidArgument
from ..generation.images import ImageData
from ..generation.streams import initial_weights
from .checks import CHECKS, Check, Findings, States, ZooOnDisk, first_equal
from .evaluation import Evaluator, recorded_digest, zoo_images
from .states import open_stream, weights_matrix
from .tables import Table

STATES = 512
"""States that are evaluated by default."""

_BATCH_BYTES = 32 << 20
"""Weights that are read at a time."""


@dataclass(frozen=True)
class Audit:
    """All checks of one zoo.

    Attributes:
        zoo: name.
        models, states: numbers of models and states in its good files.
        evaluated: number of states that were evaluated.
        engine: the engine that evaluated them; None if there were none.
        recorded_engine: the engine that made the zoo, as zoo.json says.
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
        """Whether nothing is wrong, and every check that should have been made was."""
        return self.verdict == "good"

    @property
    def verdict(self) -> str:
        """Return "wrong", "not compared" where a check could not be made, or "good"."""
        if any(check.wrong for check in self.checks):
            return "wrong"
        return "not compared" if any(check.undone for check in self.checks) else "good"

    def tables(self) -> list[Table]:
        """Return the table of the checks, with what is wrong in its notes."""
        rows, notes = [], []
        if self.evaluated:
            notes.append(
                f"{self.evaluated:,} states evaluated by {self.engine} (made by "
                f"{self.recorded_engine}), compared "
                + ("to the bit" if self.to_the_bit else "to one image")
            )
        for check in self.checks:
            wrong = "-" if check.undone and not check.wrong else f"{check.wrong:,}"
            rows.append((check.name, f"{check.checked:,}", wrong, check.note))
            notes += [f"{check.name}: {offender}" for offender in check.offenders]
            if check.wrong > len(check.offenders):
                notes.append(f"{check.name}: and {check.wrong - len(check.offenders):,} more")
        title = f"{self.zoo}: {self.models:,} models, {self.states:,} states"
        notes.append("Looked at are models, states or single values, whichever a check is of.")
        columns = ("check", "looked at", "wrong", "note")
        undone = [check.name for check in self.checks if check.undone]
        notes.append(
            {
                "good": "good" if self.evaluated else "good, though no state was evaluated",
                "wrong": "NOT GOOD",
                "not compared": f"not compared: {', '.join(undone)}; nothing else is wrong",
            }[self.verdict]
        )
        marked = tuple(i for i, check in enumerate(self.checks) if check.wrong or check.undone)
        return [Table(title, columns, tuple(rows), tuple(notes), marked)]


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
    """Check a zoo: every row's form, and the metrics of some or all states.

    Args:
        name: name of a zoo directory, not of a union.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        states: number of states to evaluate, spread over models and epochs; None for all, 0 for
            none.
        images: the images that the models saw; by default those that zoo.json names are loaded.
        images_dir, download: as for images.load_images.
        threads: cores to evaluate on; None for all that this process may use.
        seed: seed of the choice of states.
        on_progress: called with the number of rows read and of all rows.

    Raises:
        ZooNotFound: there is no such zoo directory.
        FaultyZoo: none of its files can be read at all.
        ValueError: the images do not fit the architecture, or a negative number of states.
    """
    if states is not None and states < 0:
        raise InvalidArgument(f"states must be 0 or more, found {states}")
    directory = open_zoo(zoos_home(data_dir), name)
    zoo, findings = ZooOnDisk(directory), Findings()
    chosen = choose_states(zoo.states, states, seed)
    for check in CHECKS:
        check(zoo, findings)
    findings["accuracy"].see(0)
    findings["loss"].see(0)
    if not len(chosen):
        findings["accuracy"].remark("not asked for (0 states)")
    evaluator = None
    if len(chosen):
        if zoo.penalised:
            findings["loss"].remark("not compared: those of imported twins hold the divergence too")
        try:
            images = zoo_images(directory, images, images_dir, download)
        except (ImageFilesError, ValueError) as error:
            findings["accuracy"].remark(f"not checked: {error}", undone=True)
            findings["loss"].remark("not checked, as the accuracy", undone=True)
        else:
            evaluator = Evaluator(zoo, images, threads, findings)
            if recorded_digest(directory) is None:
                findings["accuracy"].remark(
                    "zoo.json has no digest of the images: if most states are wrong, the models "
                    "may have seen others"
                )
    _check_weights(zoo, findings, chosen, evaluator, on_progress)
    return Audit(
        zoo=directory.zoo.name,
        models=len(set(zoo.states.model_id)),
        states=len(zoo.states),
        evaluated=evaluator.states if evaluator else 0,
        engine=evaluator.engine if evaluator else None,
        recorded_engine=directory.info.get("engine"),
        to_the_bit=evaluator.to_the_bit if evaluator else False,
        checks=list(findings.values()),
    )


def choose_states(states: States, count: int | None, seed: int) -> NDArray[np.int64]:
    """Choose rows to evaluate, as many of each model and of each epoch as possible.

    Args:
        states: all states of the zoo.
        count: how many; None for all.
        seed: seed of the choice.

    Returns:
        Row numbers, ascending.
    """
    total = len(states)
    if count is None or count >= total:
        return np.arange(total)
    order = np.random.default_rng(seed).permutation(total)
    # The first rows of all models, then the second of all, ...: each model's in random order.
    turn = np.empty(total, np.int64)
    seen: dict[str, int] = defaultdict(int)
    for row in order:
        turn[row] = seen[states.model_id[row]]
        seen[states.model_id[row]] += 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


# --- Weights --------------------------------------------------------------------------------------


def _check_weights(
    zoo: ZooOnDisk,
    findings: Findings,
    chosen: NDArray[np.int64],
    evaluator: Evaluator | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Check all weights, and evaluate the chosen rows, in one pass over the files."""
    states, specification = zoo.states, zoo.directory.zoo
    layout, twins = specification.layout, zoo.directory.parent_zoo is not None
    drawn = zoo.generated and not twins and specification.keeps_epoch_0
    no_bias = np.ones(layout.size, bool)
    for slot in layout.slots:
        no_bias[slot.slice] = not slot.name.endswith(".bias")
    for name in ("finite", "duplicates"):
        findings[name].see(0)
    evaluated = np.zeros(len(states), bool)
    evaluated[chosen] = True
    trained = np.zeros(len(states), bool)
    digests = np.zeros((len(states), 2), np.uint64)
    diverged = unknown = row = 0
    for key, vector in _weights(zoo.directory):
        if row == len(states) or key != (states.model_id[row], states.epoch[row]):
            raise _changed(zoo.directory)
        findings["finite"].see()
        title, epoch = states.title(row), states.epoch[row]
        if not np.isfinite(vector).all():
            loss = states.metric("test_loss", row)
            lost = loss is None or not np.isfinite(loss)
            diverged += lost
            if not lost:
                findings["finite"].fail(
                    f"{title}: {int((~np.isfinite(vector)).sum())} weights are NaN or "
                    f"infinite, but its test_loss is {loss:.4f}"
                )
        elif epoch > 0:
            digest = hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
            trained[row], digests[row] = True, np.frombuffer(digest, np.uint64)
        init = states.init[row]
        if drawn and epoch == 0 and init in INITS:
            findings["first weights"].see()
            first, _ = initial_weights(layout, init, states.seed[row])
            if vector.tobytes() != first.tobytes():
                findings["first weights"].fail(f"{title}: are not those that its seed gives")
        _check_sparsity(states, row, vector[no_bias] if twins else None, findings)
        activation = states.activation[row]
        if evaluator is not None and evaluated[row]:
            if activation not in ACTIVATIONS:
                unknown += 1
            else:
                evaluator.add(row, activation, vector)
        row += 1
        if on_progress is not None and (row % 64 == 0 or row == len(states)):
            on_progress(row, len(states))
    if row != len(states):
        raise _changed(zoo.directory)
    if evaluator is not None:
        evaluator.finish()
    rows = np.flatnonzero(trained)
    findings["duplicates"].see(len(rows))
    equal = rows[first_equal(states.epoch[rows], *digests[rows].T)]
    for copy, other in zip(rows[rows != equal], equal[rows != equal], strict=True):
        findings["duplicates"].fail(
            f"{states.title(copy)}: has the weights of {states.model_id[other]}"
        )
    if diverged:
        findings["finite"].remark(f"{diverged} states of diverged models, whose loss is NaN too")
    if unknown:
        findings["accuracy"].remark(
            f"{unknown} states not checked: their activation is not known", undone=True
        )


def _weights(directory: ZooDirectory) -> Iterator[tuple[tuple[str, int], NDArray[np.float32]]]:
    """Yield model id and epoch, and weights [N], of every state on disk, in the order of `States`.

    They are streamed: an audit must see what is on disk now, and leave no copy in a cache.
    """
    size = max(1, min(256, _BATCH_BYTES // (4 * directory.zoo.layout.size)))
    columns = ["model_id", "epoch", "weights"]
    streams = open_stream(directory.zoo.name, directory.path.parent, columns)
    for stream in streams.values():
        for table in stream.with_format("arrow").iter(batch_size=size):
            keys = zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True)
            yield from zip(keys, weights_matrix(table), strict=True)


def _changed(directory: ZooDirectory) -> RuntimeError:
    return RuntimeError(
        f"{directory.path} changed while it was read: start again when nothing writes to it"
    )


def _check_sparsity(
    states: States, row: int, weights: NDArray[np.float32] | None, findings: Findings
) -> None:
    """A twin's recorded sparsity is the share of zeros among its weights without biases."""
    recorded = states.metric("sparsity", row)
    if weights is None:
        if recorded is not None:
            findings["sparsity"].see()
            findings["sparsity"].fail(f"{states.title(row)}: has one, but is no twin")
        return
    findings["sparsity"].see()
    share = float((weights == 0).mean())
    if recorded is None or abs(recorded - share) > 1e-6:
        findings["sparsity"].fail(
            f"{states.title(row)}: recorded {recorded}, of its weights {share:.6f} are 0"
        )
