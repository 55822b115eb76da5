"""Plug-ins: layers, models, methods, objectives and tasks of other packages, to be named in recipes.

What a recipe or a checkpoint names is never imported for that: only modules that the user asked for (``load``,
``--plugin``), and those of installed packages with an entry point in the group ``compressm.plugins``. What lies in the
current folder is not installed, also where Python looks for modules there.
"""

from compressm_cli.plugins.importing import GROUP, find, load, load_installed, require
from compressm_cli.plugins.origins import REGISTRIES, changed, is_module, loaded, needed
from compressm_cli.plugins.registration import PluginError, register

__all__ = [
    "GROUP",
    "REGISTRIES",
    "PluginError",
    "changed",
    "find",
    "is_module",
    "load",
    "load_installed",
    "loaded",
    "needed",
    "register",
    "require",
]
