"""VQA accuracy against the behaviour of the official VQA v2 evaluator, bugs included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.metrics import METRICS, Prediction, score
from vlpeft.benchmark.metrics.vqa_accuracy import CONTRACTIONS, normalise, vqa_accuracy

WORDS = st.sampled_from(
    [
        "yes",
        "no",
        "one",
        "1",
        "a cat",
        "the cat",
        "cat",
        "dont",
        "don't",
        "yes!",
        "2,000",
        "T.V.",
        "",
    ]
)
TEN = st.lists(WORDS, min_size=10, max_size=10)


def ten(**counts: int) -> list[str]:
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert len(answers) == 10
    return answers


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (5, 1.0), (9, 1.0)]
)
def test_ten_answer_rule(matches: int, accuracy: float) -> None:
    """Each annotator is compared with the nine others: three agreeing humans give 0.9, not 1."""
    assert vqa_accuracy("yes", ten(yes=matches, no=10 - matches)) == accuracy


def test_the_authors_example() -> None:
    """The evaluator's author in issue 1 of GT-Vision-Lab/VQA: 8 yes and 2 no give 1.0 and 0.6."""
    references = ten(yes=8, no=2)
    assert (vqa_accuracy("yes", references), vqa_accuracy("no", references)) == (1.0, 0.6)


@pytest.mark.parametrize(
    ("text", "processed"),
    [
        ("Yes!", "yes"),
        ("  the red\tcar\n", "red car"),
        ("A", ""),  # a lone article vanishes: "what letter is this?" cannot be answered with A
        ("two", "2"),
        ("none", "0"),
        ("left one", "left 1"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),  # both apostrophes missing: not repaired
        ("Im", "im"),  # the table has upper-case forms of "I", but the words are lower case
        ("lets", "lets"),
        ("she's", "she's"),
        ("somebody'd", "somebodyd"),  # the official table has this entry backwards
        ("ow's'at", "'ow's'at"),
        ("twas", "'twas"),
        ("black-white", "black white"),  # a mark between letters becomes a space
        ("black -white", "black white"),
        (
            "black- white, x-y",
            "black white xy",
        ),  # a mark that touches a space once is deleted everywhere
        ("black-white, red", "black white red"),
        ("1,000", "1000"),
        ("1,000-2", "10002"),  # a comma between digits deletes all marks
        ("a,b", "b"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("5.", "5"),  # the guard against a digit before the point has a typo
        (".5", ".5"),
        ("." * 40, "." * 8),  # only 32 are replaced
        ("it's: ok", "it's: ok"),  # neither apostrophe nor colon counts as punctuation
        ("don’t", "don’t"),
        ("", ""),
        ("\n\t", ""),
    ],
)
def test_text_processing(text: str, processed: str) -> None:
    assert normalise(text) == processed


def test_contractions_are_the_official_ones() -> None:
    """114 of the official entries can change a lower-cased word."""
    assert len(CONTRACTIONS) == 114
    assert all(wrong == wrong.lower() != right for wrong, right in CONTRACTIONS.items())
    assert {"yall'd've", "y'alld've", "y'all'dve"} <= CONTRACTIONS.keys()
    assert not CONTRACTIONS.keys() & {
        "shed",
        "wed",
        "well",
        "shell",
        "were",
        "id",
        "ill",
        "its",
        "lets",
        "shes",
    }


def test_agreeing_annotators_are_not_processed() -> None:
    """With ten equal references the original compares the strings unchanged.

    This matters for questions about text in the image.
    """
    assert vqa_accuracy("Stop!", ["Stop!"] * 10) == 1.0
    assert vqa_accuracy("stop", ["Stop!"] * 10) == 0.0
    assert vqa_accuracy(" Stop!\n", ["\tStop! "] * 10) == 1.0
    assert vqa_accuracy("stop", ["Stop!"] * 9 + ["halt"]) == 1.0


def test_white_space_alone_is_not_a_disagreement() -> None:
    assert vqa_accuracy("stop", ["Stop!"] * 9 + ["Stop! "]) == 0.0


@given(WORDS, WORDS)
def test_one_reference_is_ten_agreeing_annotators(answer: str, reference: str) -> None:
    assert (
        vqa_accuracy(answer, [reference])
        == vqa_accuracy(answer, [reference] * 10)
        == float(answer.strip() == reference)
    )


@pytest.mark.parametrize(("n", "best"), [(2, 1 / 3), (3, 2 / 3), (4, 1.0), (5, 1.0)])
def test_other_numbers_of_references_leave_one_out(n: int, best: float) -> None:
    assert vqa_accuracy("yes", ["yes"] * n) == pytest.approx(best)


@given(WORDS, TEN)
def test_range(answer: str, references: list[str]) -> None:
    assert vqa_accuracy(answer, references) in {0.0, 0.3, 0.6, 0.9, 1.0}


@given(WORDS, TEN, st.randoms())
def test_annotators_have_no_order(answer: str, references: list[str], random) -> None:
    shuffled = random.sample(references, 10)
    assert vqa_accuracy(answer, references) == vqa_accuracy(answer, shuffled)


@given(WORDS, TEN)
def test_equals_a_literal_leave_one_out(answer: str, references: list[str]) -> None:
    processed = normalise if len(set(references)) > 1 else str
    given_text, truth = processed(answer), [processed(reference) for reference in references]
    rounds = [truth[:left] + truth[left + 1 :] for left in range(10)]
    expected = sum(min(1, others.count(given_text) / 3) for others in rounds) / 10
    assert vqa_accuracy(answer, references) == pytest.approx(expected, abs=1e-12)


@given(
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet="aehntow '.,;-15?", max_size=30),
        st.lists(WORDS).map(" ".join),
    )
)
def test_processing_twice_changes_nothing(text: str) -> None:
    """This is true up to 32 full stops; the cases above show what happens beyond."""
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(max_size=20))
def test_any_text_is_processed(text: str) -> None:
    assert not set(normalise(text)) & set(';/[]"{}()=+\\_-><@`,?!\n\t')


