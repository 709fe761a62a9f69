"""Settings refuse what no server could keep."""

from typing import Any

import pytest

from nerserver.settings import Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_inputs": 0}, "max_inputs is 0, expected 1 to 2147483647"),
        ({"threads": -1}, "threads is -1, expected 0 to 1024"),
        ({"reload_poll_s": 0.0}, "reload_poll_s is 0.0"),
        ({"drain_s": float("nan")}, "drain_s is nan"),
        ({"drain_s": float("inf")}, "drain_s is inf"),
        ({"max_streams": 2**31}, "max_streams is 2147483648, expected 1 to 2147483647"),
        ({"max_request_bytes": 2**30}, "max_request_bytes is 1073741824, expected 1 to 1073741823"),
    ],
)
def test_numbers_out_of_range(values: dict[str, Any], message: str) -> None:
    """A number out of range is named with what came and what was expected."""
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_smallest_batches_are_allowed() -> None:
    """Batches of one sentence and drains of no time are settings like others."""
    assert Settings(max_batch_sentences=1, drain_s=0.0).max_batch_sentences == 1
