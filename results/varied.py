"""What a plan's entries vary, as columns of the leaderboard."""

from __future__ import annotations

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.plan.vary import show

VARIED = "varied."  # begins the name of such a column, so that it cannot hide another one


def varied_columns(plan: Plan) -> dict[str, str]:
    """Return the columns for what varies, each with the name of the setting, in plan order."""
    keys = dict.fromkeys(key for planned in plan.cells for key in planned.varied)
    return {f"{VARIED}{key}": key for key in keys}


def show_varied(planned: Planned, key: str) -> str:
    """Return the value of a setting as text; "" for a cell whose entries do not vary it."""
    if key not in planned.varied:
        return ""
    return show(planned.varied[key])


def families(plan: Plan) -> dict[str, dict[str, str]]:
    """Return the labels that vary, each with the label without it, by side of the table."""
    found: dict[str, dict[str, str]] = {}
    for planned in plan.cells:
        labels = {"method": planned.row, "backbone": planned.backbone, "dataset": planned.dataset}
        for side, family in planned.families.items():
            found.setdefault(side, {})[labels[side]] = family
    return found
