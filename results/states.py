"""The state of a score: whether it is there, and why not.

The leaderboard's frame, and all files and output of commands, have a state as text
(`vlpeft.results.leaderboard` lists the texts). Code that reads the frame parses the text once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

StateKind = Literal["done", "missing", "failed", "absent", "skipped"]
KINDS: tuple[StateKind, ...] = ("done", "missing", "failed", "absent", "skipped")
# The kinds of states without a value, the one that decides for all seeds first.
MERGE_ORDER: tuple[StateKind, ...] = ("skipped", "failed", "missing", "absent")
WORST_ORDER: tuple[StateKind, ...] = ("skipped", "failed", "absent", "missing")


@dataclass(frozen=True)
class State:
    """Whether a score is there, and the reason if it is not.

    kind: "done" | "missing" (no record) | "failed" (no record until the cause is fixed)
        | "absent" (the metric could not be computed) | "skipped" (the grid rules the cell out).
    reason: empty for "done" and "missing", which need none.
    """

    kind: StateKind
    reason: str = ""

    @classmethod
    def parse(cls, text: str) -> State:
        """Parse the text of a state, such as "absent: no Java".

        Raises ValueError for an unknown kind.
        """
        name, _, reason = text.partition(": ")
        for kind in KINDS:
            if name == kind:
                return cls(kind, reason)
        raise ValueError(f"unknown state '{text}'; it starts with one of {', '.join(KINDS)}")

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.kind in ("done", "missing"):
            return self.kind
        return f"{self.kind}: {self.reason}"

    @property
    def is_done(self) -> bool:
        """Whether the score is there."""
        return self.kind == "done"

    @property
    def is_skipped(self) -> bool:
        """Whether the grid rules the cell out."""
        return self.kind == "skipped"

    @property
    def has_record(self) -> bool:
        """Whether the cell is finished. Its record may still lack the metric."""
        return self.kind in ("done", "absent")


DONE = State("done")
MISSING = State("missing")


def parse_states(texts: Iterable[str]) -> list[State]:
    """Parse a column of texts. Raises ValueError for an unknown kind."""
    return [State.parse(text) for text in texts]


# The two functions below stay apart, because their orders differ. A mean over seeds shows a
# missing seed before an absent metric: the table then says how many seeds are done. A number of
# a paper shows an absent metric first: it needs a fix, while a missing seed only has to run. A
# mean also keeps the reasons of all seeds as a footnote; a verdict has room for one.


def merge_states(states: Sequence[State]) -> State:
    """Return one state for all seeds: "done" only if all are done.

    Different reasons are all kept, joined by semicolons.
    """
    for kind in MERGE_ORDER:
        reasons = dict.fromkeys(state.reason for state in states if state.kind == kind)
        if reasons:
            return State(kind, "; ".join(reasons))
    return DONE


def worst_state(states: Iterable[State]) -> State:
    """Return the most severe state of several seeds, "missing" if there are none.

    A state that needs a fix takes precedence over one that is only missing: a seed that failed,
    then a metric that could not be computed.
    """
    every = list(states)
    undone = [state for state in every if not state.is_done]
    if undone:
        return min(undone, key=lambda state: WORST_ORDER.index(state.kind))
    return DONE if every else MISSING
