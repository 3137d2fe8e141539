"""What every test needs: its own cache, no network, and a small trained zoo."""

from __future__ import annotations

import os
import signal
import tempfile

# Set before datasets is imported, which reads these once.
_CACHE = tempfile.TemporaryDirectory(prefix="model-zoos-tests-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
# COLUMNS is set by readline, which pytest imports; no test has a terminal of that width.
for name in ("MODEL_ZOOS_HOME", "MODEL_ZOOS_IMAGES", "MODEL_ZOOS_REPO", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
if "MODEL_ZOOS_SHARED" in os.environ:
    os.environ["MODEL_ZOOS_SHARED"] = os.path.abspath(os.environ["MODEL_ZOOS_SHARED"])

# Tests send SIGINT, which programs ignore that a shell has started in the background.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path  # noqa: E402

import datasets  # noqa: E402
import pytest  # noqa: E402

import model_zoos  # noqa: E402

datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def digits_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of zoos with digits_cnn_s: 20 models trained for 5 epochs (never write to it)."""
    import dataclasses

    from model_zoos.generation.generate import generate
    from model_zoos.generation.images import load_images

    root = tmp_path_factory.mktemp("zoos")
    zoo = dataclasses.replace(model_zoos.get_zoo("digits_cnn_s"), epochs=5)
    generate(zoo, root, load_images("digits"), models=20)
    return root
