"""The caption metrics against direct use of pycocoevalcap, and without Java or models."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import pytest

from vlpeft.benchmark.core.errors import MetricUnavailable
from vlpeft.benchmark.metrics import METRICS, Metric, Prediction, Scores, caption_tokens, score
from vlpeft.benchmark.metrics.captions import Cider
from vlpeft.benchmark.metrics.java import LOCALE, run_java, talk_to_java

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs java on the PATH")
WITHOUT_JAVA = ["bleu", "rouge_l", "cider"]
CAPTIONS = [
    (
        "A man riding a wave on top of a surfboard.",
        ["a man rides a wave", "A surfer on a big wave, in the ocean."],
    ),
    ("", ["An empty caption is legal.", "It scores nothing"]),
    (
        'A sign that says "STOP" (in red) - it\'s the U.S.',
        ["a red stop sign", "The sign says `stop`; 1 1/2 m high", "Sign."],
    ),
    (
        "a café — naïve… “quote” 10-year-old 😀",
        ["a café with 3,000 people", "people don't sit at a cafe"],
    ),
    ("a dog\nruns", ["a dog runs in the park", "dogs run!?"]),
    ("two two two two cats <b> a/b x|||y", ["two cats sleep on a couch", ""]),
]
PREDICTIONS = [
    Prediction(str(i), text, tuple(references)) for i, (text, references) in enumerate(CAPTIONS)
]


@pytest.fixture
def fresh() -> None:
    """Clear the cache of tokens."""
    caption_tokens.tokenise_split.cache_clear()


@pytest.fixture
def no_java(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def official_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[dict, dict]:
    """Tokenize references and candidates with the package's own tokenizer.

    It writes its files next to a link to its program.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    (tmp_path / jar.name).symlink_to(jar)
    monkeypatch.setattr(ptbtokenizer, "__file__", str(tmp_path / "ptbtokenizer.py"))
    cut = ptbtokenizer.PTBTokenizer().tokenize
    references = {i: [{"caption": text} for text in texts] for i, (_, texts) in enumerate(CAPTIONS)}
    candidates = {i: [{"caption": text}] for i, (text, _) in enumerate(CAPTIONS)}
    return cut(references), cut(candidates)


@pytest.fixture
def our_tokens() -> tuple[dict, dict]:
    return caption_tokens.tokenise_split(tuple(PREDICTIONS), "ptb")


@needs_java
@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_tokens_equal_the_official_ones(
    official_tokens, fresh, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    """This holds for any locale, because batch jobs often have none."""
    monkeypatch.setenv("LC_ALL", locale)
    assert caption_tokens.tokenise_split(tuple(PREDICTIONS), "ptb") == official_tokens


@needs_java
def test_values_equal_the_official_ones(official_tokens) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider as OfficialCider
    from pycocoevalcap.rouge.rouge import Rouge

    report = score(WITHOUT_JAVA, PREDICTIONS)
    bleu, _ = Bleu(4).compute_score(*official_tokens, verbose=0)
    rouge, rouges = Rouge().compute_score(*official_tokens)
    cider, ciders = OfficialCider().compute_score(*official_tokens)
    official = {f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)} | {
        "ROUGE-L": rouge,
        "CIDEr": cider,
    }
    assert report.values == {name: 100 * value for name, value in official.items()}
    assert report.per_example == {"ROUGE-L": tuple(100 * rouges), "CIDEr": tuple(100 * ciders)}


@needs_java
def test_meteor_equals_the_official_one(our_tokens) -> None:
    """This is the only test that starts METEOR, which reads a large table at each start."""
    from pycocoevalcap.meteor.meteor import Meteor

    official = Meteor()
    try:
        value, _ = official.compute_score(*our_tokens)
    finally:
        official.meteor_p.stdout.close()
        official.meteor_p.stderr.close()
        del official
    assert score(["meteor"], PREDICTIONS).values == {"METEOR": 100 * value}
    assert value > 0


@needs_java
def test_nothing_is_written_into_the_package(fresh) -> None:
    from pycocoevalcap.tokenizer import ptbtokenizer

    folder = Path(ptbtokenizer.__file__).parent
    before = sorted(folder.iterdir())
    caption_tokens.ptb(["a dog"])
    assert sorted(folder.iterdir()) == before


