"""The method that never changes anything: the baseline."""

from typing import Literal

from torch import nn

from compressm_cli.methods.config import MethodConfig
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.structure.plan import Plan


class NoCompressionConfig(MethodConfig):
    """``compression: {method: none}``: train the model as it is."""

    method: Literal["none"] = "none"


class NoCompression(Method):
    """Trains the model as it is; has no checks."""

    Config = NoCompressionConfig

    def check_steps(self, total: int) -> list[int]:
        return []

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return Plan()
