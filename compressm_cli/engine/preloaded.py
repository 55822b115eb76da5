"""To be imported, last of all, by a process that others are forked from: what each would do first is done once.

They need not import what a run imports nor load the machine code of the most common kernels, each of which takes
longer than a short run; and their garbage collector need not look through all that was imported. No thread is begun,
since none would survive the fork: so the kernels are called themselves, not as ``ops.scan.load_kernels`` does, through
autograd, which could not be used after it.
"""

import gc

# PyTorch imports it with the first optimizer.
import torch._dynamo

from compressm_cli.ops import cpu, dropout


def _load_kernels() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x, h, pole = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1)
    dropout.dropout_(x, 0.5, 0)
    cpu.scan_(h, pole, pole)
    cpu.scan_backward_(x, h, pole, pole)
    cpu.adjoint_scan_(x, pole, pole)
    torch.set_num_threads(threads)


_load_kernels()
gc.collect()
gc.freeze()
