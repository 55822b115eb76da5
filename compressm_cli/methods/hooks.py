"""The hooks that a method has on a model, whose modules come and go."""

from torch import nn
from torch.utils.hooks import RemovableHandle

from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method


class Hooks:
    """Lets a method hook a model's modules, and does so again where they are other ones."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._modules: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []

    def follow(self, model: nn.Module) -> None:
        """Have the hooks on the modules that the model has now."""
        modules = list(model.modules())
        if modules != self._modules:
            for handle in self._handles:
                handle.remove()
            self._handles, self._modules = ask(self._method, Method.attach, model), modules
