"""What the cells of a method or backbone need of a cluster: `resources:` in its entry.

    {name: full_finetuning, resources: {gpus: 4, cpus: 32, time: 600, mem_gb: 200}}

It replaces what the profile of a launch says. Ids of cells do not depend on it. A scale leaves it
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from vlpeft.benchmark.core.config import (
    JSON,
    Config,
    NonNegative,
    Positive,
    PositiveFloat,
    dump,
    is_number,
    parse,
)
from vlpeft.benchmark.core.errors import UserError

TIMES = (  # as sbatch writes them
    re.compile(r"(?P<minutes>[0-9]+)"),
    re.compile(r"(?P<hours>[0-9]+):(?P<minutes>[0-5]?[0-9]):(?P<seconds>[0-5]?[0-9])"),
    re.compile(
        r"(?P<days>[0-9]+)-(?P<hours>[01]?[0-9]|2[0-3])"
        r"(:(?P<minutes>[0-5]?[0-9])(:(?P<seconds>[0-5]?[0-9]))?)?"
    ),
)
SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def parse_minutes(value: Any) -> Any:
    """Return a time as minutes, rounded up: 240, "04:00:00" or "1-12:00:00".

    "04:00" is refused: sbatch reads it as four minutes, and people as four hours.
    """
    if not isinstance(value, str):
        return value
    for form in TIMES:
        found = form.fullmatch(value)
        if found:
            parts = found.groupdict(default="0")
            seconds = sum(SECONDS[name] * int(number) for name, number in parts.items())
            return -(-seconds // 60)
    raise ValueError(
        f"'{value}' is not a time; write minutes (240), HH:MM:SS ('04:00:00') "
        "or D-HH:MM:SS ('1-12:00:00')"
    )


def _check_word(text: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise ValueError("write one word without spaces")
    return text


Minutes = Annotated[int, Field(gt=0), BeforeValidator(parse_minutes)]
Word = Annotated[str, AfterValidator(_check_word)]  # it goes into a line of the sbatch script


@dataclass(frozen=True)
class Resources(Config):
    """Keys of a profile that an entry may set; None leaves the profile's.

    gpus: of a job. As many processes train a cell together, one on each.
    """

    time: Minutes | None = None
    mem_gb: PositiveFloat | None = None
    gpus: NonNegative | None = None
    cpus: Positive | None = None
    partition: Word | None = None
    constraint: Word | None = None


def parse_resources(item: JSON, where: str) -> dict[str, JSON]:
    """Read a `resources:` mapping. Raises UserError for a bad one."""
    where = f"{where}: resources"
    if not isinstance(item, Mapping):
        raise UserError(f"{where}: write a mapping, such as {{gpus: 4, time: 600, mem_gb: 200}}")
    values = dump(parse(Resources, item, where))
    return {key: value for key, value in values.items() if value is not None}


def join_resources(method: Mapping[str, JSON], backbone: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what a cell needs: the larger of two numbers, and the method's of two texts."""
    joined = {**backbone, **method}
    for key, value in joined.items():
        if is_number(value):
            joined[key] = max(value, backbone.get(key, value))
    return joined