@needs_java
def test_line_breaks_do_not_shift_captions() -> None:
    """The official code removes only newlines for the line-based tokenizer.

    After any other line break all following captions would be shifted.
    """
    breaks = ["\r", "\r\n", "\n\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
    rows = [Prediction(mark, f"a{mark}dog{mark}", (f"cat{i}",)) for i, mark in enumerate(breaks)]
    references, candidates = caption_tokens.tokenise_split(tuple(rows), "ptb")
    assert references == {i: [f"cat{i}"] for i in range(len(breaks))}
    assert candidates == {i: ["a dog"] for i in range(len(breaks))}


@needs_java
@pytest.mark.parametrize(
    "captions", [[""], ["", ""], ["a", "", ""], ["", "a"], ["."], ["a dog ."], ["a", "."]]
)
def test_empty_captions_keep_their_place(captions: list[str]) -> None:
    assert caption_tokens.ptb(captions) == [caption.rstrip(" .") for caption in captions]


def test_one_tokenisation_for_all_metrics(fresh) -> None:
    score(WITHOUT_JAVA, PREDICTIONS, "treebank")
    assert caption_tokens.tokenise_split.cache_info().misses == 1


def test_no_output_of_java_is_not_an_empty_caption(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path, "exit 0", monkeypatch)
    with pytest.raises(RuntimeError, match="1 lines for 2 captions"):
        caption_tokens.ptb(["a dog", "a cat"])


@needs_java
def test_many_metrics_at_once(fresh) -> None:
    with ThreadPoolExecutor(4) as pool:
        reports = list(
            pool.map(lambda _: caption_tokens.ptb([text for text, _ in CAPTIONS[:4]]), range(4))
        )
    assert all(report == reports[0] for report in reports)


def test_other_tokenizer_has_other_names(no_java) -> None:
    report = score(WITHOUT_JAVA, PREDICTIONS, "treebank")
    names = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert list(report.values) == [f"{name} (treebank)" for name in names]
    assert all(isinstance(value, float) for value in report.values.values())
    assert list(report.per_example) == ["ROUGE-L (treebank)", "CIDEr (treebank)"]


def test_treebank_tokens() -> None:
    assert caption_tokens.treebank(["A dog's (big) toy, it isn't \"new\"."]) == [
        "a dog 's -lrb- big -rrb- toy it is n't new"
    ]


def test_values_are_means_of_examples_and_empty_captions_score_zero() -> None:
    report = score(WITHOUT_JAVA, PREDICTIONS, "treebank")
    for name, scores in report.per_example.items():
        assert report.values[name] == pytest.approx(math.fsum(scores) / len(scores))
        assert scores[1] == 0.0


def test_all_captions_empty() -> None:
    rows = [Prediction(str(i), "", ("a dog", f"dog {i} runs")) for i in range(3)]
    values = score(WITHOUT_JAVA, rows, "treebank").values
    assert values == pytest.approx(dict.fromkeys(values, 0.0))


def test_perfect_captions() -> None:
    rows = [
        Prediction(str(i), text, (text,))
        for i, text in enumerate(["a dog runs in the park", "two cats sleep on a couch"])
    ]
    values = score(WITHOUT_JAVA, rows, "treebank").values
    assert values["BLEU-4 (treebank)"] == pytest.approx(100)
    assert values["ROUGE-L (treebank)"] == pytest.approx(100)
    assert values["CIDEr (treebank)"] == pytest.approx(1000)


@pytest.mark.parametrize("metric", [*WITHOUT_JAVA, "meteor"])
@pytest.mark.parametrize("text", ["a dog", ""])
def test_references_without_words_leave_all_absent(metric: str, text: str) -> None:
    """ROUGE-L would give a blank caption 100 for a blank reference."""
    rows = [Prediction("1", text, (".",)), Prediction("2", text, ("!", ""))]
    for value in score([metric], rows, "treebank").values.values():
        assert value == {"absent": "no reference caption has a word left after tokenisation"}


SQUARES = ("a red square", "a square")


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ([SQUARES], "every weight is 0: the split has one example"),
        ([SQUARES, SQUARES], "the references of all 2 examples have the same n-grams"),
        # Other references, in another order, with other letters: the same n-grams.
        ([SQUARES, ("A square.", "A red square!"), SQUARES[::-1]], "the references of all 3"),
    ],
)
def test_cider_is_absent_where_perfect_captions_score_zero(
    references: list[tuple[str, ...]], reason: str
) -> None:
    rows = [Prediction(str(i), texts[0], texts) for i, texts in enumerate(references)]
    report = score(["cider", "rouge_l"], rows, "treebank")
    (name, value), (_, rouge) = report.values.items()
    assert name == "CIDEr (treebank)"
    assert isinstance(value, dict)
    assert reason in value["absent"]
    assert (rouge, list(report.per_example)) == (100.0, ["ROUGE-L (treebank)"])


def test_cider_of_two_images_that_differ_in_a_word() -> None:
    rows = [Prediction("0", "a square", ("a square",)), Prediction("1", "b", ("a square", "b"))]
    assert Cider().evaluate(rows, "treebank").values["CIDEr (treebank)"] > 0


