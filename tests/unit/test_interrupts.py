"""Ctrl-C, SIGTERM and closed terminals in the process that runs cells."""

import signal

import pytest

from vlpeft.benchmark.core.processes import (
    END_SIGNALS,
    ignore_end_signals,
    interrupt_at_end_signals,
)
from vlpeft.benchmark.launch.interrupts import Patience, _listening


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


def test_only_ctrl_c_stops_at_once_when_it_comes_again() -> None:
    """A closed terminal often sends SIGHUP twice, and service managers SIGTERM and SIGHUP."""
    patience = Patience()
    patience.watch(lambda *_: None)("train", 1, 9)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        patience.handle_signal(number, None)
    assert patience.is_asked()
    with pytest.raises(KeyboardInterrupt):
        patience.handle_signal(signal.SIGINT, None)


@pytest.mark.parametrize("number", END_SIGNALS)
def test_the_first_end_signal_interrupts(number) -> None:
    before = [signal.getsignal(each) for each in END_SIGNALS]
    for each in END_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    try:
        with interrupt_at_end_signals():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            for each in END_SIGNALS:
                signal.raise_signal(each)  # ignored
        assert [signal.getsignal(each) for each in END_SIGNALS] == [signal.SIG_DFL] * 2
    finally:
        for each, handler in zip(END_SIGNALS, before, strict=True):
            signal.signal(each, handler)


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup, also while a cell runs in this process and while cells are saved."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt_at_end_signals(), _listening(), ignore_end_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
