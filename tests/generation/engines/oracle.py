"""Small networks trained by plain torch, step by step: what every engine is compared with."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from model_zoos.builders.layout import Layout, make_layout
from model_zoos.builders.specification import Model
from model_zoos.generation.networks import make_activation
from model_zoos.generation.streams import dropout_masks, initial_weights

CNN_S = make_layout("cnn_s", channels=1)
CNN_L = make_layout("cnn_l", channels=3)

Call = tuple[int, int]
"""One decision of a step: number of the layer, and place among its windows or values."""

CLOSE = 1e-6
"""A decision closer than this share of the layer's largest value is up to rounding."""


def make_images(layout: Layout, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blurred noise with a class mean each, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    side = layout.architecture.image_size
    means = rng.normal(size=(layout.classes, layout.channels, side, side))
    labels = rng.integers(0, layout.classes, n)
    images = 0.5 * means[labels] + 0.5 * rng.normal(size=(n, layout.channels, side, side))
    return images.astype(np.float32), labels


def make_weights(layout: Layout, count: int, init: str = "kaiming_uniform") -> np.ndarray:
    return np.stack([initial_weights(layout, init, seed)[0] for seed in range(count)])


def make_orders(count: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n) for _ in range(count)])


def make_models(
    count: int, *, activation: str, optimizer: str, batch_size: int, learning_rate,
    seeds=0, weight_decay=0.0, momentum=0.0, dropout=0.0, scheduler=None, epochs=1,
) -> list[Model]:  # fmt: skip
    """Models with these rates and seeds, each one value for all or one for each."""
    each = [
        np.broadcast_to(values, count).tolist()
        for values in (seeds, learning_rate, weight_decay, momentum, dropout)
    ]
    return [
        Model(
            zoo="tests", activation=activation, init="uniform", dropout=rate, optimizer=optimizer,
            learning_rate=step, weight_decay=decay, momentum=momentum, batch_size=batch_size,
            epochs=epochs, scheduler=scheduler, seed=seed,
        )
        for seed, step, decay, momentum, rate in zip(*each, strict=True)
    ]  # fmt: skip


MODEL_KEYS = (
    "activation", "optimizer", "batch_size", "learning_rate", "seeds", "weight_decay", "momentum",
    "dropout", "scheduler", "epochs",
)  # fmt: skip


def populate(kind, layout: Layout, *, weights, **values):
    """A population of an engine's class, of models with these rates and seeds."""
    own = {key: values.pop(key) for key in MODEL_KEYS if key in values}
    return kind(layout, make_models(max(1, len(weights)), **own), weights, **values)


def logits(
    layout, activation, parameters, x, masks=(), made: dict[Call, int] | None = None,
    close: dict[Call, list[int]] | None = None, noise=None,
) -> torch.Tensor:  # fmt: skip
    """A CNN of the zoos in plain torch calls, from its specification.

    Which of four sums a pooling window takes and whether relu lets a value pass are decisions:
    their gradients jump.

    Args:
        made: decisions to make in this way, whatever the numbers say.
        close: receives the decisions closer than `CLOSE` and the two ways to make each.
        noise: a function from a layer's number, name and input to what is added to its sums.
    """
    masks = iter(masks)
    for number, layer in enumerate(layout.architecture.layers):
        tensors = parameters[f"{layer.name}.weight"], parameters[f"{layer.name}.bias"]
        if layer.kernel is None:
            x = x.flatten(1)
        added = 0 if noise is None else noise(number, layer.name, x)
        if layer.kernel is None:
            x = functional.linear(x, *tensors) + added
        else:
            x = functional.conv2d(x, *tensors, layer.stride, layer.padding) + added
        function = layer.activation_of(activation)
        own = {place: way for (at, place), way in (made or {}).items() if at == number}
        scale = CLOSE * x.detach().abs().max()
        if layer.pool and (own or close is not None):
            side = x.shape[-1] // 2
            windows = functional.unfold(x.flatten(0, 1)[:, None], 2, stride=2)
            windows = windows.transpose(1, 2).reshape(-1, 4)
            chosen = windows.argmax(1)
            if close is not None:
                largest, ways = windows.detach().topk(2)
                for place in torch.nonzero(largest[:, 0] - largest[:, 1] < scale).flatten():
                    close[number, place.item()] = ways[place].tolist()
            for place, way in own.items():
                if place >= 0:
                    chosen[place] = way
            x = windows.gather(1, chosen[:, None]).view(*x.shape[:2], side, side)
        elif layer.pool:
            x = functional.max_pool2d(x, 2)
        if function == "relu" and (own or close is not None):
            # Negative places: decisions of relu, counted from -1 down.
            passes = (x > 0).flatten()
            if close is not None:
                for place in torch.nonzero(x.detach().abs().flatten() < scale).flatten():
                    close[number, -1 - place.item()] = [0, 1]
            for place, way in own.items():
                if place < 0:
                    passes[-1 - place] = bool(way)
            x = x * passes.view(x.shape)
        elif function:
            x = make_activation(function)(x)
        if layer.dropout:
            mask = next(masks, None)
            x = x if mask is None else x * mask
        if layer.gap:
            x = x.mean((2, 3))
    return x


