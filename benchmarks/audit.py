"""Check that the rows of a zoo are correct: `model-zoos verify`.

A state's weights define a network. On the zoo's images, the network must have the recorded accuracy
and loss. The engines that train populations evaluate sampled states (or all), many at a time. On
the engine that recorded the values, they must agree in all bits of the row's float32. On another
engine, which sums in another order, accuracies must agree within one image and losses within 1e-3.

Moreover, every row is checked: files, layout, ids, epochs, splits, values that are not finite,
duplicates, the first weights that a seed gives, and a twin's parent, split and sparsity. Twins made
by this package must also have their parent's hyperparameters and start from its last weights.

An audit cannot check two things: training metrics after epoch 0, which are running means over an
epoch, and the order of a trajectory whose rows were all permuted together.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..builders.homes import zoos_home
from ..builders.phrases import counted
from ..builders.ranks import ALONE, Rank
from ..builders.zoo_directory import ZooDirectory, open_zoo
from ..errors import InvalidArgument
from ..generation.images import ImageData
from .checks import CHECKS, Check, Findings, States, ZooOnDisk, first_equal
from .evaluation import recorded_digest, zoo_images
from .shares import BY_WEIGHTS, DIGEST_BYTES, Share, audit_weights, fingerprint, owners
from .tables import Table

STATES = 512
"""Number of states that are evaluated by default."""


@dataclass(frozen=True)
class Audit:
    """All checks of one zoo.

    Attributes:
        zoo: name.
        models, states: numbers of models and states in its readable files.
        evaluated: number of states that were evaluated.
        engine: the engine that evaluated them; None if there were none.
        recorded_engine: the engine that made the zoo, according to zoo.json.
        to_the_bit: whether recorded and evaluated metrics had to be equal in all bits.
        checks: the checks, in a fixed order.
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
        """Whether nothing is wrong, and no check had to be left undone."""
        return self.verdict == "good"

    @property
    def verdict(self) -> str:
        """Return "wrong", "not compared" if a check could not be made, or "good"."""
        if any(check.wrong for check in self.checks):
            return "wrong"
        return "not compared" if any(check.undone for check in self.checks) else "good"

    def tables(self) -> list[Table]:
        """Return the table of the checks, whose notes list what is wrong."""
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
        title = f"{self.zoo}: {counted(self.models, 'model')}, {counted(self.states, 'state')}"
        notes.append('"looked at" counts models, states or single values, depending on the check.')
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
    """Check a zoo: the form of every row, and the metrics of some or all states.

    Args:
        name: name of a zoo directory, not of a union.
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.
        states: number of states to evaluate, spread over models and epochs; None for all, 0 for
            none.
        images: the images for the models; by default those that zoo.json names are loaded.
        images_dir, download: see `images.load_images`.
        threads: number of cores for evaluation; None for all that this process may use.
        seed: seed of the choice of states.
        on_progress: called with the number of rows read, and of all rows.

    Raises:
        ZooNotFound: there is no such zoo directory.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: a negative number of states.
    """
    _check_number(states)
    zoo, asked = _open(name, data_dir), (states, images, images_dir, download, threads, seed)
    return _join(zoo, [_share(zoo, ALONE, *asked, on_progress)])


