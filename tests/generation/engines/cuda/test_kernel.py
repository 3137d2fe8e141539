"""The CUDA kernel, emulated on a processor: the bits of the lanes, and neither races nor bounds."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings

from model_zoos.builders.catalog import zoo_spec
from model_zoos.builders.hyperparameters import ACTIVATIONS, OPTIMIZERS
from model_zoos.builders.layout import Layout, make_layout
from model_zoos.errors import CudaUnavailable
from model_zoos.generation import engines
from model_zoos.generation.engines import choose_engine
from model_zoos.generation.engines.cuda import CudaPopulation, library
from model_zoos.generation.engines.kernels import weights_order
from model_zoos.generation.engines.lanes import LanesPopulation, LanesUnavailable, lanes_count
from model_zoos.generation.generate import generate
from model_zoos.generation.images import ImageData, load_images
from model_zoos.generation.options import TrainOptions
from tests.generation.engines.cuda.emulated import WHOLE, Emulator, compile_kernel
from tests.generation.engines.networks import texts
from tests.generation.engines.oracle import (
    CNN_L,
    CNN_S,
    make_images,
    make_models,
    make_orders,
    make_weights,
)
from tests.generation.engines.test_networks import CASES, layout_of

if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
    pytest.skip("needs a C++ compiler", allow_module_level=True)

on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="other processors keep subnormal numbers in the lanes",
)

SMALL = "1x12x12 conv3k3p1 pool drop conv4k2 drop gap fc5 drop fc3"
"""Padding, pooling, an average, dropout everywhere: each kind of phase."""


def train(
    kind: Any,
    layout: Layout,
    activation: str = "tanh",
    optimizer: str = "adam",
    scheduler: str | None = None,
    dropout: float = 0.0,
    models: slice = slice(None),
) -> list[bytes]:
    """Two epochs and an evaluation of three models with rates of their own: each one's bytes."""
    images, labels = make_images(layout, 23)
    everyone = make_models(
        3, activation=activation, optimizer=optimizer, batch_size=9, epochs=2, scheduler=scheduler,
        seeds=[3, 2**40 + 7, -5], learning_rate=[1e-2, 1e-3, 3e-4],
        weight_decay=[0.0, 1e-3, 1e-2], momentum=[0.9, 0.5, 0.3],
        dropout=np.array([1.0, 0.6, 0.2]) * dropout,
    )  # fmt: skip
    population = kind(layout, everyone[models], make_weights(layout, 3)[models])
    orders = make_orders(3, 23)[models]
    measured = []
    for _ in range(2):
        measured.extend(population.train_epoch(images, labels, orders))
        measured.append(population.weights)
    loss, accuracy = population.evaluate(images, labels)
    measured += [loss, accuracy]
    return [b"".join(values[model].tobytes() for values in measured) for model in range(len(loss))]


def emulated(threads: int = 3, shared_bytes: int = WHOLE) -> Any:
    return partial(CudaPopulation, device="cpu", load=Emulator(threads, shared_bytes))


def check_the_lanes(
    text: str, activation: str, optimizer: str, scheduler: str | None, dropout: float
) -> None:
    layout = layout_of(text)
    try:
        lanes_count(layout, activation)
    except LanesUnavailable as reason:
        pytest.skip(str(reason))
    found = train(emulated(), layout, activation, optimizer, scheduler, dropout)
    assert found == train(LanesPopulation, layout, activation, optimizer, scheduler, dropout)


@on_x86
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if number % 17 == 0 else [pytest.mark.slow])
        for number, case in enumerate(CASES)
    ],
    ids=lambda case: "-".join(map(str, case[1:])),
)
def test_bits_are_those_of_the_lanes(case: tuple[str, str, str, str | None, float]) -> None:
    check_the_lanes(*case)


@on_x86
@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("layout", [CNN_S, CNN_L], ids=lambda layout: layout.architecture.name)
def test_bits_of_the_papers_networks_are_those_of_the_lanes(layout: Layout, dropout: float) -> None:
    expected = train(LanesPopulation, layout, "gelu", dropout=dropout)
    assert train(emulated(), layout, "gelu", dropout=dropout) == expected


ANY = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@on_x86
@pytest.mark.slow
@settings(ANY, max_examples=30)
@given(texts())
@example("1x1x1 fc2")
@example("3x5x5 conv3k2s2p1 pool drop fc2")
@example("3x9x9 conv7k3s3p2:silu pool drop gap fc5")
@example("1x280x280 conv2k3 pool gap fc2")  # more than 2^16 pixels
def test_bits_of_any_network_are_those_of_the_lanes(text: str) -> None:
    number = sum(map(ord, text))
    check_the_lanes(
        text,
        list(ACTIVATIONS)[number % 10],
        list(OPTIMIZERS)[number % 5],
        None,
        0.5 * (number % 2),
    )


