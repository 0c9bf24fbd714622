"""A short campaign of hostile input with every run of the tests; see the package's docstring."""

from __future__ import annotations

import pytest

from tests.fuzz.engine import run_campaign
from tests.fuzz.inputs import KINDS
from tests.fuzz.prepared import Prepared, prepare

INPUTS = 25  # of each kind; about 400 in all, which take a minute
FEWER = {"caches": 4, "requests": 6, "adapter_folder": 8, "weight_folder": 15}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_input_ends_with_an_exit_code_and_one_line(kind, base, tmp_path):
    work = [(kind, seed) for seed in range(FEWER.get(kind, INPUTS))]
    verdicts = list(run_campaign(work, base, tmp_path))
    assert len(verdicts) == len(work)
    found = [verdict for verdict in verdicts if verdict.problem]
    assert not found, f"{len(found)} problems, the first: {found[0]}"
