"""The split of each model of a zoo: train, validation or test.

All states of one model lie in one split, as in the paper's code
(code/checkpoints_to_datasets/dataset_base.py), which splits 70 / 15 / 15.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

SPLITS: tuple[str, ...] = ("train", "validation", "test")
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
FEWEST_MODELS = 5
"""Smallest number of models that fills every split if none is assigned yet."""

METRIC_OF_SPLIT = {"train": "train", "validation": "val", "test": "test"}
"""Split of the images -> prefix of its metrics, as in "val_loss"."""


def assign_splits(existing: Mapping[str, str], model_ids: Iterable[str]) -> dict[str, str]:
    """Assign a split to each new model so that the shares approach 70/15/15; keep all others.

    New models are taken in an order that depends only on a digest of their ids and is therefore
    independent of hyperparameters. Each goes to the split whose share is furthest below its target.

    Args:
        existing: model id -> split, already assigned.
        model_ids: ids of models of the zoo, in any order; known ones keep their split.

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
    """Return the split whose share is furthest below its target, given the number in each."""
    total = sum(counts.values()) + 1
    return max(SPLITS, key=lambda split: SHARES[split] * total - counts[split])


def why_empty(counts: Mapping[str, int]) -> str:
    """Return why splits with these counts are empty, and what helps; "" if none is empty."""
    empty = [split for split in SPLITS if not counts.get(split)]
    if not empty or not any(counts.values()):
        return ""
    numbers = "/".join(str(counts.get(split, 0)) for split in SPLITS)
    return (
        f"{' and '.join(empty)} {'has' if len(empty) == 1 else 'have'} no model: models are split "
        f"70/15/15, here {numbers}, and "
        + (
            "twins are in the splits of their parents: more parents must have twins"
            if sum(counts.values()) >= FEWEST_MODELS
            else f"from {FEWEST_MODELS} models on each split has one"
        )
    )