class Ratio(Metric):
    """A metric as another package may write it: it divides without a check."""

    values = ("ratio", "zero")

    def evaluate(self, predictions: Sequence[Prediction], tokenizer: str) -> Scores:
        each = tuple(math.inf if p.text else 1.0 for p in predictions)
        return Scores({"ratio": fmean(each) - math.inf, "zero": -0.0}, {"ratio": each})


def test_what_is_not_a_number_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(METRICS), "load", lambda _registry, _name: Ratio)
    report = score(["ratio"], PREDICTIONS)
    assert report.values["ratio"] == {"absent": "the metric gave nan, which is not finite"}
    assert str(report.values["zero"]) == "0.0", "without a sign"
    assert report.per_example == {}


def test_without_java_all_metrics_are_absent_with_the_reason(no_java) -> None:
    report = score(["bleu", "meteor", "rouge_l", "cider", "vqa_accuracy"], PREDICTIONS)
    captions = {name: value for name, value in report.values.items() if name != "vqa_accuracy"}
    assert list(captions) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"]
    assert all(
        isinstance(value, dict) and "apt install default-jre-headless" in value["absent"]
        for value in captions.values()
    )
    assert report.values["vqa_accuracy"] == 0.0
    assert list(report.per_example) == ["vqa_accuracy"]


def test_spice_without_models_names_files_and_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pycocoevalcap.meteor import meteor

    monkeypatch.setattr(meteor, "__file__", str(tmp_path / "meteor" / "meteor.py"))
    absent = score(["spice"], PREDICTIONS, "treebank").values["SPICE (treebank)"]
    assert isinstance(absent, dict)
    for part in (
        "stanford-corenlp-3.6.0.jar",
        "stanford-corenlp-3.6.0-models.jar",
        str(tmp_path / "spice" / "lib"),
        "https://",
    ):
        assert part in absent["absent"]


def fake_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script named java first on the PATH."""
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_spice_with_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Check the call and the parsing of the answer with a stand-in for the program."""
    from pycocoevalcap.meteor import meteor

    monkeypatch.setattr(meteor, "__file__", str(tmp_path / "meteor" / "meteor.py"))
    library = tmp_path / "spice" / "lib"
    library.mkdir(parents=True)
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (library / name).touch()
    rows = ", ".join(f'{{"image_id": {i}, "scores": {{"All": {{"f": 0.{i}}}}}}}' for i in (1, 0))
    check = (
        'case "$JDK_JAVA_OPTIONS" in *java.base/java.lang=*) ;; *) exit 3;; esac; '
        f'shift {len(LOCALE) - 1}; test "$6" = -out || exit 4'
    )
    fake_java(tmp_path, f"{check}\nprintf '%s' '[{rows}]' > \"$7\"", monkeypatch)
    report = score(["spice"], PREDICTIONS[:2], "treebank")
    assert report.values == {"SPICE (treebank)": pytest.approx(5.0)}
    assert report.per_example == {"SPICE (treebank)": (0.0, 10.0)}


def test_a_failing_java_is_reported_with_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path, "echo first >&2; echo no memory >&2; exit 7", monkeypatch)
    with pytest.raises(MetricUnavailable, match="Java ended with status 7: no memory"):
        run_java(["x"])
    with (
        talk_to_java(["x"]) as program,
        pytest.raises(MetricUnavailable, match="status 7: no memory"),
    ):
        program.ask("x" * 100_000)


GERMAN = "-Duser.language=de -Duser.country=DE -Duser.country.format=DE"


@needs_java
@pytest.mark.parametrize("variable", ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"])
def test_java_writes_numbers_with_a_point(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The locale changes no number, and a note of Java about its options is not an error."""
    program = tmp_path / "Say.java"
    program.write_text(
        "public class Say { public static void main(String[] a) {"
        ' System.out.println(String.format("%.2f", 1234.5)); } }'
    )
    monkeypatch.setenv(variable, GERMAN)
    assert run_java([str(program)]) == "1234.50\n"
    with talk_to_java([str(program)]) as talk:
        assert talk.read_line() == "1234.50"


def test_importing_metrics_is_light() -> None:
    code = (
        "import sys, vlpeft.benchmark.metrics as m; m.METRICS.load('cider'); "
        "print({'torch', 'evaluate', 'nltk', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("first", "second", "is_absent"),
    [
        ("a a a a", "a a a a a", True),  # CIDEr counts n-grams of at most four words
        ("a a a", "a a a a", False),
        ("a", "b a", False),
        ("a b", "b a", False),
    ],
)
def test_cider_is_absent_only_if_all_its_n_grams_are_shared(
    first: str, second: str, is_absent: bool
) -> None:
    rows = [Prediction("0", first, (first,)), Prediction("1", second, (second,))]
    value = score(["cider"], rows, "treebank").values["CIDEr (treebank)"]
    assert isinstance(value, dict) == is_absent
