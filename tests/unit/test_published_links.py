"""Each published number has a cell or a reason, and each cell of such a sweep has a number."""

from pathlib import Path

import pytest

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.sweep import SweepHandle
from vlpeft.benchmark.plan.sweep_files import sweep_names
from vlpeft.results.papers.links import find_link_problems, find_sweep, linked_places, places
from vlpeft.results.papers.published import load_published, published_names
from vlpeft.results.scale import scale_notes

SWEPT = sorted({sweep for name in published_names() if (sweep := find_sweep(name))})
# Settings for which no paper prints a number: repairs of the release, and the paper's own variant
# where they differ.
WITHOUT_TABLE = {"routing/repaired", "p_adapter/paper"}
# Rows for which no paper prints a number: what the text says where the release does otherwise.
WITHOUT_NUMBER = {"p_adapter/table1": {"full_finetuning, ViT too"}}


@pytest.mark.parametrize("name", published_names())
def test_every_number_has_a_cell_or_a_reason(name: str) -> None:
    assert find_link_problems(name) == []
    if find_sweep(name) is None:
        assert all(
            number.why_impossible or number.column.not_comparable
            for number in load_published(name).numbers()
        )


@pytest.mark.parametrize("sweep", SWEPT)
def test_every_cell_has_a_number(sweep: str) -> None:
    linked = set().union(
        *(linked_places(name) for name in published_names() if find_sweep(name) == sweep)
    )
    known = places(expand(SweepHandle(sweep)))
    extra = {place for place in known if place[0] in WITHOUT_NUMBER.get(sweep, ())}
    assert set(known) - extra == linked
    assert {row for row, *_ in extra} == WITHOUT_NUMBER.get(sweep, set())


@pytest.mark.parametrize("sweep", SWEPT)
def test_sweeps_of_papers_are_of_full_size(sweep: str) -> None:
    cells = expand(SweepHandle(sweep))
    assert not [cell.row for cell in cells if scale_notes(cell.cell)]
    assert len({cell.id for cell in cells}) == len(cells)


def test_every_sweep_in_a_papers_folder_is_a_table_or_known() -> None:
    assert {name for name in sweep_names() if "/" in name} == {*SWEPT, *WITHOUT_TABLE}


@pytest.mark.parametrize("sweep", ["p_adapter/table1", "routing/claims", "vl_pet/table9"])
def test_a_sweep_is_planned_where_its_data_is_not(
    sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell is built on the meta device and listed with what it lacks.

    Nothing is launched without data.
    """
    monkeypatch.setenv("VLPEFT_DATA", str(tmp_path / "nowhere"))
    cells = plan(SweepHandle(sweep), need_data=False).cells
    assert [cell.id for cell in cells] == [cell.id for cell in expand(SweepHandle(sweep))]
    assert all(cell.skipped.startswith("data: ") for cell in cells)
    with pytest.raises(UserError, match="nowhere"):
        plan(SweepHandle(sweep), need_data=True)
