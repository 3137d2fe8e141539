"""Explore a zoo: load it, run one of its models, compare with the values in its row."""

import os
import textwrap

import numpy as np
from datasets import load_dataset

import model_zoos

splits = load_dataset("model_zoos", "digits_cnn_s")
final = []  # test accuracies of all models at their last epoch
for split, rows in splits.items():
    last = np.array(rows["epoch"]) == rows[0]["epochs"]
    final.append(np.array(rows["test_acc"])[last])
    print(f"{split}: {last.sum()} models, {len(rows):,} states, a row each")

# The best state of the test split, as a row and as a network.
row = splits["test"][int(np.argmax(splits["test"]["test_acc"]))]
known = [name for name, value in row.items() if value is not None]
print(textwrap.fill(f"columns: {', '.join(known)}", 100, subsequent_indent="  "))
network = model_zoos.instantiate(row)
digits = model_zoos.load_images("digits")
predicted = network(digits.normalized("test")).argmax(1)
accuracy = (predicted == digits.test.labels).double().mean().item()
print(f"best state of test: {row['activation']}, {row['init']}, epoch {row['epoch']}")
print(f"its test accuracy: recorded {row['test_acc']:.6f}, recomputed {accuracy:.6f}")
assert abs(accuracy - row["test_acc"]) < 1e-6

# All weights of a split as one tensor, rows as in the split.
print("weights of train:", tuple(model_zoos.weights(splits["train"]).shape))

accuracies = np.concatenate(final)
home = os.environ.get("MODEL_ZOOS_HOME", "zoos")
print(f"""
{(accuracies < 0.2).sum()} of {len(accuracies)} models hardly learn: their test accuracy ends below
0.2. This is on purpose. The grid pairs initialisations, activations and learning rates that do not
fit, so that models differ. "Left out" in a benchmark counts states that it does not use: those with
a weight above 5, a sign of unstable training. The paper's data sets leave them out too. They stay
in the zoo.

What to do next:
  model-zoos report digits_cnn_s --data-dir {home}
  model-zoos verify digits_cnn_s --data-dir {home}
  model-zoos generate mnist_cnn_s_seed --models 16 --epochs 1 --out zoos-mnist --download""")