DEEP = "1x28x28 conv4k5 pool drop conv4k3 pool fc20 drop fc10"
WIDE = "1x28x28 conv9k3 pool drop gap fc10"
"""With 20 kB of weights and gradients and 13 kB for a sample; with 2 and 48."""


@pytest.mark.parametrize(
    ("text", "threads", "shared_bytes", "kept"),
    [
        # All in shared memory; without the weights; without the samples; nothing.
        pytest.param(DEEP, 1, WHOLE, (1, 1), marks=pytest.mark.slow),
        pytest.param(DEEP, 64, 20_000, (0, 1), marks=pytest.mark.slow),
        pytest.param(WIDE, 7, 5_000, (1, 0), marks=pytest.mark.slow),
        (DEEP, 8, 2_000, (0, 0)),
    ],
)
def test_bits_do_not_depend_on_threads_and_memory(
    text: str, threads: int, shared_bytes: int, kept: tuple[int, int]
) -> None:
    layout = layout_of(text)
    facts = Emulator(threads, shared_bytes)(layout, "tanh", True, torch.device("cpu")).facts
    assert (facts.weights_in_shared, facts.samples_in_shared) == kept
    assert facts.shared_bytes <= shared_bytes
    found = train(emulated(threads, shared_bytes), layout, dropout=0.5)
    assert found == train(emulated(), layout, dropout=0.5)


def test_bits_depend_on_the_model_alone() -> None:
    layout = layout_of(SMALL)
    everyone = train(emulated(), layout, dropout=0.5)
    assert len(set(everyone)) == 3
    for models in (slice(0, 1), slice(1, 3), slice(2, 3)):
        assert train(emulated(), layout, dropout=0.5, models=models) == everyone[models]


@pytest.mark.slow
def test_many_models_take_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(SMALL)
    expected = train(emulated(), layout)
    monkeypatch.setattr("model_zoos.generation.engines.cuda.population.SCRATCH", 1)
    assert train(emulated(shared_bytes=600), layout) == expected


def populations(text: str, **values: Any) -> tuple[CudaPopulation, LanesPopulation]:
    """The same models in the emulation and in lanes."""
    layout = layout_of(text)
    options = {"activation": "relu", "optimizer": "sgd", "batch_size": 4, "learning_rate": 1e-2}
    models = make_models(8, **{**options, **values, "seeds": range(8)})
    weights = make_weights(layout, 8)
    return emulated()(layout, models, weights), LanesPopulation(layout, models, weights)


@on_x86
@pytest.mark.parametrize(
    ("text", "pixel", "values"),
    [
        ("1x6x6 conv2k1 pool fc3", np.inf, {}),
        ("1x6x6 conv2k1 pool fc3", -np.inf, {}),
        ("1x6x6 conv2k1 pool fc3", np.nan, {}),
        ("1x12x12 conv4k3 conv3k2 pool fc5", 1.0, {"learning_rate": 5.5e12}),
    ],
)  # fmt: skip
def test_numbers_that_are_not_finite_are_those_of_the_lanes(
    text: str, pixel: float, values: dict[str, Any]
) -> None:
    """What has no gradient counts: zero times an infinite number is NaN."""
    layout = layout_of(text)
    images, labels = make_images(layout, 12)
    images[3, 0, 2, 3] = pixel
    both = populations(text, **values)
    for _ in range(3):
        ours, theirs = (one.train_epoch(images, labels, make_orders(8, 12)) for one in both)
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(*(one.weights for one in both))
    assert not np.isfinite(both[0].weights).all()


@on_x86
def test_losses_of_many_images_are_summed_in_their_order() -> None:
    both = populations(SMALL)
    images, labels = make_images(both[0].layout, 1200)
    np.testing.assert_array_equal(*(one.evaluate(images * 30, labels) for one in both))


def test_arrays_of_any_kind_are_read() -> None:
    layout = layout_of(SMALL)
    images, labels = make_images(layout, 12)
    population = emulated()(layout, make_models(
        1, activation="tanh", optimizer="sgd", batch_size=4, learning_rate=0.1
    ), make_weights(layout, 1))  # fmt: skip
    expected = population.evaluate(images, labels)
    fixed = images.copy()
    fixed.flags.writeable = False
    for form in (images[::-1][::-1], images.astype(">f4"), fixed, torch.tensor(images)):
        np.testing.assert_array_equal(population.evaluate(form, labels), expected)
    for form in (labels.astype(np.uint16), labels[::-1][::-1], torch.tensor(labels)):
        np.testing.assert_array_equal(population.evaluate(images, form), expected)


SANITIZERS = {
    "threads": ("-fsanitize=thread",),
    "addresses": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}


