# mypy: ignore-errors
"""A network of transformers of which units were cut, so that its layers have sizes that its configuration cannot tell.

Written by compressm beside the weights. It is the network that transformers has, with the shapes that ``cut`` of
``config.json`` tells and the numbers that its modules compute with. Load it with ``trust_remote_code=True``.
"""

import transformers
from torch import nn

MODEL_TYPE = "compressm_cut"


def classes(architecture):
    """The configuration and the network for a class of transformers."""
    base = getattr(transformers, architecture)

    class CutConfig(base.config_class):
        model_type = MODEL_TYPE

    class CutNetwork(base):
        config_class = CutConfig

        def __init__(self, config):
            super().__init__(config)
            resize(self, config.cut)

    return CutConfig, CutNetwork


def resize(network, cut):
    """Give tensors and numbers of a network's modules the sizes that are left."""
    for name, shape in cut["shapes"].items():
        place, _, leaf = name.rpartition(".")
        owner = network.get_submodule(place)
        old = getattr(owner, leaf)
        new = old.detach()[tuple(slice(size) for size in shape)].clone()
        if list(new.shape) != list(shape):
            raise ValueError(
                f"{name} has the shape {tuple(old.shape)} before the cut, and {tuple(shape)} after it"
            )
        setattr(owner, leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    for place, values in cut["numbers"].items():
        for name, value in values.items():
            setattr(network.get_submodule(place), name, tuple(value) if isinstance(value, list) else value)
    network.tie_weights()
