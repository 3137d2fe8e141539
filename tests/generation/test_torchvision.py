"""What works where torchvision is missing or broken, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_zoos.errors import TorchvisionUnavailable
from model_zoos.generation.images import IMAGE_SOURCES
from model_zoos.generation.images.load import _PILLOW
from model_zoos.generation.torchvision import import_torchvision

CHECKOUT = Path(__file__).resolve().parents[2]

WAYS = {
    "missing": "raise ModuleNotFoundError(\"No module named 'torchvision'\")",
    "beyond repair": "raise RuntimeError('operator torchvision::nms does not exist')",
    "of another torch": "raise OSError('libtorch_cuda.so: cannot open shared object file')",
    "half imported": "raise AttributeError(\"module 'torchvision' has no attribute 'extension'\")",
}
"""What `import torchvision` raises."""

HINT = "pip install torchvision, from the package index that torch came from"

CODE = """
import dataclasses, sys
from datasets import load_dataset
import model_zoos
from model_zoos.builders.hub.build import build_folder
from model_zoos.errors import TorchvisionUnavailable
from model_zoos.generation import networks
from model_zoos.generation.options import TrainOptions

home = sys.argv[1]
images = model_zoos.load_images("digits", progress=False)
images = images.subset(train=slice(40), validation=slice(20), test=slice(20))
zoo = dataclasses.replace(model_zoos.zoo_spec("digits_cnn_s"), epochs=1)
model_zoos.generate(zoo, home, images, models=7, options=TrainOptions(engine="reference"))
rows = load_dataset("model_zoos", "digits_cnn_s", data_dir=home)["train"]
row = rows[0]
pixels = images.normalized("test")
accuracy = (model_zoos.instantiate(row)(pixels).argmax(1) == images.test.labels).double().mean()
assert abs(accuracy - row["test_acc"]) < 1e-6
build_folder(["digits_cnn_s"], home, home + "/out")
resnet = model_zoos.layout_of({"architecture": "resnet18", "weights": range(11_183_562)})
assert resnet.slots[0].name == "conv1.weight"

for call in (
    lambda: networks.build(resnet, "relu"),
    lambda: model_zoos.load_images("mnist", home, download=True),
    lambda: model_zoos.load_images("eurosat/cnn_s", home, download=True),
):
    try:
        call()
    except TorchvisionUnavailable as error:
        assert isinstance(error, ImportError)
        print(error, "|", error.hint)
assert "torchvision" not in sys.modules
"""


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (28, 28, 3), (40, 23, 3), (1, 1)])
def test_pillow_does_what_torchvision_does(shape: tuple[int, ...]) -> None:
    transforms = import_torchvision().transforms
    used = {step for source in IMAGE_SOURCES.values() for step in source.transform}
    steps = {(name, str(argument)): (name, argument) for name, argument in used}
    assert set(_PILLOW) <= set(steps)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for key, step in _PILLOW.items():
        name, argument = steps[key]
        image = Image.fromarray(pixels)
        expected = getattr(transforms, name)(argument)(image)
        assert step(image).mode == expected.mode
        assert np.array_equal(step(image), expected), key


def test_threads_may_all_be_the_first_to_import_it() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import sys\n"
        "from model_zoos.generation.torchvision import import_torchvision\n"
        "sys.setswitchinterval(1e-6)\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    found = list(pool.map(lambda _: import_torchvision(), range(8)))\n"
        "assert len(set(map(id, found))) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One without torchvision."""
    paths = [_broken(tmp_path, "missing"), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _broken(root: Path, way: str) -> str:
    """Write a package torchvision that cannot be imported; return its folder."""
    package = root / "broken" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WAYS[way])
    return str(package.parent)


@pytest.mark.slow
def test_only_what_needs_torchvision_asks_for_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "zoos")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("this needs torchvision, which cannot be imported beside torch ")
        assert "No module named 'torchvision'" in line
        assert line.endswith(f"| {HINT}")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_be_broken_is_one_error(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(_broken(tmp_path, way))
    with pytest.raises(TorchvisionUnavailable, match="this needs torchvision") as raised:
        import_torchvision()
    assert raised.value.hint == HINT
    if way != "beyond repair":  # whose repair fails in a process that is repaired already
        assert WAYS[way].partition("(")[0].removeprefix("raise ") in str(raised.value)


def test_the_command_says_it_without_a_traceback(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["generate", "mnist_cnn_s_seed", "--models", "1", "--epochs", "1", "--download"]
    places = ["--out", str(tmp_path / "zoos"), "--images-dir", str(tmp_path / "images")]
    done = subprocess.run(
        [sys.executable, "-m", "model_zoos", *command, *places],
        env=environment,
        capture_output=True,
        text=True,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode not in (0, -11), said
    assert "this needs torchvision" in said
    assert HINT in said
    assert "Traceback" not in said
