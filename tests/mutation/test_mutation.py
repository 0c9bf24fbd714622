"""The tool itself: what it changes, what it leaves alone, and that its lists name what exists."""

from __future__ import annotations

import pytest

from tests.mutation.campaign import REPOSITORY, find_mutants
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.operators import list_mutants
from tests.mutation.targets import ROOMS, SKIPPED, TESTS


def changes(source: str) -> set[str]:
    return {mutant.change for mutant in list_mutants("a.py", source.encode())}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("y = a + b", {"a + b -> a - b"}),
        ("y = a < b", {"a < b -> a <= b"}),
        ("y = a and not b", {"a and not b -> a or not b", "not b -> b"}),
        ("y = x[1:]", {"1 -> 2"}),
        ("y = x.sum(-1)", {"-1 -> -2", "x.sum -> x.max"}),
        ("y = x.detach()", {"x.detach() -> x"}),
        ("y = f(a, b)", {"f(a, b) -> f(b, a)"}),
        ("y = f(a, dim=n)", {"f(a, dim=n) -> f(a)"}),
        ("def f(x, k=True): pass", {"True -> False"}),
        ("x.zero_()", {"x.zero_() -> pass"}),
        ("x += y", {"x += y -> x -= y", "x += y -> pass"}),
        ("y = 0.5", {"0.5 -> 1.0", "0.5 -> -0.5"}),
        ("if f(x): y()", {"f(x) -> not f(x)", "y() -> pass"}),
        ("y = a if b else c", {"a if b else c -> c if b else a"}),
    ],
)
def test_changes(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1"""',
        "x: Annotated[int, Field(ge=1 + 1)]",
        "def f(x: Literal[1]) -> Literal[2]: pass",
        "raise ValueError(1 + 1)",
        "if a < b: raise ValueError(a)",
        'print(1 + 1, f"{a + b}")',
        "super().__init__()",
    ],
)
def test_what_no_number_depends_on_is_left_alone(source: str) -> None:
    assert changes(source) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_every_mutant_is_another_program_that_compiles(room: str) -> None:
    mutants = find_mutants([room])
    assert len(mutants) > 100
    for mutant in mutants:
        source = (REPOSITORY / mutant.path).read_bytes()
        changed = mutant.apply(source)
        compile(changed, mutant.path, "exec")
        assert changed != source
        assert mutant.line in source.decode()


@pytest.mark.parametrize("room", ROOMS)
def test_each_file_has_tests_or_is_skipped(room: str) -> None:
    files = {path.stem for path in (REPOSITORY / room).glob("*.py")} - {"__init__"}
    covered = " ".join(TESTS[room]).split()
    skipped = SKIPPED.get(room, "").split()
    assert sorted(covered + skipped) == sorted(files)
    named = {test for tests in TESTS[room].values() for test in tests}
    assert [test for test in named if not (REPOSITORY / "tests" / test).is_file()] == []


def test_each_equivalent_mutant_exists() -> None:
    every = {mutant.key for mutant in find_mutants(ROOMS)}
    assert [key for key in EQUIVALENT if key not in every] == []
