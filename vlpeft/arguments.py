"""Checks of the arguments that notebooks give to the functions of `vlpeft`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vlpeft.benchmark.contract.backbone import BackboneConfig
from vlpeft.benchmark.core.errors import UserError

# Patterns of options of the command line, and the Python arguments of the same meaning.
ARGUMENTS = {
    r"`--image LEFT --image RIGHT`": "two paths in `images`",
    r"`--image` once": "one path in `images`",
    r"`--question`": "`question`",
    r"--(device|task|threads) (?=[\w:]+[:;]|cpu|cuda)": r"\1=",
    r"--(device|task|threads)\b": r"`\1`",
}


def check_answers(answers: object, config: BackboneConfig) -> tuple[str, ...]:
    """Return a list of answers, once it is clear that the backbone can use it."""
    if isinstance(answers, str):  # a string is also a sequence: of its letters
        raise UserError(f"answers: a list is needed; write [{answers!r}]")
    if not isinstance(answers, Sequence):
        raise UserError(f"answers: a list of texts is needed, got {type(answers).__name__}")
    for answer in answers:
        if not isinstance(answer, str):
            raise UserError(f"answers: {answer!r} is not a text; write {str(answer)!r}")
    given = tuple(answers)
    twice = [each for each in given if given.count(each) > 1][:1]
    if twice:
        raise UserError(f"answers: {twice[0]!r} is there twice; remove one")
    # A backbone that writes can do without a list.
    if not given and "write" not in config.abilities:
        raise UserError(
            f"answers: {config.name} classifies, so it needs a list of answers; "
            "write for example answers=('yes', 'no')"
        )
    return given


@contextmanager
def python_arguments() -> Iterator[None]:
    """Name Python arguments in errors, where the library names options of the command line."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for option, argument in ARGUMENTS.items():
            text = re.sub(option, argument, text)
        raise UserError(text) from error


def require_type(name: str, value: object, wanted: type, source: str) -> None:
    """Raise UserError for an argument that is not what the function `source` returns."""
    if not isinstance(value, wanted):
        raise UserError(f"{name}: give what `vlpeft.{source}` returns, got {type(value).__name__}")
