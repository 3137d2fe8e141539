"""Stacked models in torch: every operation of a training step handles many models at once.

For GPUs and for machines without a C++ compiler; with a compiler the lane kernel (engines/lanes) is
faster on a CPU. Activations are [model, channel, row, column, sample]. With samples innermost, the
columns of a convolution ("im2col") are copied in long runs, the convolution of each model is one
matrix product, and torch's max-pool can take samples for channels. The backward pass is written
out, since torch's own is slow for the columns. Adam and SGD work on the flat vectors of all models,
with torch.optim's formulas and a rate for each model.

Models are trained in *blocks* whose columns fit the workspace: on a CPU a few models, so that
activations stay in the cache; on a GPU all models if memory allows. On a GPU a step is captured
once as a CUDA graph and replayed, and an epoch waits for the device only at its end.

Models do not influence each other. Unlike in the lane kernel, a model's bits may depend on the
number of models, since matrix products of different sizes may be summed in another order.

On one core (Xeon, AVX-512), batch 10, Adam, it trains 4.4 times as many model-samples a second as
the loop of the paper's code for CNN-s and 2.3 times for CNN-l; torch's grouped convolutions with
autograd reached 1.9 and 1.2 times, one block of 64 models in place of small ones 2.6 and 1.6 times.
About half of the time are matrix products, a sixth the pools, a sixth the columns' copies. Nothing
has been measured on a GPU yet.
"""

from __future__ import annotations

from .population import BatchedPopulation, BatchedWeights
from .twins import BatchedTwins

__all__ = ["BatchedPopulation", "BatchedTwins", "BatchedWeights"]
