"""Find, before a launch, that the code has changed since some seeds of a row were run."""

from __future__ import annotations

from vlpeft.benchmark.cells.cell import Plan, Planned
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.sources import cell_code


def refuse_other_code(plan: Plan, store: Store) -> None:
    """Raise UserError if a launch would add seeds of new code to a row with seeds of old code.

    Tables refuse to average them, so the training would be in vain. Rows that are complete, and
    records of versions that recorded no code, are left alone.
    """
    rows: dict[tuple[str, str, str, str], list[Planned]] = {}
    for planned in plan.runnable():
        row = (planned.row, planned.backbone, planned.task, planned.dataset)
        rows.setdefault(row, []).append(planned)
    for row, cells in rows.items():
        done = [planned for planned in cells if store.has_record(planned.id)]
        if 0 < len(done) < len(cells):
            for planned in done:
                _refuse_change(planned, store, row)


def _refuse_change(planned: Planned, store: Store, row: tuple[str, ...]) -> None:
    """Raise UserError if the code of a finished cell has changed since."""
    recorded = store.record(planned.id).provenance.get("code")
    if not isinstance(recorded, dict):
        return
    now = cell_code(planned.cell)
    changed = [kind for kind in now if kind in recorded and recorded[kind] != now[kind]]
    if changed:
        method, backbone, task, dataset = row
        raise UserError(
            f"{method} on {backbone}, {task}/{dataset}: the code of its {' and '.join(changed)} "
            f"has changed since seed {planned.seed} (cell {planned.id}) was run, and its seeds "
            f"could not be averaged; delete {store.folder(planned.id)} and the folders of the "
            "other outdated cells to run them again, choose another --root, or pass "
            "--mixed-environments, which tables note"
        )
