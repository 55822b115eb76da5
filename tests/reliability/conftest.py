"""The tiny runs of the training tests, and the comparison of benchmarks/reliability.py."""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS.parent / "benchmarks"))

_spec = importlib.util.spec_from_file_location("training_fixtures", TESTS / "training" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

tiny, train, rough_flops = _fixtures.tiny, _fixtures.train, _fixtures.rough_flops
