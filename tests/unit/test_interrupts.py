"""Ctrl-C in the process that runs cells."""

import signal

import pytest

from vlpeft.benchmark.launch.interrupts import Patience


def test_the_first_interrupt_of_a_training_cell_is_kept(capsys) -> None:
    patience, said = Patience(), list[str]()
    report = patience.watch(lambda phase, *_: said.append(phase))
    report("load data", 0, 1)
    with pytest.raises(KeyboardInterrupt):  # there is no state to save
        patience.handle_signal(signal.SIGINT, None)
    assert not patience.is_asked()
    report("train", 1, 9)
    patience.handle_signal(signal.SIGINT, None)
    assert patience.is_asked()
    assert (
        capsys.readouterr().err
        == "vlpeft: saving the cell in training; Ctrl-C again stops at once\n"
    )
    with pytest.raises(KeyboardInterrupt):
        patience.handle_signal(signal.SIGINT, None)
    assert said == ["load data", "train"]
