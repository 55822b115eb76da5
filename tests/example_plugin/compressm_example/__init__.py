"""A layer, a model, a method, an objective and a task for compressm: importing this package registers them."""

from compressm_cli.plugins import register
from compressm_example.layer import Damped
from compressm_example.method import Largest
from compressm_example.model import Pooled
from compressm_example.objective import Smoothed
from compressm_example.task import Tones

EXAMPLES = {"method": {"largest": {"keep_fraction": 0.6}}, "layer": {"damped": {"damping": 0.8}}}
"""Settings for the conformance tests."""

register(Damped, Pooled, Largest, Smoothed, Tones)
