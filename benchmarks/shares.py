"""Shares of an audit: the checks that need weights, divided by model among several ranks.

A share depends only on the zoo and the rank. All shares are joined into the audit that one process
makes, for which a single share covers everything (audit.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..builders.atomic import json_bytes, write_atomically
from ..builders.hyperparameters import ACTIVATIONS, INITS
from ..builders.ranks import Rank
from ..builders.untrusted import parse_json, read_plain
from ..builders.zoo_directory import ZooDirectory
from ..errors import ImageFilesError, InvalidArgument
from ..generation.images import ImageData
from ..generation.streams import initial_weights
from .checks import States, Tally, ZooOnDisk
from .evaluation import Evaluator, blocks
from .states import open_stream, weights_matrix

BY_WEIGHTS = ("accuracy", "loss", "finite", "first weights", "sparsity")
"""The checks that need the weights of one state at a time."""

DIGEST_BYTES = 16
"""Size in bytes of the digest of a state's weights."""

_BATCH_BYTES = 32 << 20
"""Number of weights that are read at a time."""

_MAX_PART = 1 << 28
"""Limit of the file of a share, in bytes."""


@dataclass(frozen=True)
class Share:
    """The results of one rank.

    Attributes:
        zoo: name.
        rank, ranks: index of this share, from 0, and number of shares.
        fingerprint: digest of names, sizes and times of the zoo's files.
        states, seed: number of states to evaluate, None for all, and seed of their choice.
        evaluated: number of states that were evaluated.
        engine: the engine that evaluated them; None if there were none.
        to_the_bit: whether recorded and evaluated metrics had to be equal in all bits.
        not_checked: why none could be evaluated; None if they were.
        diverged: number of states of diverged models with weights that are not finite.
        unknown: number of states to be evaluated whose activation is not known.
        digests: hexadecimal digests of the weights of all states, concatenated; zeros for states
            that are not compared.
        tallies: name in `BY_WEIGHTS` -> result of that check.
    """

    zoo: str
    rank: int
    ranks: int
    fingerprint: str
    states: int | None
    seed: int
    evaluated: int
    engine: str | None
    to_the_bit: bool
    not_checked: str | None
    diverged: int
    unknown: int
    digests: str
    tallies: dict[str, Tally]


def fingerprint(directory: ZooDirectory) -> str:
    """Return a digest that changes whenever the zoo does."""
    return hashlib.sha256(json.dumps(directory.fingerprint()).encode()).hexdigest()


