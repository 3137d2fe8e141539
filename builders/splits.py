"""Which models of a zoo are for training, validation and test.

Splits are by model, never by state: all states of one model lie in one split, as in the original
(code/checkpoints_to_datasets/dataset_base.py), which splits 70 / 15 / 15.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
METRIC_OF_SPLIT = {"train": "train", "validation": "val", "test": "test"}
"""Split of the images -> prefix of its metrics, as in "val_loss"."""


def assign_splits(existing: Mapping[str, str], model_ids: Iterable[str]) -> dict[str, str]:
    """Splits of all models: those of `existing` unchanged, new models filling up to 70/15/15.

    New models are taken in an order that depends on their ids alone (a digest, so that it has
    nothing to do with hyperparameters), and each goes where the share is furthest below its target.

    Args:
        existing: model id -> split, already written down.
        model_ids: of the zoo, in any order; known ones are left as they are.

    Returns:
        model id -> split, sorted by model id.
    """
    splits = dict(existing)
    counts = dict.fromkeys(SPLITS, 0)
    for split in splits.values():
        counts[split] += 1
    new = sorted(set(model_ids) - set(splits), key=lambda i: hashlib.sha256(i.encode()).digest())
    for model_id in new:
        split = next_split(counts)
        splits[model_id] = split
        counts[split] += 1
    return dict(sorted(splits.items()))


def next_split(counts: Mapping[str, int]) -> str:
    """Where one more model goes: the split whose share is furthest below its target.

    Args:
        counts: models by split.
    """
    total = sum(counts.values()) + 1
    return max(SPLITS, key=lambda split: SHARES[split] * total - counts[split])
