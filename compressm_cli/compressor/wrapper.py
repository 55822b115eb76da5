"""A model that is wrapped for several processes, when its parameters are other ones."""

import warnings
from typing import Any

from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel


def wrapped_anew(wrapped: DistributedDataParallel) -> DistributedDataParallel:
    """The module in a fresh wrapper, of the settings that the old one had."""
    settings: dict[str, Any] = {
        "device_ids": wrapped.device_ids,
        "output_device": wrapped.output_device,
        "process_group": wrapped.process_group,
        "find_unused_parameters": wrapped.find_unused_parameters,
        "gradient_as_bucket_view": wrapped.gradient_as_bucket_view,
        "static_graph": wrapped.static_graph,
    }
    if not wrapped.broadcast_buffers:  # only where it was asked for: the setting is about to get another name
        settings["broadcast_buffers"] = False
    if wrapped.mixed_precision is not None:
        settings["mixed_precision"] = wrapped.mixed_precision
    if not wrapped.bucket_bytes_cap_default:
        settings["bucket_cap_mb"] = max(1, wrapped.bucket_bytes_cap // 2**20)
    new = DistributedDataParallel(wrapped.module, **settings)
    new.training = wrapped.training
    for hook, state in wrapped._comm_hooks:
        _exchange_as(new, hook, state)
    return new


def _exchange_as(wrapped: DistributedDataParallel, hook: Any, state: Any) -> None:
    """Exchange gradients by a hook of the wrapper before; one whose state may know earlier shapes is missed aloud."""
    if state is None or isinstance(state, ProcessGroup):
        wrapped.register_comm_hook(state, hook)
        return
    name = getattr(hook, "__qualname__", repr(hook))
    warnings.warn(
        f"{name} exchanges no gradients any more: its {type(state).__name__} was made for earlier shapes; register it "
        "on compressor.model with a new one",
        stacklevel=2,
    )
