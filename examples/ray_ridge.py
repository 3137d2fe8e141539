"""Test accuracy by ridge, with Ray Data: python examples/ray_ridge.py repository digits_cnn_s"""

import sys
from pathlib import Path

import numpy as np
import ray

from model_zoos.benchmarks.probes import STRENGTHS
from model_zoos.benchmarks.representations import statistics_table


def features(table):  # as for the benchmark, without states of a weight above 5
    largest = np.array([np.abs(row).max() for row in table["weights"].to_numpy()])
    return statistics_table(table.filter(largest <= 5)).drop_columns("architecture")


def gram(split, center=0.0):  # the sum over all batches of Z'Z, where Z is [1, y, X] less a center
    def product(batch):
        z = np.column_stack([np.ones(len(batch["test_acc"])), *batch.values()]) - center
        return {"product": (z.T @ z)[None]}

    files = sorted(map(str, Path(sys.argv[1], "data", sys.argv[2]).glob(f"{split}-*.parquet")))
    rows = ray.data.read_parquet(files).select_columns(["architecture", "test_acc", "weights"])
    rows = rows.map_batches(features, batch_format="pyarrow", batch_size=64)
    return sum(row["product"] for row in rows.map_batches(product, batch_size=64).take_all())


first = gram("train")
center = first[0] / first[0, 0] * (np.arange(len(first)) > 0)  # the means in train
sums = {split: gram(split, center) for split in ("train", "validation", "test")}
values, vectors = np.linalg.eigh(sums["train"][2:, 2:])
scale = 1 / (np.maximum(values, 0)[:, None] + np.array(STRENGTHS))
weights = vectors @ (scale * (vectors.T @ sums["train"][2:, 1])[:, None])
e = np.vstack([0 * scale[0], 1 + 0 * scale[0], -weights])  # Z e is y - X b, for each strength
r2 = {s: 1 - (e * (z @ e)).sum(0) / (z[1, 1] - z[0, 1] ** 2 / z[0, 0]) for s, z in sums.items()}
best = r2["validation"].argmax()
print(f"ridge {STRENGTHS[best]:g}, R2 in test {r2['test'][best]:.3f}")
