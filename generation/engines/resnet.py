"""ResNet-18, one model at a time, in torch on a CPU or a GPU.

The training is that of the paper's code (code/model_definitions/def_net.py and
code/zoo_generators/train_zoo_*_resnet18_kaiming_uniform.py): SGD with momentum, weight decay as an
L2 term, augmented training images, and torch's OneCycleLR stepped after every batch. Its maximum is
the zoo's learning rate; its other settings are torch's defaults, which also cycle the momentum
between 0.95 and 0.85. The images are on the device as 8-bit pixels, where a batch is augmented and
normalised. The network runs in channels-last order, which is faster on every device.

Every draw is a function of the model's seed, the epoch and the step: initial weights and sample
orders as in the other engines, augmentation as in augmentation.py. On one device, with one number
of threads, a model has the same bits even if it was interrupted; checkpointed.py saves and resumes
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...builders.layout import Layout
from ...builders.specification import Model, Zoo
from ...errors import InvalidArgument
from ..augmentation import augment, augmentation_draws, check_augmentation
from ..images import ImageData
from ..networks import build
from ..schedules import make_scheduler
from ..streams import SampleOrders, initial_weights
from .reference import make_optimizer


class Stopped(Exception):
    """Training was stopped within an epoch."""


def check_zoo(zoo: Zoo) -> None:
    """Refuse a zoo that this engine cannot train.

    Raises:
        InvalidArgument: an activation other than relu, or dropout. The networks of this engine
            have their activations in their module, and rows call them relu.
    """
    grid, title = dict(zoo.grid), zoo.layout.architecture.title
    if set(grid["activation"]) != {"relu"} or set(grid["dropout"]) != {0.0}:
        raise InvalidArgument(
            f"{zoo.name}: the grid of {title} must have the activation relu and dropout 0, found "
            f"{', '.join(grid['activation'])} and {', '.join(map(str, grid['dropout']))}"
        )


def check_images(images: ImageData) -> None:
    """Refuse images that the network or the augmentation cannot use.

    Raises:
        InvalidArgument: fewer than 9 pixels a side, where batches of one have no variance; see also
            `augmentation.check_augmentation`.
    """
    height, width = images.train.pixels.shape[2:]
    if min(height, width) < 9:
        raise InvalidArgument(
            f"{images.name}: ResNet-18 needs images of at least 9 x 9 pixels, "
            f"found {height} x {width}"
        )
    check_augmentation(images.augmentation, height, width)


class ResNetTraining:
    """One model in training.

    Args:
        model: hyperparameters and seed.
        layout: of its architecture.
        images: on the device that trains (`ImageData.to`).
        precision: one of `options.PRECISIONS`.
        compile: train with torch.compile; the first step then takes a minute, and last bits differ.
        threads: number of CPU threads; None for torch's own setting.

    Attributes:
        epoch: number of epochs trained.
        steps_per_epoch: number of steps; the last batch may be smaller.
    """

    def __init__(
        self,
        model: Model,
        layout: Layout,
        images: ImageData,
        *,
        precision: str = "fp32",
        compile: bool = False,
        threads: int | None = None,
    ) -> None:
        check_images(images)
        self.model, self.layout, self.images = model, layout, images
        self.precision, self.threads = precision, threads
        self.device = images.train.pixels.device
        self.epoch = 0
        self.steps_per_epoch = -(-len(images.train) // model.batch_size)
        weights, generator = initial_weights(layout, model.init, model.seed)
        self._orders = SampleOrders(generator, len(images.train))
        with torch.random.fork_rng(devices=[]):
            self.network = build(layout, model.activation)
        self.network.load_state_dict(layout.to_state_dict(torch.from_numpy(weights)), strict=False)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(model, self.network)
        self.scheduler = make_scheduler(
            self.optimizer, model, self.steps_per_epoch
        ) or torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1, total_iters=0)
        self._forward = torch.compile(self.network) if compile else self.network

    def train_epoch(
        self, on_step: Callable[[int], bool] = lambda images: True
    ) -> tuple[float, float]:
        """Train the next epoch.

        Args:
            on_step: called with the number of images after every step; returns False to stop.

        Returns:
            Running means of loss (nats) and accuracy in training mode.

        Raises:
            Stopped: `on_step` returned False; the weights are then those of an unfinished epoch.
        """
        epoch = self.epoch + 1
        pixels, labels = self.images.train.pixels, self.images.train.labels
        order = torch.from_numpy(self._orders.epoch(epoch)).to(self.device)
        # Summed on the device, since every transfer would wait for it.
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self.network.train()
        with _settings(self.device, self.threads):
            for number, batch in enumerate(order.split(self.model.batch_size)):
                step = self.epoch * self.steps_per_epoch + number
                draws = augmentation_draws(self.model.seed, step, len(batch))
                x = self._input(augment(pixels[batch], self.images.augmentation, draws))
                target = labels[batch]
                self.optimizer.zero_grad(set_to_none=True)
                with self._autocast():
                    logits = self._forward(x)
                # In bf16 the loss would have 3 digits.
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                loss = functional.cross_entropy(logits, target)  # log_softmax + NLL
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
                total += loss.detach().double() * len(batch)
                correct += (logits.detach().argmax(1) == target).sum()
                if not on_step(len(batch)):
                    raise Stopped
        self.epoch = epoch
        return total.item() / len(labels), correct.item() / len(labels)

    @torch.no_grad()
    def evaluate(self, split: str) -> tuple[float, float]:
        """Return mean loss (nats) and accuracy in evaluation mode, in float32 for any precision."""
        images = getattr(self.images, split)
        total, correct = 0.0, 0
        self.network.eval()
        with _settings(self.device, self.threads):
            for pixels, target in zip(
                images.pixels.split(self.model.batch_size),
                images.labels.split(self.model.batch_size),
                strict=True,
            ):
                logits = self.network(self._input(pixels))
                total += functional.cross_entropy(logits, target).item() * len(target)
                correct += int((logits.argmax(1) == target).sum())
        return total / len(images), correct / len(images)

    def weights(self) -> np.ndarray:
        """All float tensors as one vector, float32 [N] in layout order, a copy."""
        return self.layout.to_vector(self.network.state_dict())

    def snapshot(self) -> dict[str, Any]:
        """Return the state needed to resume from here: a copy on the CPU for `restore`."""
        state = {
            "model_id": self.model.model_id,
            "epoch": self.epoch,
            "threads": torch.get_num_threads() if self.threads is None else self.threads,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        return _copied(state)

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Resume from a snapshot of the same model.

        Raises:
            ValueError: it is another model's snapshot, or not a snapshot.
        """
        try:
            if snapshot["model_id"] != self.model.model_id:
                raise InvalidArgument(f"a snapshot of the model {snapshot['model_id']!r}")
            self.network.load_state_dict(snapshot["network"])
            self.optimizer.load_state_dict(snapshot["optimizer"])
            self.scheduler.load_state_dict(snapshot["scheduler"])
            self.epoch = int(snapshot["epoch"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InvalidArgument(f"not a snapshot of a ResNet-18 in training: {error}") from error

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.images.normalize(pixels).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _copied(value: Any) -> Any:  # noqa: ANN401  # a state of any nesting
    """Return a nested state with copies of its tensors on the CPU, in their memory order."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    return value


@contextmanager
def _settings(device: torch.device, threads: int | None) -> Iterator[None]:
    """Set device, threads and repeatable convolutions within the context, then restore them."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False),
            torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        ):
            yield
    finally:
        torch.set_num_threads(before)
