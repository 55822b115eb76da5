"""The in-training compression methods, by the name that a recipe gives them."""

from compressm_cli.compression.hankel import Hankel
from compressm_cli.compression.method import Method
from compressm_cli.compression.none import NoCompression

METHODS: dict[str, type[Method]] = {"none": NoCompression, "hankel": Hankel}
