"""`--compile` changes how a cell runs, not which cell it is."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from tests.end_to_end.conftest import leftovers, write_one
from vlpeft.benchmark.cells.records import Store
from vlpeft.benchmark.plan.check import plan
from vlpeft.benchmark.plan.sweep import SweepHandle

PROTOCOL = "{lr: 1e-3, epochs: 2, batch_size: 4, train_limit: 10, eval_limit: 4, select: best}"


# torch reads the gradients of all inputs. It hides the warning of that, unless warnings are errors.
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning"
)
# torch says so of Python 3.13.0 alone.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_cell_is_compiled(tmp_path, main) -> None:
    torch.compiler.reset()
    counters.clear()
    path = write_one(tmp_path, protocol=PROTOCOL)
    cell = plan(SweepHandle(str(path)), need_data=False).cells[0].id
    for name, flags in (("compiled", ["--compile"]), ("plain", [])):
        assert (
            main(
                "run",
                path,
                "--cell",
                cell,
                "--root",
                tmp_path / name,
                "--device",
                "cpu",
                "--threads",
                1,
                *flags,
            ).code
            == 0
        )
        assert not leftovers(tmp_path / name)
        if flags:
            assert counters["stats"]["unique_graphs"] > 1, (
                "besides the one that tries whether compiling works"
            )
            torch.compiler.reset()
            counters.clear()
    assert not counters["stats"], "without the flag nothing is compiled"
    compiled, plain = (Store(tmp_path / name).record(cell) for name in ("compiled", "plain"))
    assert [record.provenance["compile"] for record in (compiled, plain)] == [True, False]
    assert [compiled.cost[key] for key in ("flops_per_step", "trainable", "steps")] == [
        plain.cost[key] for key in ("flops_per_step", "trainable", "steps")
    ]
    assert compiled.curve[0][1] == pytest.approx(plain.curve[0][1], rel=0.5), (
        "other dropout masks, the same model"
    )
