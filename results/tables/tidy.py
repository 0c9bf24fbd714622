"""The tidy frame for other programs: a row for every cell and metric, nothing averaged.

`vlpeft.results.leaderboard` describes its columns. After them come the settings of the cell, one
column each: `method.rank`, `backbone.text`, `protocol.lr`. Lists and mappings are JSON.
"""

from __future__ import annotations

import io
import json

import pandas as pd

from vlpeft.benchmark.cells.cell import Cell, Plan
from vlpeft.benchmark.core.config import JSON, dump

FORMS = ("csv", "json", "parquet")


def add_settings(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the frame with a column for each setting of its cells, empty where a cell has none.

    Of a joint cell, the protocol is that of its first task.
    """
    settings = {planned.id: _settings(planned.cell) for planned in plan.cells}
    rows = [settings[cell_id] for cell_id in frame["id"]]
    return pd.concat([frame, pd.DataFrame(rows, index=frame.index)], axis=1)


def _settings(cell: Cell) -> dict[str, JSON]:
    names = {"method.name": cell.method.name, "backbone.name": cell.backbone.name}
    return {**names, **{key: _plain(value) for key, value in cell_settings(cell).items()}}


def cell_settings(cell: Cell) -> dict[str, JSON]:
    """Return the settings of a cell by group and key, such as "method.rank"."""
    groups = {
        "method": cell.method.settings,
        "backbone": cell.backbone.settings,
        "protocol": dump(cell.protocol),
    }
    found = {}
    for group, values in groups.items():
        found.update({f"{group}.{key}": value for key, value in values.items()})
    return found


def _plain(value: JSON) -> JSON:
    """Return text for a list or a mapping: a field of a table holds one value."""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value)
    return value


def tidy(frame: pd.DataFrame, form: str) -> bytes:
    """Write the frame in one of FORMS. The same frame gives the same bytes."""
    if form == "parquet":
        out = io.BytesIO()
        frame.to_parquet(out, index=False, engine="pyarrow")
        return out.getvalue()
    if form == "json":
        return f"{frame.to_json(orient='records', indent=1, force_ascii=False)}\n".encode()
    return frame.to_csv(index=False, lineterminator="\n").encode()