def owners(states: States, count: int) -> NDArray[np.int64]:
    """Return the rank that checks each row, int64 [rows].

    Each rank gets consecutive models, and all ranks about the same number of states.

    Args:
        states: all states of the zoo.
        count: number of ranks.
    """
    _, first, model, rows = np.unique(
        states.model_id, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    before = np.empty_like(rows)
    before[order] = np.cumsum(rows[order]) - rows[order]
    return (before * count // max(1, len(states)))[model]


def audit_weights(
    zoo: ZooOnDisk,
    rank: Rank,
    chosen: NDArray[np.int64],
    load: Callable[[], ImageData],
    threads: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Check the weights of a rank's states, and evaluate the chosen ones, in one pass over files.

    Args:
        zoo: the zoo.
        rank: the rank.
        chosen: indices of the rows to evaluate on all ranks, ascending.
        load: function that returns the images.
        threads: number of cores for evaluation; None for all that this process may use.
        on_progress: called with the number of rows read, and of all rows.

    Returns:
        The fields of its `Share`, from `evaluated` on.
    """
    states, specification = zoo.states, zoo.directory.zoo
    layout, twins = specification.layout, zoo.directory.parent_zoo is not None
    drawn = zoo.generated and not twins and specification.keeps_epoch_0
    no_bias = np.ones(layout.size, bool)
    for slot in layout.slots:
        no_bias[slot.slice] = not slot.name.endswith(".bias")
    owner = owners(states, rank.count)
    own = owner == rank.index
    # A block belongs to the rank of its first state.
    mine = [block for block in blocks(zoo, chosen) if owner[block[1][0]] == rank.index]
    block_of = {row: number for number, (_, rows) in enumerate(mine) for row in rows}
    tallies = {name: Tally() for name in BY_WEIGHTS}
    evaluator, not_checked = None, None
    if mine:
        try:
            evaluator = Evaluator(zoo, load(), threads, tallies)
        except (ImageFilesError, ValueError) as error:
            not_checked = str(error)
    waiting: dict[int, list[NDArray[np.float32]]] = {}
    digests = {row: bytes(DIGEST_BYTES) for row in np.flatnonzero(own).tolist()}
    wanted = own.copy()
    wanted[list(block_of)] = True
    total, diverged = int(wanted.sum()), 0
    for done, (row, vector) in enumerate(_weights(zoo, wanted, rank), start=1):
        if own[row]:
            title, epoch = states.title(row), states.epoch[row]
            tallies["finite"].see()
            if not np.isfinite(vector).all():
                loss = states.metric("test_loss", row)
                lost = loss is None or not np.isfinite(loss)
                diverged += lost
                if not lost:
                    tallies["finite"].fail(
                        row,
                        f"{title}: {int((~np.isfinite(vector)).sum())} weights are NaN or "
                        f"infinite, but its test_loss is {loss:.4f}",
                    )
            elif epoch > 0:
                digest = hashlib.blake2b(vector.tobytes(), digest_size=DIGEST_BYTES)
                digests[row] = digest.digest()
            init = states.init[row]
            if drawn and epoch == 0 and init in INITS:
                tallies["first weights"].see()
                first, _ = initial_weights(layout, init, states.seed[row])
                if vector.tobytes() != first.tobytes():
                    tallies["first weights"].fail(
                        row, f"{title}: are not those that its seed gives"
                    )
            _check_sparsity(states, row, vector[no_bias] if twins else None, tallies["sparsity"])
        if evaluator is not None and (number := block_of.get(row)) is not None:
            kind, rows = mine[number]
            waiting.setdefault(number, []).append(vector.copy())
            if len(waiting[number]) == len(rows):
                evaluator.evaluate(kind, rows, np.stack(waiting.pop(number)))
        if on_progress is not None and (done % 64 == 0 or done == total):
            on_progress(done, total)
    return {
        "evaluated": evaluator.states if evaluator else 0,
        "engine": evaluator.engine if evaluator else None,
        "to_the_bit": evaluator.to_the_bit if evaluator else False,
        "not_checked": not_checked,
        "diverged": diverged,
        "unknown": sum(states.activation[row] not in ACTIVATIONS for row in chosen[own[chosen]]),
        "digests": b"".join(digests.values()).hex(),
        "tallies": tallies,
    }


def _weights(
    zoo: ZooOnDisk, wanted: NDArray[np.bool_], rank: Rank
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the index and the weights [N] of each wanted row, in order.

    They are streamed: an audit must see what is on disk now, and leave no copy in a cache.
    """
    directory, states = zoo.directory, zoo.states
    models = sorted(set(states.model_id[wanted]))
    options = {} if rank.count == 1 else {"filters": [("model_id", "in", models)]}
    rows = iter(np.flatnonzero(np.isin(states.model_id.astype(str), models)).tolist())
    if rank.count > 1 and not models:
        return
    size = max(1, min(256, _BATCH_BYTES // (4 * directory.zoo.layout.size)))
    columns = ["model_id", "epoch", "weights"]
    streams = open_stream(directory.zoo.name, directory.path.parent, columns, **options)
    for stream in streams.values():
        for table in stream.with_format("arrow").iter(batch_size=size):
            keys = zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True)
            for key, vector in zip(keys, weights_matrix(table), strict=True):
                row = next(rows, None)
                if row is None or key != (states.model_id[row], states.epoch[row]):
                    raise _changed(directory)
                if wanted[row]:
                    yield row, vector
    if next(rows, None) is not None:
        raise _changed(directory)


def _changed(directory: ZooDirectory) -> RuntimeError:
    return RuntimeError(
        f"{directory.path} changed while it was read: start again when nothing writes to it"
    )


def _check_sparsity(
    states: States, row: int, weights: NDArray[np.float32] | None, tally: Tally
) -> None:
    """Check that a twin's sparsity is the share of zeros among its weights without biases."""
    recorded = states.metric("sparsity", row)
    if weights is None:
        if recorded is not None:
            tally.see()
            tally.fail(row, f"{states.title(row)}: has one, but is no twin")
        return
    tally.see()
    share = float((weights == 0).mean())
    if recorded is None or abs(recorded - share) > 1e-6:
        tally.fail(
            row, f"{states.title(row)}: recorded {recorded}, of its weights {share:.6f} are 0"
        )


# --- The files of shares --------------------------------------------------------------------------


def share_path(folder: Path, zoo: str, rank: Rank) -> Path:
    """Return the file of a share."""
    return folder / f"{zoo}-{rank}.json"


def write_share(folder: Path, share: Share) -> Path:
    """Write a share into a folder, which is created if it does not exist; return its file."""
    path = share_path(folder, share.zoo, Rank(share.rank, share.ranks))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_bytes(dataclasses.asdict(share)))
    return path


def read_shares(folder: Path, zoo: str, count: int) -> list[Share]:
    """Read the shares of a zoo on all ranks.

    Raises:
        InvalidArgument: some are missing, or a file is not a share.
    """
    ranks = [Rank(index, count) for index in range(count)]
    paths = [share_path(folder, zoo, rank) for rank in ranks]
    if absent := [
        str(rank.index) for rank, path in zip(ranks, paths, strict=True) if not path.exists()
    ]:
        raise InvalidArgument(
            f"{folder} lacks the results of {len(absent)} of {count} ranks for {zoo}: ranks "
            + ", ".join(absent[:20])
            + ", ..." * (len(absent) > 20),
            hint=f"model-zoos verify {zoo} --rank {absent[0]} --ranks {count}",
        )
    return [_read_share(path, zoo, rank) for path, rank in zip(paths, ranks, strict=True)]


def _read_share(path: Path, zoo: str, rank: Rank) -> Share:
    try:
        values: Any = parse_json(read_plain(path, _MAX_PART))
        tallies = {
            name: Tally(
                int(v["checked"]), int(v["wrong"]), [(int(r), str(t)) for r, t in v["offenders"]]
            )
            for name, v in values.pop("tallies").items()
        }
        share = Share(**values, tallies=tallies)
        bytes.fromhex(share.digests)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgument(f"{path}: not what a rank of verify writes ({error})") from error
    if (share.zoo, share.rank, share.ranks) != (zoo, rank.index, rank.count) or set(tallies) != set(
        BY_WEIGHTS
    ):
        raise InvalidArgument(f"{path}: not what {rank} of verify writes about {zoo}")
    return share