def torch_steps(
    layout: Layout, weights, images, labels, order, batch_size, dtype, *, activation, optimizer,
    seed=0, learning_rate=1e-3, weight_decay=0.0, momentum=0.0, dropout=0.0, made=None,
    scheduler=None,
) -> np.ndarray:  # fmt: skip
    """One model trained by torch.optim in the lane kernel's order of samples and with its masks.

    Args:
        made: step -> decisions, see `logits`.

    Returns:
        float64 [steps, N], the weights after each step.
    """
    parameters = {
        name: torch.tensor(tensor, dtype=dtype, requires_grad=True)
        for name, tensor in layout.to_state_dict(weights).items()
    }
    options = {"lr": learning_rate, "weight_decay": weight_decay}
    if optimizer in ("sgd", "nesterov"):
        nesterov = optimizer == "nesterov"
        step = torch.optim.SGD(parameters.values(), momentum=momentum, nesterov=nesterov, **options)
    else:
        kinds = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
        step = getattr(torch.optim, kinds[optimizer])(parameters.values(), **options)
    steps = -(-len(order) // batch_size)
    pace = torch.optim.lr_scheduler
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    if scheduler == "OneCycleLR":
        schedule = pace.OneCycleLR(step, max_lr=learning_rate, total_steps=steps)
    elif scheduler == "cosine":
        schedule = pace.CosineAnnealingLR(step, steps)
    elif scheduler == "step":  # an epoch is one step here
        schedule = pace.StepLR(step, -(-steps // 3))
    elif scheduler is not None:
        raise ValueError(f"the oracle has no schedule {scheduler}")
    x, y = torch.tensor(images, dtype=dtype), torch.tensor(labels)
    after = []
    for number, batch in enumerate(torch.tensor(order).split(batch_size)):
        masks = torch_masks(layout, seed, dropout, number, len(batch), dtype)
        step.zero_grad()
        out = logits(layout, activation, parameters, x[batch], masks, (made or {}).get(number))
        functional.cross_entropy(out, y[batch]).backward()
        step.step()
        if schedule is not None:
            schedule.step()
        after.append(torch.cat([p.detach().flatten() for p in parameters.values()]))
    return torch.stack(after).double().numpy()


def torch_masks(layout, seed, rate, step, batch_size, dtype) -> list[torch.Tensor]:
    masks = dropout_masks(layout, seed, rate, step, batch_size) if rate > 0 else []
    return [torch.tensor(mask, dtype=dtype) for mask in masks]


@dataclass(frozen=True)
class Run:
    """One model's run, to be repeated by torch.

    Attributes:
        layout, activation, optimizer, images, labels, order: as the arguments of `torch_steps`.
        rates: its further arguments.
        ours: weights before the first step and after each step, as the engine made them.
        neighbours: how many more runs of torch, from weights that differ in the last bit, may show
            how far torch float32 gets from torch float64: in one run that is a matter of luck.
    """

    layout: Layout
    activation: str
    optimizer: str
    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    rates: dict
    ours: list[np.ndarray]
    neighbours: int = 0

    def first_step_apart(self, made: dict[int, dict[Call, int]]) -> int | None:
        """The first step after which the engine is more than three times as far from torch float32
        as that is from torch float64 (and than 1e-6), None if none is."""

        def torchs(start: np.ndarray, dtype: torch.dtype) -> np.ndarray:
            return torch_steps(
                self.layout, start, self.images, self.labels, self.order, 10, dtype,
                activation=self.activation, optimizer=self.optimizer, made=made, **self.rates,
            )  # fmt: skip

        single, double = (torchs(self.ours[0], dtype) for dtype in (torch.float32, torch.float64))
        distance = np.abs(single - double).max()
        apart = np.abs(np.array(self.ours[1:]) - single).max(1)
        rng = np.random.default_rng(2)
        for _ in range(self.neighbours):
            if apart.max() <= max(3 * distance, 1e-6):
                break
            towards = rng.choice(np.float32([-np.inf, np.inf]), self.layout.size)
            neighbour = torchs(np.nextafter(self.ours[0], towards), torch.float32)
            distance = max(distance, np.abs(neighbour - double).max())
        too_far = apart > max(3 * distance, 1e-6)
        return int(too_far.argmax()) if too_far.any() else None

    def close_calls(self, step: int) -> dict[Call, list[int]]:
        """Decisions of the engine's step that are up to rounding, and the two ways of each."""
        state = self.layout.to_state_dict(self.ours[step].astype(np.float64))
        parameters = {name: torch.tensor(tensor) for name, tensor in state.items()}
        x = torch.tensor(self.images[self.order[10 * step :][:10]], dtype=torch.float64)
        masks = torch_masks(
            self.layout, self.rates["seed"], self.rates["dropout"], step, 10, torch.float64
        )
        close: dict[Call, list[int]] = {}
        logits(self.layout, self.activation, parameters, x, masks, close=close)
        return close

    def agrees_but_for_close_calls(self) -> bool:
        """Whether torch agrees once it makes some close calls the other way."""
        made: dict[int, dict[Call, int]] = {}
        apart = self.first_step_apart(made)
        while apart is not None:
            for more in self._one_more(made, apart):
                later = self.first_step_apart(more)
                if later is None or later > apart:
                    made, apart = more, later
                    break
            else:
                return False
        return True

    def _one_more(self, made, last: int) -> Iterator[dict[int, dict[Call, int]]]:
        """The decisions made and one more, of a step not after the last, latest steps first."""
        for step in range(last, -1, -1):
            for call, ways in self.close_calls(step).items():
                if call not in made.get(step, {}):
                    for way in ways:
                        yield {**made, step: {**made.get(step, {}), call: way}}
