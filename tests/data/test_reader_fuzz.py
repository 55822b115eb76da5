"""Some mutated files of each format; ``reader_fuzz.py`` by itself makes thousands."""

import pytest
from reader_fuzz import CASES, fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_mutated_files_are_refused_or_read_as_others_read_them() -> None:
    became = dict(fuzz(20 * len(CASES)))
    assert set(became) == set(CASES)
    assert [fault for outcome in became.values() for fault in outcome.faults] == []
    assert all(outcome.read and outcome.refused for outcome in became.values())
