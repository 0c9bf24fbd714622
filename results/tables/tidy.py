"""The tidy frame for other programs: a row for every cell and metric, nothing averaged.

`vlpeft.results.leaderboard` describes its columns.
"""

from __future__ import annotations

import io

import pandas as pd

FORMS = ("csv", "json", "parquet")


def tidy(frame: pd.DataFrame, form: str) -> bytes:
    """Write the frame in one of FORMS. The same frame gives the same bytes."""
    if form == "parquet":
        out = io.BytesIO()
        frame.to_parquet(out, index=False, engine="pyarrow")
        return out.getvalue()
    if form == "json":
        return f"{frame.to_json(orient='records', indent=1, force_ascii=False)}\n".encode()
    return frame.to_csv(index=False, lineterminator="\n").encode()
