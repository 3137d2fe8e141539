"""Values of the models of a block in torch: rates, keys of random numbers, schedules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ...schedules import Schedule


class BlockRates(NamedTuple):
    """Values that may differ between models of a block: one row per model, on the device."""

    learning_rate: Any  # float64 [p, 1]
    weight_decay: Any  # float32 [p, 1]
    momentum: Any  # float32 [p, 1]
    key: Any  # int64 [p, 2], words of 32 bits
    threshold: Any  # int64 [p, 1], of 32 bits
    scale: Any  # float32 [p, 1]


class DeviceSchedule(NamedTuple):
    """A `Schedule` as float64 tensors [steps] on the device of a block."""

    factor: torch.Tensor
    momentum: torch.Tensor | None

    @classmethod
    def make(cls, found: Schedule | None, device: torch.device) -> DeviceSchedule | None:
        if found is None:
            return None
        factor, momentum = (
            None if values is None else torch.from_numpy(values).to(device) for values in found
        )
        assert factor is not None
        return cls(factor, momentum)
