"""The in-training compression methods, by the name that a recipe gives them."""

from compressm_cli.methods.hankel.method import Hankel
from compressm_cli.methods.method import Method
from compressm_cli.methods.none import NoCompression

METHODS: dict[str, type[Method]] = {"none": NoCompression, "hankel": Hankel}
