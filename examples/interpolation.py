"""Interpolate between trained models before and after alignment, and plot the barriers.

The best model of the zoo is mixed in ten steps with each other one that has its activation and has
learned. The loss rises between them: the barrier. Weight matching permutes the hidden units of the
others towards the best one, without changing any function, which lowers the barrier; in networks as
narrow as these, most of it remains. Run it after `make demo`.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from datasets import load_dataset

import model_zoos

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("zoos", nargs="?", default="demo/zoos", help="folder of zoo directories")
parser.add_argument("picture", nargs="?", default="interpolation.png", help="PNG to write")
home, picture = vars(parser.parse_args()).values()
rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=home, split="train", final=True)
best = rows[int(np.argmax(rows["test_acc"]))]
rows = rows.filter(
    lambda row: row["activation"] == best["activation"] and row["test_acc"] > 0.5
).sort("test_acc", reverse=True)
layout, weights = model_zoos.layout_of(best), model_zoos.weights(rows).numpy()
reference, others = weights[0], weights[1:]
aligned = model_zoos.permute(others, layout, model_zoos.weight_matching(others, reference, layout))

shares = np.linspace(0, 1, 11)
digits = model_zoos.load_images("digits")
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, models, color in (("before", others, "#d55e00"), ("after", aligned, "#0072b2")):
    mixed = (1 - shares)[:, None, None] * reference + shares[:, None, None] * models
    found = model_zoos.evaluate(mixed.reshape(-1, layout.size), best, digits)
    loss, accuracy = (values.reshape(len(shares), -1) for values in found)
    straight = (1 - shares)[:, None] * loss[0] + shares[:, None] * loss[-1]
    barrier = (loss - straight).max(axis=0)
    distance = np.linalg.norm(models - reference, axis=1)
    print(f"{name}: barrier {np.median(barrier):.3f} nats, distance {np.median(distance):.2f}")
    for panel, values in zip(panels, (loss, accuracy), strict=True):
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        panel.fill_between(shares, low, high, color=color, alpha=0.2, linewidth=0)
        panel.plot(shares, middle, color=color, label=f"{name} alignment")
for panel, label in zip(panels, ("test loss (nats)", "test accuracy"), strict=True):
    panel.set(xlabel="share of the other model", ylabel=label, xlim=(0, 1))
    panel.spines[["top", "right"]].set_visible(False)
panels[0].legend(frameon=False)
figure.suptitle(f"{len(others)} models beside the best: median and quartiles", fontsize=10)
figure.savefig(picture, dpi=150)