def sanitize(folder: Path, text: str, *flags: str, threads: int = 4, shared: int = WHOLE) -> Any:
    """The outcome of the kernel's run as a program with a sanitizer."""
    try:
        program = compile_kernel(
            folder, layout_of(text), "tanh", True, "program.cpp", "-O1", "-g",
            *flags, threads=threads, shared_bytes=shared,
        )  # fmt: skip
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no such sanitizer")
    return subprocess.run([program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "threads", "shared"),
    [
        (SMALL, 4, WHOLE),
        pytest.param(SMALL, 5, 600, marks=pytest.mark.slow),
        pytest.param("3x9x9 conv7k3s3p2 pool drop gap fc5", 33, WHOLE, marks=pytest.mark.slow),
        pytest.param("1x28x28 conv8k5 pool drop conv6k5 pool drop conv4k2 drop fc20 drop fc10",
                     256, WHOLE, marks=pytest.mark.slow),
        pytest.param("1x28x28 fc64 drop fc10", 16, WHOLE, marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "sanitizer", ["threads", pytest.param("addresses", marks=pytest.mark.slow)]
)
def test_sanitizers_find_nothing(
    tmp_path: Path, sanitizer: str, text: str, threads: int, shared: int
) -> None:
    done = sanitize(tmp_path, text, *SANITIZERS[sanitizer], threads=threads, shared=shared)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) > 0
    assert not done.stderr


@pytest.mark.slow
def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    done = sanitize(tmp_path, SMALL, *SANITIZERS["threads"], "-DWITHOUT_BARRIERS")
    assert done.returncode != 0
    assert "ThreadSanitizer" in done.stderr


# In the package


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits").subset(train=slice(60), validation=slice(9), test=slice(20))


@on_x86
def test_a_zoo_has_the_files_of_the_lanes(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulated kernel in the place of the lanes: the whole way to the model files."""
    try:
        lanes_count(make_layout("cnn_s", 1))
    except LanesUnavailable as reason:
        pytest.skip(str(reason))
    options = TrainOptions(engine="lanes", threads=1)
    zoo = dataclasses.replace(zoo_spec("digits_cnn_s"), epochs=2)
    generate(zoo, tmp_path / "lanes", digits, models=2, options=options)
    monkeypatch.setitem(engines.LANES, "dense", emulated())
    generate(zoo, tmp_path / "cuda", digits, models=2, options=options)
    files = sorted(path.name for path in (tmp_path / "lanes/digits_cnn_s/models").iterdir())
    assert len(files) == 2
    for name in files:
        contents = {
            (tmp_path / kind / "digits_cnn_s/models" / name).read_bytes()
            for kind in ("lanes", "cuda")
        }
        assert len(contents) == 1


def test_without_a_gpu_the_engine_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CudaUnavailable, match="needs a CUDA device"):
        choose_engine(zoo_spec("digits_cnn_s"), tmp_path, TrainOptions(engine="cuda"), "relu")
    with pytest.raises(CudaUnavailable, match="no CUDA device"):
        engines.evaluate(
            make_weights(CNN_S, 1), CNN_S, "tanh", *make_images(CNN_S, 2), engine="cuda"
        )


def test_tensors_begin_at_multiples_of_the_alignment() -> None:
    plain, aligned = weights_order(CNN_S), weights_order(CNN_S, alignment=4)
    np.testing.assert_array_equal(aligned[aligned >= 0], plain)
    np.testing.assert_array_equal(np.sort(plain), np.arange(CNN_S.size))
    # conv1: 200 weights, 8 biases; conv2: 1200 and 6, which are followed by two places for none.
    np.testing.assert_array_equal(aligned[200 + 8 + 1200 + 6 :][:2], -1)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1x4x4 " + "fc3 " * 16 + "fc2", "at most 16 layers; .* has 17"),
        ("1x28x28 fc1300 fc10", "at most 1,000,000 weights"),
    ],
)
def test_large_networks_are_refused(text: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(CudaUnavailable, match=limit):
        library.load(layout_of(text), "tanh", False, torch.device("cuda"))
    with pytest.raises(CudaUnavailable, match="needs a CUDA device, not 'cpu'"):
        library.load(layout_of(SMALL), "tanh", False, torch.device("cpu"))


def test_the_compiler_writes_into_memory_of_its_own() -> None:
    """NVRTC once wrote over Python's shared object of one space."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the packages of make gpu-check")
    source = library.Source.read(
        layout_of("1x4x4 fc2"), "tanh", False, architecture="sm_90", shared_bytes=WHOLE
    )
    cubin, log = source.compile()
    assert cubin.startswith(b"\x7fELF")
    assert log == ""
    assert bytes([32])[0] == 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("text", "activation", "optimizer", "scheduler", "dropout"), CASES)
def test_bits_of_a_gpu_are_those_of_the_emulation(
    text: str, activation: str, optimizer: str, scheduler: str | None, dropout: float
) -> None:
    layout = layout_of(text)
    found = train(CudaPopulation, layout, activation, optimizer, scheduler, dropout)
    assert found == train(emulated(), layout, activation, optimizer, scheduler, dropout)
