"""Published scores, and tables that set ours beside them.

    python -m model_zoos.benchmarks.literature [FOLDER]

writes the tables of benchmarks/README.md anew, between its two `scores` marks, from what is in the
folder (by default benchmarks/results): every `*-benchmark.json` that `model-zoos benchmark NAME
--boosting --out FILE` writes, and every `*_sparse-report.json` that `model-zoos report NAME --json`
prints. No number of ours is typed.

Sources: UNTERTHINER: Unterthiner, Keysers, Gelly, Bousquet and Tolstikhin, "Predicting Neural
Network Accuracy from Weights", 2020; best_configs.json in google-research/dnn_predict_accuracy.
SCHUERHOLT: Schuerholt, Kostadinov and Borth, "Self-Supervised Representation Learning on Neural
Network Weights for Model Characteristic Prediction", NeurIPS 2021; the image of results on the
HSG-AIML site, linear probes.
TWINS: the figure of MNIST twins in the README of the original's repository, read by eye (+- 0.01).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMAGES = ("mnist", "fashion_mnist", "cifar10", "svhn")

UNTERTHINER: dict[tuple[str, str], tuple[float, ...]] = {
    ("linear", "weights"): (0.847, 0.733, 0.662, 0.786),
    ("linear", "statistics"): (0.920, 0.804, 0.727, 0.852),
    ("trees", "weights"): (0.988, 0.989, 0.970, 0.971),
    ("trees", "statistics"): (0.993, 0.993, 0.984, 0.986),
    ("network", "weights"): (0.980, 0.980, 0.954, 0.931),
    ("network", "statistics"): (0.993, 0.992, 0.980, 0.985),
}
"""R2 of test accuracy on the Small CNN Zoo, by `IMAGES` (the last two in grey)."""

SCHUERHOLT: dict[str, tuple[tuple[float, float, float], ...]] = {
    "epoch": ((25.8, 33.2, 50.0), (26.6, 34.6, 51.3), (25.7, 30.3, 53.3), (22.8, 37.8, 52.6)),
    "test_acc": ((74.7, 81.5, 94.9), (70.9, 78.5, 96.2), (76.4, 82.9, 92.7), (80.5, 82.1, 91.1)),
    "generalization_gap": (
        *((23.4, 24.4, 27.4), (48.1, 41.1, 49.0), (37.7, 37.4, 40.4), (38.7, 42.2, 44.2)),
    ),
    "learning_rate": (
        *((29.3, 34.3, 37.1), (33.5, 35.6, 42.4), (27.4, 32.3, 44.7), (24.5, 33.4, 49.1)),
    ),
    "weight_decay": (
        *((12.5, 16.5, 20.1), (11.9, 16.3, 25.0), (8.7, 13.8, 28.0), (9.0, 13.6, 28.0)),
    ),
    "dropout": ((28.5, 19.2, 35.8), (26.7, 21.3, 38.3), (16.7, 16.5, 33.8), (9.0, 14.6, 23.3)),
    "activation": ((88.6, 81.1, 88.7), (89.8, 82.4, 90.1), (88.3, 80.3, 90.0), (86.9, 78.8, 87.2)),
    "init": ((94.6, 72.0, 80.6), (95.7, 76.5, 86.7), (93.5, 73.3, 82.6), (91.0, 73.0, 82.8)),
    "optimizer": ((76.7, 65.4, 66.4), (79.9, 67.4, 73.0), (74.0, 65.5, 71.0), (72.5, 68.2, 72.3)),
}
"""Linear probes on the same zoo by `IMAGES`: weights, statistics, learned representation. R2 x 100,
of the last three accuracy in %."""

TWINS: dict[str, dict[int, float]] = {
    "sparsity": {
        **dict(enumerate((0, 0, 0.26, 0.43, 0.51, 0.56, 0.585, 0.61, 0.63, 0.65, 0.665))),
        **{16: 0.73, 20: 0.76, 25: 0.785},
    },
    "test_acc": {0: 0.911, 1: 0.912, 5: 0.901, 10: 0.8845, 15: 0.878, 20: 0.875, 25: 0.8745},
    "generalization_gap": {0: 0.006, 5: -0.018, 10: -0.054, 15: -0.047, 20: -0.041, 25: -0.0385},
}
"""Medians of the original's MNIST twins (`mnist_cnn_s_seed_sparse`) by epoch; shares of 1."""

TWINS_ZOO = "mnist_cnn_s_seed_sparse"

_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
}
_MARKS = re.compile(r"(<!-- scores:.*?-->\n).*?(<!-- /scores -->)", re.DOTALL)


def tables(folder: Path) -> str:
    """Markdown: a table for each benchmark file of a folder, then the published ones."""
    parts = [
        zoo_table(json.loads(path.read_text())) for path in sorted(folder.glob("*-benchmark.json"))
    ]
    parts += [
        twins_table(json.loads(path.read_text()))
        for path in sorted(folder.glob("*_sparse-report.json"))
    ]
    return "\n\n".join([*parts, _published()])


