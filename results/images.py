"""Whether the images of finished cells changed between them, by what the records say of the files.

A record has three hashes for each task: of the names, sizes and modification times of its images
(`vlpeft.benchmark.datasets.base.image_fingerprint`). Earlier records have none, which is not a
difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlpeft.benchmark.cells.recorded import recorded_images
from vlpeft.benchmark.core.errors import UserError
from vlpeft.results.code_versions import Made
from vlpeft.results.environments import label

SeenImages = dict[tuple[str, str], dict[str, list[str]]]  # dataset, names -> value -> cells


def image_remarks(cells: Sequence[Made], *, mixed: bool = False) -> tuple[str, ...]:
    """Return what a caption must say about images that differ between cells, a sentence each.

    Args:
        cells: Finished cells with their records.
        mixed: Accept images of other modification times: they may be copies.

    Raises:
        UserError: Cells saw images of other sizes, or of other modification times (unless `mixed`).
    """
    sizes: SeenImages = {}
    times: SeenImages = {}
    for dataset, (names, size, time), cell in _fingerprints(cells):
        sizes.setdefault((dataset, names), {}).setdefault(size, []).append(cell)
        times.setdefault((dataset, names), {}).setdefault(time, []).append(cell)
    for dataset, groups in _differing(sizes):
        raise UserError(
            f"dataset '{dataset}': the image files changed in size between {groups}; these cells"
            " cannot share a table: delete record.json of the outdated cells and run them again"
        )
    notes = []
    for dataset, groups in _differing(times):
        if not mixed:
            raise UserError(
                f"dataset '{dataset}': the image files were changed or copied between {groups}:"
                " their modification times differ (provenance.images). If they are copies, pass"
                " --mixed-environments, which notes this; otherwise delete record.json of the"
                " outdated cells and run them again"
            )
        notes.append(f"Image files of '{dataset}' with other modification times in {groups}.")
    return tuple(notes)


def _fingerprints(cells: Sequence[Made]) -> Iterator[tuple[str, list[str], str]]:
    """Yield dataset, hashes and cell for each task of a record that has them."""
    for planned, record in cells:
        for part, value in recorded_images(planned, record):
            hashes = value.split("-")
            if len(hashes) == 3:
                yield part.dataset.name, hashes, label(planned)


def _differing(seen: SeenImages) -> Iterator[tuple[str, str]]:
    """Yield each dataset with several values, and an example cell of each value."""
    for (dataset, _), groups in seen.items():
        if len(groups) > 1:
            examples = [f"{cells[0]} and {len(cells) - 1} more" for cells in groups.values()]
            yield dataset, "; ".join(text.removesuffix(" and 0 more") for text in examples)
