"""One model at a time in plain torch, to the bit as the paper's code trains it.

Every random number is drawn from torch's global stream in the order of the paper's code (its
def_NN_experiment.py and def_net.py): default initialisation, the zoo's initialisation, one sample
order that the evaluation of the untrained model uses, then for each epoch a sample order and the
dropout masks of its steps. With float32, one thread, torch 2.13 and an Intel processor with AVX-512
this repeats models that the paper's code trained so, bit for bit. Where torch computes in
another way (`cpu_kind`), the draws are the same and sums differ in their last bits, which training
amplifies. It is the oracle of the other engines, and the slowest; to be compared with them it can
take its dropout masks from the counter generator that they use (streams.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ...builders.hyperparameters import OPTIMIZERS
from ...builders.layout import Layout
from ...builders.specification import Model
from ...builders.splits import METRIC_OF_SPLIT
from ...errors import InvalidArgument
from ..images import ImageData
from ..networks import build, initialise
from ..schedules import make_scheduler
from ..streams import dropout_masks


def cpu_kind() -> str:
    """What the last bits of torch's sums depend on: `AVX512 GenuineIntel`.

    The instructions that torch uses here, and (where Linux says it) who made the processor, which
    its matrix library goes by.
    """
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *vendors[:1]])


@dataclass(frozen=True)
class State:
    """A model at one epoch.

    Attributes:
        epoch: 0 is the untrained model.
        weights: float32 [N] in layout order, a copy.
        metrics: name -> value; accuracies as shares of 1, losses in nats.
        extra: further vectors [N] of a twin.
    """

    epoch: int
    weights: torch.Tensor
    metrics: dict[str, float]
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Network:
    """A network as it is trained; twins (reference_twins.py) are trained otherwise.

    Args:
        module: initialised, changed in place.
        model: hyperparameters and seed.
        layout: of the architecture.
        stream: of what is drawn in training: "torch" or "philox".
    """

    def __init__(self, module: nn.Module, model: Model, layout: Layout, stream: str) -> None:
        self.module = module
        self.given = _GivenDropout.replace(module, model, layout) if stream == "philox" else None

    def before_step(self, batch_size: int) -> None:
        """Called before the forward pass of each training step."""
        if self.given is not None:
            self.given.draw(batch_size)

    def penalty(self, epoch: int) -> torch.Tensor | None:
        """What an epoch's loss has beside the mean cross entropy; None for nothing."""
        return None

    def after_step(self) -> None:
        """Called after each step of the optimizer."""

    def state(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weights in evaluation mode, float32 [N], and a twin's further vectors; copies."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()]), {}


def train(
    model: Model,
    layout: Layout,
    images: ImageData,
    stream: str = "torch",
    network: Callable[[nn.Module, Model, Layout, str], Network] = Network,
) -> Iterator[State]:
    """Train one model and yield its state after every epoch, the untrained one first.

    The training metrics of epoch 0 are measured in evaluation mode; those of later epochs are
    running means over the epoch in training mode, as the paper's code records
    them. A diverged model is trained to its last epoch with NaN weights and losses, as there.

    Args:
        model: hyperparameters and seed.
        layout: of the architecture.
        images: see generation/images/data.py; without a validation set, no val_ metrics.
        stream: of the dropout masks: "torch" as the paper's code, "philox" as the other engines.
        network: makes what is trained of an initialised module: a model of its own, or a twin.

    Raises:
        ValueError: an architecture that this engine does not train, unknown stream or schedule.
    """
    if stream not in ("torch", "philox"):
        raise InvalidArgument(f"unknown stream {stream!r}; known: torch, philox")
    if not layout.architecture.layers:
        raise InvalidArgument(
            f"this engine trains sequences of layers, not {layout.architecture.title}"
        )
    sets = {
        name: (images.normalized(split), getattr(images, split).labels)
        for split, name in METRIC_OF_SPLIT.items()
        if getattr(images, split) is not None
    }

    threads = torch.get_num_threads()
    with _Stream() as borrowed:
        torch.manual_seed(model.seed)
        module = build(layout, model.activation, model.dropout)
        initialise(module, model.init)
        trained = network(module, model, layout, stream)
        x, y = sets["train"]
        order = torch.randperm(len(y))
        state = borrowed.leave()
    optimizer = make_optimizer(model, module)
    scheduler = make_scheduler(optimizer, model, -(-len(y) // model.batch_size))
    for epoch in range(model.epochs + 1):
        torch.set_num_threads(1)  # more threads sum in another order: other bits
        try:
            if epoch == 0:
                # The paper's code evaluates over the shuffled training set.
                losses = {"train": evaluate(module, x[order], y[order], model.batch_size)}
            else:
                with _Stream(state) as borrowed:
                    losses = {
                        "train": train_epoch(
                            trained, optimizer, x, y, model.batch_size, epoch, scheduler
                        )
                    }
                    state = borrowed.leave()
            for name in ("val", "test"):
                if name in sets:
                    # The paper's code evaluates in one batch, which decides a loss's last digit.
                    losses[name] = evaluate(module, *sets[name], len(sets[name][1]))
        finally:
            torch.set_num_threads(threads)
        metrics = {}
        for name, (loss, accuracy) in losses.items():
            metrics[f"{name}_loss"], metrics[f"{name}_acc"] = loss, accuracy
        vector, extra = trained.state()
        yield State(epoch, vector, metrics, extra)


def train_epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    batch_size: int,
    epoch: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    order: torch.Tensor | None = None,
) -> tuple[float, float]:
    """One epoch in the given order or a fresh random one; running mean of loss and accuracy."""
    module = network.module.train()
    total, correct = 0.0, 0
    for batch in (torch.randperm(len(y)) if order is None else order).split(batch_size):
        optimizer.zero_grad()
        network.before_step(len(batch))
        logits, target = module(x[batch]), y[batch]
        cross_entropy = functional.cross_entropy(logits, target)  # log_softmax + NLL
        penalty = network.penalty(epoch)
        (cross_entropy if penalty is None else cross_entropy + penalty).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        network.after_step()
        total += cross_entropy.item() * len(batch)
        correct += int((logits.argmax(1) == target).sum())
    return total / len(y), correct / len(y)


@torch.no_grad()
def evaluate(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int
) -> tuple[float, float]:
    """Mean loss (nats) and accuracy of a network in evaluation mode.

    Args:
        x: normalised images, float32 [n, c, h, w].
        y: labels, int64 [n].
        batch_size: images per step.
    """
    module.eval()
    total, correct = 0.0, 0
    for images, target in zip(x.split(batch_size), y.split(batch_size), strict=True):
        logits = module(images)
        total += functional.cross_entropy(logits, target).item() * len(target)
        correct += int((logits.argmax(1) == target).sum())
    return total / len(y), correct / len(y)


def make_optimizer(model: Model, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's module.

    Raises:
        InvalidArgument: an unknown optimizer.
    """
    if model.optimizer not in OPTIMIZERS:
        raise InvalidArgument(
            f"unknown optimizer {model.optimizer!r}; known: {', '.join(OPTIMIZERS)}"
        )
    kind = OPTIMIZERS[model.optimizer]
    make: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, kind.torch_class)
    rates = {"lr": model.learning_rate, "weight_decay": model.weight_decay}
    if kind.momentum != "none":
        rates["momentum"] = model.momentum or 0.0
    return make(module.parameters(), **rates, **kind.arguments)


class _GivenDropout:
    """Dropout by the counter generator's masks in place of a network's own Dropout modules."""

    class Layer(nn.Module):
        mask: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.mask if self.training else x

    def __init__(self, layers: list[Layer], model: Model, layout: Layout) -> None:
        self.layers, self.model, self.layout, self.step = layers, model, layout, 0

    @classmethod
    def replace(cls, module: nn.Module, model: Model, layout: Layout) -> _GivenDropout | None:
        """Put its layers into a network; None for a network without dropout."""
        names = [n for n, child in module.named_children() if isinstance(child, nn.Dropout)]
        for name in names:
            setattr(module, name, cls.Layer())
        layers = [getattr(module, name) for name in names]
        return cls(layers, model, layout) if layers else None

    def draw(self, batch_size: int) -> None:
        """The masks of the next step."""
        masks = dropout_masks(
            self.layout, self.model.seed, self.model.dropout, self.step, batch_size
        )
        for layer, mask in zip(self.layers, masks, strict=True):
            layer.mask = torch.from_numpy(mask)
        self.step += 1


class _Stream:
    """Use torch's global stream for a while, then give it back as it was."""

    def __init__(self, state: torch.Tensor | None = None) -> None:
        self.state = state

    def __enter__(self) -> _Stream:
        self.before = torch.get_rng_state()
        if self.state is not None:
            torch.set_rng_state(self.state)
        return self

    def leave(self) -> torch.Tensor:
        """Where the stream stands now, to continue from there later."""
        return torch.get_rng_state()

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self.before)
