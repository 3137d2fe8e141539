"""The launch configurations of docs/ are what accelerate reads, the commands what ours takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "distributed.md").read_text()


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one_node_8_gpus", 8, 1), ("four_nodes_8_gpus", 32, 4)]
)
def test_accelerate_reads_the_configurations(name: str, processes: int, machines: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = DOCS / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert f"docs/accelerate/{path.name}" in PAGE


def test_the_plan_of_the_page(tmp_path: Path) -> None:
    [command] = re.findall(r"^model-zoos (generate .*--plan.*)$", PAGE, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "model_zoos", *command.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert "1,000 models to train" in done.stdout
    assert len(re.findall(r"^│", done.stdout, re.MULTILINE)) == 32
    assert not list(tmp_path.iterdir())
