"""The in-training compression methods, by the name that a recipe gives them."""

from compressm_cli.core.registry import Registry
from compressm_cli.methods.baselines.magnitude import Magnitude
from compressm_cli.methods.baselines.random import Random
from compressm_cli.methods.config import MethodConfig
from compressm_cli.methods.faults import made
from compressm_cli.methods.hankel.method import Hankel
from compressm_cli.methods.method import Method
from compressm_cli.methods.none import NoCompression

METHODS: Registry[Method] = Registry(
    "method",
    "method",
    Method,
    MethodConfig,
    {"none": NoCompression, "hankel": Hankel, "random": Random, "magnitude": Magnitude},
)


def method_of(config: MethodConfig) -> Method:
    """The method that a recipe's ``compression:`` names; MethodFaultError where it cannot be made."""
    return made(METHODS[config.method], config)