def audit_share(
    name: str,
    rank: Rank,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    states: int | None = STATES,
    images: ImageData | None = None,
    images_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    threads: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Share:
    """Check a rank's share of a zoo, for `join_shares`.

    Args:
        name: name of a zoo directory, not of a union.
        rank: the share. Ranks do not wait for each other.
        data_dir, states, images, images_dir, download, threads, seed, on_progress: see `audit_zoo`;
            `states` is the total over all ranks.

    Raises:
        ZooNotFound: there is no such zoo directory.
        FaultyZoo: all its files are unreadable.
        InvalidArgument: a negative number of states.
    """
    _check_number(states)
    asked = (states, images, images_dir, download, threads, seed)
    return _share(_open(name, data_dir), rank, *asked, on_progress)


def join_shares(
    name: str, shares: Sequence[Share], data_dir: str | os.PathLike[str] | None = None
) -> Audit:
    """Join the shares of all ranks into the result of `audit_zoo`.

    Args:
        name: name of a zoo directory, not of a union.
        shares: the shares of ranks 0, 1, ...
        data_dir: folder of zoo directories, else MODEL_ZOOS_HOME, else ./zoos.

    Raises:
        InvalidArgument: they are not the shares of all ranks, they differ in the states to
            evaluate, or the zoo has changed since.
    """
    zoo = _open(name, data_dir)
    _refuse_strangers(zoo.directory, shares)
    return _join(zoo, shares)


def _check_number(states: int | None) -> None:
    if states is not None and states < 0:
        raise InvalidArgument(f"states must be 0 or more, found {states}")


def _open(name: str, data_dir: str | os.PathLike[str] | None) -> ZooOnDisk:
    return ZooOnDisk(open_zoo(zoos_home(data_dir), name))


def _share(
    zoo: ZooOnDisk,
    rank: Rank,
    states: int | None,
    images: ImageData | None,
    images_dir: str | os.PathLike[str] | None,
    download: bool,
    threads: int | None,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> Share:
    mark = fingerprint(zoo.directory)
    chosen = choose_states(zoo.states, states, seed)
    load = partial(zoo_images, zoo.directory, images, images_dir, download)
    found = audit_weights(zoo, rank, chosen, load, threads, on_progress)
    about = (zoo.directory.zoo.name, rank.index, rank.count, mark, states, seed)
    return Share(*about, **found)


def _join(zoo: ZooOnDisk, shares: Sequence[Share]) -> Audit:
    directory, states, findings = zoo.directory, zoo.states, Findings()
    for check in CHECKS:
        check(zoo, findings)
    accuracy, loss = findings["accuracy"], findings["loss"]
    engines = sorted({share.engine for share in shares if share.engine is not None})
    if not len(choose_states(states, shares[0].states, shares[0].seed)):
        accuracy.remark("not asked for (0 states)")
    elif zoo.penalised:
        loss.remark("not compared: the losses of imported twins include the KL divergence")
    reasons = dict.fromkeys(share.not_checked for share in shares if share.not_checked is not None)
    for reason in reasons:
        accuracy.remark(f"not checked: {reason}", undone=True)
    if reasons:
        loss.remark("not checked, as the accuracy", undone=True)
    if engines and recorded_digest(directory) is None:
        accuracy.remark(
            "zoo.json has no digest of the images: if most states are wrong, the models "
            "may have seen others, or have another activation than their rows say"
        )
    findings["finite"].see(0)
    _check_duplicates(states, shares, findings["duplicates"])
    for name in BY_WEIGHTS:
        tallies = [share.tallies[name] for share in shares]
        if any(tally.checked for tally in tallies):
            findings[name].add(tallies)
    if engines and not accuracy.checked and not loss.checked:
        accuracy.remark("not compared: no evaluated state has a recorded accuracy", undone=True)
    if diverged := sum(share.diverged for share in shares):
        findings["finite"].remark(f"{diverged} states of diverged models, whose loss is NaN too")
    if unknown := sum(share.unknown for share in shares):
        accuracy.remark(
            f"{unknown} states not checked: their activation is not known (an import takes it by "
            "--constant activation=NAME)",
            undone=True,
        )
    return Audit(
        zoo=directory.zoo.name,
        models=len(set(states.model_id)),
        states=len(states),
        evaluated=sum(share.evaluated for share in shares),
        engine=" and ".join(engines) or None,
        recorded_engine=directory.info.get("engine"),
        to_the_bit=bool(engines) and all(s.to_the_bit for s in shares if s.engine is not None),
        checks=list(findings.values()),
    )


def _refuse_strangers(directory: ZooDirectory, shares: Sequence[Share]) -> None:
    """Refuse shares that are not all from one audit of the unchanged zoo."""
    name, mark = directory.zoo.name, fingerprint(directory)
    if [(share.rank, share.ranks) for share in shares] != [
        (i, len(shares)) for i in range(len(shares))
    ]:
        raise InvalidArgument(f"expected the shares of {name} on the ranks 0, 1, ... and no others")
    for share in shares:
        again = f"model-zoos verify {name} --rank {share.rank} --ranks {share.ranks}"
        if (share.zoo, share.fingerprint) != (name, mark):
            raise InvalidArgument(
                f"{name} has changed since rank {share.rank} checked it", hint=again
            )
        if (share.states, share.seed) != (shares[0].states, shares[0].seed):
            raise InvalidArgument(
                f"rank {share.rank} has chosen other states of {name} than rank 0: all ranks must "
                "evaluate the same states",
                hint=f"{again}, with the same --states or --all as rank 0",
            )


def _check_duplicates(states: States, shares: Sequence[Share], check: Check) -> None:
    """Check that no two trained states of one epoch have the same weights."""
    owner = owners(states, len(shares))
    digests = np.zeros((len(states), DIGEST_BYTES // 8), np.uint64)
    for share in shares:
        own = owner == share.rank
        found = np.frombuffer(bytes.fromhex(share.digests), np.uint64)
        if found.size != digests[own].size:
            raise InvalidArgument(f"rank {share.rank} has checked other states of {share.zoo}")
        digests[own] = found.reshape(-1, digests.shape[1])
    rows = np.flatnonzero(digests.any(axis=1))
    check.see(len(rows))
    equal = rows[first_equal(states.epoch[rows], *digests[rows].T)]
    for copy, other in zip(rows[rows != equal], equal[rows != equal], strict=True):
        check.fail(f"{states.title(copy)}: has the weights of {states.model_id[other]}")


def choose_states(states: States, count: int | None, seed: int) -> NDArray[np.int64]:
    """Choose rows to evaluate, balanced over models and over epochs.

    Args:
        states: all states of the zoo.
        count: number of rows; None for all.
        seed: seed of the choice.

    Returns:
        Row numbers, ascending.
    """
    total = len(states)
    if count is None or count >= total:
        return np.arange(total)
    order = np.random.default_rng(seed).permutation(total)
    # First one row of every model, then a second of every model, ...: in random order per model.
    turn = np.empty(total, np.int64)
    seen: dict[str, int] = defaultdict(int)
    for row in order:
        turn[row] = seen[states.model_id[row]]
        seen[states.model_id[row]] += 1
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])
