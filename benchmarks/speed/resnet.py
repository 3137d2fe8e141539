"""Speed of training ResNet-18 with bf16 and channels-last order, and of the paper's loop.

That loop has torchvision's network in plain memory order and float32, with torch's SGD and
OneCycleLR, and waits for the loss at every step. All use the same images (scikit-learn's digits in
colour, 32 x 32 or smaller), order, initial weights and augmentation. A round is one epoch. Figures
are training images a second, and loss and accuracy after the same steps (with the defaults 24,
during the first of which the learning rate rises: too few for an accuracy).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Optional

import torch
import typer
from torch.nn import functional

from ...builders.catalog import zoo_spec
from ...builders.layout import Layout
from ...builders.specification import Model
from ...generation.augmentation import augment, augmentation_draws
from ...generation.engines.resnet import ResNetTraining
from ...generation.images import ImageData, Images, load_images
from .measure import Rounds, Samples, interleave, markdown, torch_threads

LOOP = "original's loop: fp32, plain order"


def measure(
    rounds: Rounds = 5,
    samples: Samples = 512,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 128,
    threads: Annotated[Optional[int], typer.Option(help="Cores; all of them by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile as well.")] = False,
    image_size: Annotated[int, typer.Option(help="32, or 16 where bf16 is slow.")] = 32,
) -> dict[str, Any]:
    """Return the settings, and the figures of each of the `engines`."""
    images = _images(samples, image_size).to(device)
    zoo = zoo_spec("cifar10_resnet18")
    model = dataclasses.replace(
        zoo.models(1)[0], epochs=rounds + 1, batch_size=batch_size, learning_rate=0.02
    )

    kinds: dict[str, Callable[..., ResNetTraining]] = {
        LOOP: _OriginalLoop,
        "fp32, channels last": ResNetTraining,
        "bf16, channels last": partial(ResNetTraining, precision="bf16"),
        "bf16, channels last, compiled": partial(ResNetTraining, precision="bf16", compile=True),
    }
    trainings = {
        name: kind(model, zoo.layout, images, threads=threads)
        for name, kind in list(kinds.items())[: 3 + compile]
    }
    losses: dict[str, float] = {}

    def epoch(name: str) -> Callable[[], None]:
        return lambda: losses.update({name: trainings[name].train_epoch()[0]})

    clock = interleave({name: epoch(name) for name in trainings}, rounds, warm_up=True)
    return {
        "architecture": zoo.architecture,
        "images": f"digits, 3 x {image_size} x {image_size}",
        "batch_size": batch_size,
        "samples": samples,
        "rounds": rounds,
        "threads": threads or torch.get_num_threads(),
        "device": device,
        "engines": {
            name: {
                "samples_per_second": round(samples / seconds, 1),
                "ratio": round(clock.ratio(LOOP, name), 2),
                "train_loss": round(losses[name], 4),
                "test_acc": round(trainings[name].evaluate("test")[1], 4),
                "steps": (rounds + 1) * trainings[name].steps_per_epoch,
            }
            for name, seconds in clock.medians().items()
        },
    }


class _OriginalLoop(ResNetTraining):
    """The same draws in the simplest loop, without the optimisations of `ResNetTraining`."""

    def __init__(
        self, model: Model, layout: Layout, images: ImageData, *, threads: int | None
    ) -> None:
        super().__init__(model, layout, images, threads=threads)
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.data = tensor.data.contiguous()  # plain memory order

    def train_epoch(
        self, on_step: Callable[[int], bool] = lambda images: True
    ) -> tuple[float, float]:
        self.network.train()
        images = self.images.train
        total, correct = 0.0, 0
        order = torch.from_numpy(self._orders.epoch(self.epoch + 1)).to(self.device)
        with torch_threads(self.threads):
            for number, batch in enumerate(order.split(self.model.batch_size)):
                step = self.epoch * self.steps_per_epoch + number
                draws = augmentation_draws(self.model.seed, step, len(batch))
                pixels = augment(images.pixels[batch], self.images.augmentation, draws)
                target = images.labels[batch]
                self.optimizer.zero_grad()
                logits = self.network(self.images.normalize(pixels))
                loss = functional.cross_entropy(logits, target)
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                total += loss.item() * len(batch)
                correct += int((logits.argmax(1) == target).sum())
        self.epoch += 1
        return total / len(images), correct / len(images)


def _images(samples: int, size: int) -> ImageData:
    digits = load_images("digits").subset(train=slice(samples))
    step = 32 // size  # every second of the 28 pixels for 16, then padded

    def colour(images: Images) -> Images:
        padded = functional.pad(images.pixels[..., ::step, ::step], (2 // step,) * 4)
        return Images(padded.expand(-1, 3, -1, -1).contiguous(), images.labels)

    return dataclasses.replace(
        digits,
        train=colour(digits.train),
        validation=None,
        test=colour(digits.test),
        mean=digits.mean * 3,
        std=digits.std * 3,
        augmentation=(f"random_crop_{size}_{size // 8}",),
    )


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    rows = [
        (
            name,
            f"{figures['samples_per_second']:,.0f}",
            f"{figures['ratio']:.1f}",
            f"{figures['train_loss']:.3f}",
            f"{figures['test_acc']:.3f}",
        )
        for name, figures in result["engines"].items()
    ]
    titles = ("samples / s", "x original's loop", "train loss", "test accuracy")
    return markdown((f"ResNet-18, {result['images']}", *titles), 1, rows)