def test_no_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        vqa_accuracy("yes", [])


def test_score_gives_per_cent_kinds_and_examples() -> None:
    predictions = [
        Prediction("1", "yes", tuple(ten(yes=3, no=7)), "exist"),
        Prediction("2", "no", tuple(ten(yes=3, no=7)), "exist"),
        Prediction("3", "2", ("2",), "count"),
        Prediction("4", "red", ("blue",), ""),
    ]
    report = score(["vqa_accuracy"], predictions)
    assert report.values == pytest.approx(
        {"vqa_accuracy": 72.5, "vqa_accuracy/count": 100.0, "vqa_accuracy/exist": 95.0}
    )
    assert report.per_example == {"vqa_accuracy": (90.0, 100.0, 100.0, 0.0)}


def test_score_refuses_what_cannot_be_scored() -> None:
    yes = Prediction("7", "yes", ("yes",))
    with pytest.raises(DataError, match="no predictions"):
        score(["vqa_accuracy"], [])
    with pytest.raises(DataError, match="'7' is predicted twice"):
        score(["vqa_accuracy"], [yes, yes])
    with pytest.raises(DataError, match="'8' has no reference"):
        score(["vqa_accuracy"], [yes, Prediction("8", "yes", ())])
    with pytest.raises(UserError, match="did you mean 'vqa_accuracy'"):
        score(["vqa_acuracy"], [yes])


def test_metrics_are_listed_with_their_values_without_importing_them() -> None:
    values = {name: entry.options["values"] for name, entry in METRICS.entries.items()}
    assert values["bleu"] == ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
    assert set(values) == {
        "accuracy",
        "answer_match",
        "bleu",
        "cider",
        "meteor",
        "rouge_l",
        "spice",
        "vqa_accuracy",
        "vqa_accuracy_vl_adapter",
    }
    assert all(entry.summary for entry in METRICS.entries.values())


@pytest.mark.parametrize("other", [0, 9])
def test_two_different_references_are_processed(other: int) -> None:
    """Also if only one of them differs, at either end of the list."""
    references = ["cat"] * 10
    references[other] = "a cat"
    assert vqa_accuracy("the cat", references) == 1.0
