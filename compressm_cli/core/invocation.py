"""What this process was asked for on its command line, as far as messages repeat it, and who shows its warnings."""

import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Invocation:
    """Set by the command line; in a program of one's own there are no words, and warnings are Python's."""

    words: list[str] | None = None
    """What follows ``compressm``."""
    plugins: list[str] = field(default_factory=list)
    """Modules that ``--plugin`` names."""
    warn: Callable[[str], None] = warnings.warn

    def command(self, *words: object) -> str:
        """A ``compressm`` command for a message, with this one's plug-ins, quoted so that a shell takes it as it is."""
        plugins = [word for module in self.plugins for word in ("--plugin", module)]
        return shlex.join(["compressm", *map(str, words), *plugins])

    def with_plugin(self, module: str) -> str:
        """How to ask for a plug-in: this command line with it."""
        if self.words is None:
            return f"compressm_cli.plugins.load({module!r})"
        return shlex.join(["compressm", *self.words, "--plugin", module])


INVOCATION = Invocation()
