"""What another process makes of checkpoints: it knows nothing but the files, and the plug-ins of these tests."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from compressm_cli import plugins

RELOAD = """
import sys
import torch
from compressm_cli import plugins
from compressm_cli.checkpoint import Checkpoint
inputs, modules, *paths = sys.argv[1:]
for module in modules.split():
    plugins.load(module)
torch.set_num_threads(1)
for path in paths:
    with torch.no_grad():
        torch.save(Checkpoint.load(path).build_model().eval()(torch.load(inputs)), path + ".out")
"""


def outputs_in_a_fresh_process(folder: Path, inputs: Tensor, checkpoints: list[Path]) -> list[Tensor]:
    """The outputs for ``inputs`` of the models that one new process builds from these checkpoints."""
    torch.save(inputs, folder / "inputs.pt")
    modules = " ".join(plugins.loaded())
    command = [sys.executable, "-c", RELOAD, str(folder / "inputs.pt"), modules, *map(str, checkpoints)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return [torch.load(f"{path}.out") for path in checkpoints]