def zoo_table(result: Mapping[str, Any]) -> str:
    """Test scores of one zoo, beside the published ones of its image data set.

    Args:
        result: as `model-zoos benchmark` writes it.
    """
    found: dict[tuple[str, str, str], str] = {}
    for score in result["scores"]:
        key = (score["target"], score["representation"], _method(score))
        found[key] = _with_interval(score["r2"]["test"], score["r2_interval"])
        found[(*key[:2], f"{key[2]} tau")] = _with_interval(score["tau"]["test"], None)
    majority = {}
    for score in result["class_scores"]:
        key = (score["target"], score["representation"], _method(score))
        found[key] = _with_interval(score["accuracy"]["test"], score["accuracy_interval"])
        majority[score["target"]] = _with_interval(score["majority"]["test"], None)
    images = next((name for name in IMAGES if result["zoo"].startswith(f"{name}_")), None)
    methods = [
        (representation, method)
        for method in ("linear", "trees")
        for representation in dict.fromkeys(key[1] for key in found)
        if any(key[1:] == (representation, method) for key in found)
    ]
    title = " | ".join(f"{representation}, {method}" for representation, method in methods)
    lines = [
        f"`{result['zoo']}`: "
        + ", ".join(
            f"{result['models'][split]} models / {result['states'][split]:,} states in {split}"
            for split in ("train", "validation", "test")
        )
        + f"; left out: {sum(result['left_out'].values()):,} states.",
        "",
        f"| target | score | {title} | most frequent | 2021: W / s(W) |",
        f"| --- | --- | {' | '.join('---:' for _ in methods)} | ---: | ---: |",
    ]
    for target in dict.fromkeys(key[0] for key in found):
        classes = target in majority
        theirs = "-"
        if images and target in SCHUERHOLT:
            w, s, _ = SCHUERHOLT[target][IMAGES.index(images)]
            theirs = f"{w / 100:.3f} / {s / 100:.3f}"
        cells = [found.get((target, *method), "-") for method in methods]
        name = "accuracy" if classes else "R2"
        lines.append(
            f"| {target} | {name} | {' | '.join(cells)} | {majority.get(target, '-')} | {theirs} |"
        )
        if not classes:
            cells = [found.get((target, r, f"{m} tau"), "-") for r, m in methods]
            lines.append(f"| {target} | tau | {' | '.join(cells)} | - | - |")
    if result["not_scored"]:
        why = ", ".join(f"{target} ({reason})" for target, reason in result["not_scored"].items())
        lines += ["", f"Not scored: {why}."]
    return "\n".join(lines)


def twins_table(report: Mapping[str, Any]) -> str:
    """Sparsity and accuracy of sparse twins by epoch, beside the original's if they are MNIST's.

    Args:
        report: as `model-zoos report NAME --json` prints it.
    """
    epochs = {epoch["epoch"]: epoch for epoch in report["diversity"]["epochs"]}
    shown = sorted({*TWINS["test_acc"], *epochs} & {0, 1, 2, 5, 10, 15, 20, max(epochs)})
    lines = [
        f'`{report["zoo"]}`, {report["diversity"]["models"]:,} twins: medians (means); "original": '
        "the medians of its MNIST twins, read off its figure.",
        "",
        "| epoch | sparsity | original | test accuracy | original | gap | original |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number in shown:
        row = [str(number)]
        for column, key in (
            ("sparsity",) * 2,
            ("test_acc", "accuracy"),
            ("generalization_gap", "gap"),
        ):
            found = epochs.get(number, {}).get(key)
            row.append(f"{found['quartiles'][1]:.3f} ({found['mean']:.3f})" if found else "-")
            known = TWINS[column].get(number) if report["zoo"] == TWINS_ZOO else None
            row.append("-" if known is None else f"{known:g}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _method(score: Mapping[str, Any]) -> str:
    return "trees" if score["method"] == "boosting" else "linear"


def _with_interval(value: float | None, interval: Any) -> str:
    text = "-" if value is None else f"{value:.3f}"
    if interval is None or None in interval:
        return text
    return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _published() -> str:
    titles = " | ".join(_TITLES[name] for name in IMAGES)
    bars = " | ".join("---:" for _ in IMAGES)
    lines = [
        "Unterthiner et al. 2020, R2 of test accuracy on the Small CNN Zoo (4,970 weights, 15,000",
        "training models; CIFAR-10 and SVHN in grey):",
        "",
        f"| | {titles} |",
        f"| --- | {bars} |",
        *(
            f"| {method}, {representation} | {' | '.join(f'{value:.3f}' for value in values)} |"
            for (method, representation), values in UNTERTHINER.items()
        ),
        "",
        "Schuerholt et al. 2021, linear probes on the same zoo from weights / statistics / their",
        "learned representation; R2 x 100, of the last three accuracy in %:",
        "",
        f"| | {titles} |",
        f"| --- | {bars} |",
        *(
            f"| {target} | "
            + " | ".join(" / ".join(f"{v:.1f}" for v in values) for values in by_images)
            + " |"
            for target, by_images in SCHUERHOLT.items()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the tables of benchmarks/README.md anew."""
    here = Path(__file__).resolve().parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "results"
    path = here / "README.md"
    text, count = _MARKS.subn(
        lambda match: f"{match[1]}{tables(folder)}\n{match[2]}", path.read_text()
    )
    if count != 1:
        raise SystemExit(f"{path} must have one pair of `scores` marks, found {count}")
    path.write_text(text)


if __name__ == "__main__":
    main()
