"""How a failure is passed from one process to another."""

import pytest

from vlpeft.benchmark.cells.failures import RankFailed, describe_failure, rebuild_error
from vlpeft.benchmark.core.errors import DataError, UserError, WeightsError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UserError("no"), "settings"),
        (DataError("no"), "data"),
        (WeightsError("no"), "weights"),
        (KeyError("no"), "KeyError"),
    ],
)
def test_a_failure_survives_the_transfer(error, cause) -> None:
    about = describe_failure(error)
    assert (about.cause, about.user) == (cause, isinstance(error, UserError))
    again = rebuild_error(1, about)
    assert type(again) is (type(error) if about.user else RankFailed)
    assert describe_failure(again).cause == cause
