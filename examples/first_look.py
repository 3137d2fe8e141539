"""A first look at a zoo: load it, run one of its models, compare with what its row says."""

from datasets import load_dataset

import model_zoos
from model_zoos.generation.images import load_images

splits = load_dataset("model_zoos", "digits_cnn_s")
print(splits)

# The best model of the test split, as a row and as a network.
best = max(splits["test"].select_columns(["test_acc"]), key=lambda row: row["test_acc"])
row = next(row for row in splits["test"] if row["test_acc"] == best["test_acc"])
print({name: value for name, value in row.items() if name != "weights" and value is not None})
network = model_zoos.instantiate(row)

digits = load_images("digits")
predicted = network(digits.normalized("test")).argmax(1)
accuracy = (predicted == digits.test.labels).double().mean().item()
print(f"test accuracy recorded {row['test_acc']:.6f}, recomputed {accuracy:.6f}")
assert abs(accuracy - row["test_acc"]) < 1e-6

# All weights of a split as one tensor, rows as in the split.
print("weights", tuple(model_zoos.weights(splits["train"]).shape))
