"""States of scores: their texts, and one state for several seeds."""

import pytest

from vlpeft.results.states import DONE, MISSING, State, merge_states, worst_state

FAILED, NO_JAVA = State("failed", "OutOfMemory: CUDA"), State("absent", "no Java")
SKIPPED = State("skipped", "no embeddings")


@pytest.mark.parametrize(
    "text",
    ["done", "missing", "failed: OutOfMemory: CUDA\nout of memory", "absent: ", "skipped: x"],
)
def test_a_text_is_read_and_written_unchanged(text):
    assert str(State.parse(text)) == text


@pytest.mark.parametrize("text", ["", "running", "skip: x", "failed:x"])
def test_an_unknown_state_is_an_error(text):
    with pytest.raises(ValueError, match="unknown state"):
        State.parse(text)


def test_a_mean_shows_a_missing_seed_before_an_absent_metric():
    assert merge_states([DONE, NO_JAVA, MISSING]) == MISSING
    assert merge_states([MISSING, FAILED, SKIPPED]) == SKIPPED
    assert merge_states([DONE, DONE]) == DONE


def test_a_mean_keeps_each_reason_once():
    states = [NO_JAVA, State("absent", "no CUDA"), NO_JAVA]
    assert str(merge_states(states)) == "absent: no Java; no CUDA"


def test_a_verdict_shows_an_absent_metric_before_a_missing_seed():
    assert worst_state([DONE, MISSING, NO_JAVA]) == NO_JAVA
    assert worst_state([NO_JAVA, FAILED, SKIPPED]) == SKIPPED
    assert worst_state([DONE]) == DONE
    assert worst_state([]) == MISSING
