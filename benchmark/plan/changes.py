"""Find, before a launch, that code or images have changed since some cells were run."""

from __future__ import annotations

import json

from vlpeft.benchmark.cells.cell import Part, Plan, Planned
from vlpeft.benchmark.cells.recorded import recorded_images
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.run.inputs import Inputs
from vlpeft.benchmark.run.sources import cell_code

# The settings of a recipe that decide which images a cell reads unchanged.
READING = (
    *("train_split", "train_limit", "eval_split", "eval_limit", "select", "select_split"),
    *("images", "augment"),
)


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


def refuse_other_images(plan: Plan, store: Store) -> None:
    """Raise UserError if a launch would add cells on changed images to cells on the old ones.

    Tables refuse these together, so the training would be in vain. Records of versions that
    recorded no images are left alone.
    """
    wanted: set[str] = set()
    for planned in plan.runnable():
        if not store.has_record(planned.id):
            wanted |= set(map(_images_key, planned.cell.parts))
    for planned in plan.runnable():
        if wanted and store.has_record(planned.id):
            for part, recorded in recorded_images(planned, store.record(planned.id)):
                if _images_key(part) not in wanted:
                    continue
                wanted.remove(_images_key(part))
                if Inputs.open(part).image_fingerprint() != recorded:
                    raise UserError(
                        f"dataset '{part.dataset.name}': its images have changed or were copied "
                        f"since cell {planned.id} was run, and cells on both could not share a "
                        f"table; choose another --root, delete {store.folder(planned.id)} and the "
                        "folders of the other outdated cells, or pass --mixed-environments if "
                        "they are copies"
                    )


def _images_key(part: Part) -> str:
    """Return what decides which images a task reads."""
    reading = {key: getattr(part.protocol, key) for key in READING}
    return json.dumps([part.dataset.identity(), part.task, reading], sort_keys=True)
