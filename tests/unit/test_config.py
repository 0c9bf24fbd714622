"""Typed configuration: what it accepts, and how it words each refusal."""

import json
import os
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpeft.benchmark.core.config import (
    Config,
    Finite,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    dump,
    load_yaml,
    merge,
    parse,
)
from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean, error_context
from vlpeft.benchmark.core.protocol import (
    RECORD_ORDER,
    EvaluationRecipe,
    InputRecipe,
    OptimizerRecipe,
    Protocol,
    in_record_order,
)
from vlpeft.benchmark.core.versioned import parse_versioned


@dataclass(frozen=True)
class Settings(Config):
    """A class with one field of every kind."""

    size: Positive
    rate: PositiveFloat = 1e-3
    share: Fraction = 0.0
    offset: Finite = 0.0
    skip: NonNegative = 0
    kind: Literal["soft", "hard"] = "soft"
    names: tuple[str, ...] = ()
    flag: bool = False


def refusal(**values) -> str:
    with pytest.raises(UserError) as error:
        parse(Settings, {"size": 1, **values}, "here")
    assert "\n" not in str(error.value)
    return str(error.value)


REFUSED = {
    "unknown key": ({"sise": 2}, "here: unknown key 'sise'; did you mean 'size'?"),
    "unknown key, nothing like it": (
        {"zzz": 2},
        "here: unknown key 'zzz'; known: flag, kind, names, offset, rate, share, size, skip",
    ),
    "number as text": ({"size": "8"}, 'here: size: input should be a valid integer, got "8"'),
    "fraction for a count": ({"size": 1.5}, "here: size: input should be a valid integer, got 1.5"),
    "truth for a count": ({"size": True}, "here: size: input should be a valid integer, got true"),
    "number for truth": ({"flag": 1}, "here: flag: input should be a valid boolean, got 1"),
    "number for text": (
        {"names": ["a", 1]},
        "here: names[1]: input should be a valid string, got 1",
    ),
    "text for a list": ({"names": "ab"}, 'here: names: write a list, such as ["ab"], got "ab"'),
    "zero": ({"size": 0}, "here: size: input should be greater than 0, got 0"),
    "negative": ({"skip": -1}, "here: skip: input should be greater than or equal to 0, got -1"),
    "NaN": ({"rate": float("nan")}, "here: rate: input should be a finite number, got NaN"),
    "infinity": (
        {"rate": float("inf")},
        "here: rate: input should be a finite number, got Infinity",
    ),
    "NaN for any number": (
        {"offset": float("nan")},
        "here: offset: input should be a finite number, got NaN",
    ),
    "NaN for a share": ({"share": float("nan")}, "here: share:"),
    "a share of one": ({"share": 1.0}, "here: share: input should be less than 1, got 1.0"),
    "not offered": ({"kind": "sfot"}, "here: kind: input should be 'soft' or 'hard', got \"sfot\""),
    "null": ({"rate": None}, "here: rate: input should be a valid number, got null"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name) -> None:
    values, message = REFUSED[name]
    assert refusal(**values).startswith(message)


def test_a_required_key() -> None:
    with pytest.raises(UserError, match=r"^here: 'size' is required$"):
        parse(Settings, {}, "here")


def test_values_outside_json() -> None:
    assert "quote the value" in refusal(kind={1, 2})


def test_long_values_are_cut() -> None:
    assert len(refusal(size="9" * 10_000)) < 200


def test_defaults_and_round_trip() -> None:
    parsed = parse(Settings, {"size": 3, "names": ["a"], "rate": 1}, "here")
    assert parsed == Settings(3, 1.0, names=("a",))
    assert parse(Settings, dump(parsed), "there") == parsed
    assert dump(parsed)["share"] == 0.0  # defaults are written out


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", "+1e-4"])
def test_common_spellings_of_numbers(text, tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"lr: {text}\nsteps: 1\n")
    assert parse(Protocol, load_yaml(path), str(path)).lr == 1e-4


def test_yaml_1_2_has_no_norway_problem(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: no\nb: on\nc: 012\nd: true\n")
    assert load_yaml(path) == {"a": "no", "b": "on", "c": 12, "d": True}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1\n", r"a.yaml:2: not valid YAML: "),
        (
            b"a: 1\nb: 3\na: [2]\n",
            r"a.yaml:3: not valid YAML: found duplicate key 'a': 1 in line 1 and a list in line 3",
        ),
        (b"{true: 1, 'true': 2}\n", r"a.yaml:1: not valid YAML: found duplicate key 'true'"),
        (b"a: *b\n", r"a.yaml:1: not valid YAML: found undefined alias"),
        (b"a: \x01\n", r"a.yaml:1: not valid YAML: the character U\+0001 is not allowed"),
        (b"a: 1\nb: \0\n", r"a.yaml:2: not valid YAML: the character U\+0000 is not allowed"),
        (b'a: "\\0"\n', r"a.yaml:1: not valid YAML: .* holds what is not a character"),
        (b'a: "\\ud800"\n', r"a.yaml:1: not valid YAML: .* holds what is not a character"),
        (b'a: "\\UFFFFFFFF"\n', r"a.yaml: not valid YAML: "),
        ("a: 1\n".encode("utf-16"), r"a.yaml: not UTF-8 text: .*; save it as UTF-8"),
        ("a: 1\n".encode("utf-16-le"), r"a.yaml:1: .*save the file as UTF-8"),
        (b"a:\n\t- 1\n", r"a.yaml:2: not valid YAML: found character"),
        (b"a: 2024-13-45\n", r"a.yaml:1: not valid YAML: 2024-13-45 is read as a date; quote"),
        (b"a: 2024-01-02\n", r"quote the value if it is meant as text"),
        (b"a: !!int x\n", r"a.yaml:1: not valid YAML: x is not a value of !!int"),
        (b"a: !!float y\n", r"a.yaml:1: not valid YAML: y is not a value of !!float"),
        (b"a: !!bool z\n", r"a.yaml:1: not valid YAML: z is not a value of !!bool"),
        (b"a: " + b"9" * 5000, r"a.yaml:1: not valid YAML: 9{40}\.\.\. is not a value of !!int"),
        (b"a: 0x" + b"f" * 99, r"a.yaml:1: not valid YAML: 0xf+\.\.\. is too large a number"),
        (b"[[a]]: 1\n", r"a.yaml:1: not valid YAML: a list or a mapping is a key"),
        (b"b: 1\n? {a: 1}\n: 2\n", r"a.yaml:2: not valid YAML: a list or a mapping is a key"),
        (b"a: !!timestamp x\n", r"a.yaml:1: not valid YAML: "),
        (b"a: !!binary aGVsbG8=\n", r"the tag !!binary is not for plain values; remove it"),
        (b"a: !!set {a, b}\n", r"the tag !!set is not for plain values; remove it"),
        (b"a: !!omap [b: 1]\n", r"the tag !!omap is not for plain values; remove it"),
        (b"a: !mine x\n", r"the tag !mine is not for plain values; remove it"),
        (b"a: &a [*a]\n", r"a.yaml:1: not valid YAML: an anchor contains itself"),
        (b"a: " + b"[" * 5000, r"a.yaml:1: not valid YAML: nested deeper than 100 levels"),
        (b"- " * 5000, r"a.yaml:1: not valid YAML: nested deeper than 100 levels"),
        (b"[" * 2_000_000, r"a.yaml: larger than 1,048,576 bytes, .*; give another file"),
        (b"a: \xff\n", r"a.yaml: not UTF-8 text: "),
        (b"", r"a.yaml: expected `key: value` lines at the top level, found nothing"),
        (b"just text", r'found only "just text"'),
        (
            b"a: !!python/object:os.system {}\n",
            r"a.yaml:1: not valid YAML: the tag !!python/object:os.system is not for plain values",
        ),
    ],
)
def test_yaml_refusals(content, words, tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_yaml(path)
    assert "\n" not in str(error.value)


def test_what_anchors_expand_to_is_bounded(tmp_path) -> None:
    """These 400 bytes would be 10^10 values."""
    path, lines = tmp_path / "a.yaml", ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in pairwise("abcdefghij"):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"a\.yaml:5: not valid YAML: more than 100,000 values"):
        load_yaml(path)


def test_anchors_and_merge_keys(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &a {b: 1}\nc: {<<: *a, d: *a}\ne: &a 2\nf: *a\n")
    one = {"b": 1}
    assert load_yaml(path) == {"a": one, "c": {"b": 1, "d": one}, "e": 2, "f": 2}


def test_a_file_that_cannot_be_read(tmp_path) -> None:
    (tmp_path / "nine.yaml").touch()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, reason in (
        (tmp_path / "none.yaml", r"No such file or directory; did you mean 'nine\.yaml'\?"),
        (
            tmp_path / "zzzzzzzzzzzzzz.yaml",
            r"No such file or directory; \S+ has gone\.yaml, loop\.yaml, nine",
        ),
        (tmp_path / "no" / "a.yaml", r"No such file or directory; there is no folder \S+no$"),
        (tmp_path / "gone.yaml", "it is a link to nowhere, which does not exist"),
        (tmp_path, r"Is a directory; give one of its files: gone\.yaml, loop\.yaml, nine"),
        (Path(__file__) / "a.yaml", "Not a directory; give the path of a file"),
        (tmp_path / "loop.yaml", "Too many levels of symbolic links; give"),
        (tmp_path / f"{'x' * 300}.yaml", "File name too long; give"),
        (tmp_path / "a\0.yaml", "null byte; give"),
        (tmp_path / "pipe.yaml", "not a regular file; copy its content"),
        (Path("/dev/zero"), "not a regular file; copy its content"),
    ):
        with pytest.raises(UserError, match=reason):
            load_yaml(path)


def test_json_that_is_nested_deep(tmp_path) -> None:
    text = b'{"a": ' * 100_000
    with pytest.raises(UserError, match=r"a\.json: damaged"):
        parse_versioned(Protocol, text, tmp_path / "a.json", 1, "thing", "damaged ({})")


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda v: st.dictionaries(st.sampled_from("abc"), v, max_size=3),
)
LAYERS = st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3)


def test_merge() -> None:
    assert merge({"a": 1, "b": {"x": 1, "y": 2}}, {"b": {"y": 3}}, {"a": None}) == {
        "a": None,
        "b": {"x": 1, "y": 3},
    }
    assert merge({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}  # lists are replaced
    assert merge({"a": {"x": 1}}, {"a": 2}) == {"a": 2}
    assert merge() == {}


@given(LAYERS, LAYERS, LAYERS)
def test_merge_is_associative_and_changes_no_layer(one, two, three) -> None:
    before = json.dumps([one, two, three])
    merged = merge(one, two, three)
    assert merged == merge(merge(one, two), three)
    assert merged == merge(merged, three)
    assert list(merged) == list({**one, **two, **three})
    assert json.dumps([one, two, three]) == before


@given(st.lists(LAYERS, min_size=1, max_size=3))
def test_the_last_layer_wins(layers) -> None:
    merged = merge(*layers)
    assert all(
        merged[key] == value for key, value in layers[-1].items() if not isinstance(value, dict)
    )


def test_records_keep_the_order_in_which_fields_came_to_be() -> None:
    assert tuple(dump(Protocol(lr=1.0, steps=1))) == RECORD_ORDER
    # The first added field, which no record from before it has.
    assert RECORD_ORDER.index("metric_tokenizer") + 1 == RECORD_ORDER.index("label_words")
    assert fields(Protocol)[0].name == "lr"


def test_a_field_that_the_order_lacks() -> None:
    with pytest.raises(TypeError, match=r"fields and RECORD_ORDER differ: .*size"):
        in_record_order(Settings)


def test_groups_check_their_own_fields() -> None:
    with pytest.raises(ValueError, match="exactly one of epochs and steps"):
        OptimizerRecipe(lr=1.0)
    with pytest.raises(ValueError, match="an image has one view only"):
        InputRecipe(views=2)
    assert EvaluationRecipe(select="best").select_split == "val"


def test_protocol_length() -> None:
    assert Protocol(lr=1.0, steps=7).total_steps(1000) == 7
    assert Protocol(lr=1.0, epochs=2).total_steps(65) == 130
    for wrong in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(UserError, match="set exactly one of epochs and steps"):
            parse(Protocol, {"lr": 1.0, **wrong}, "here")
    with pytest.raises(UserError, match="set at most one of warmup_fraction and warmup_steps"):
        parse(Protocol, {"lr": 1.0, "steps": 1, "warmup_fraction": 0.1, "warmup_steps": 3}, "here")


def test_a_typo_in_the_braces_of_a_prompt() -> None:
    assert (
        parse(Protocol, {"lr": 1e-3, "steps": 1, "prompt": "vqa: {text}"}, "here").prompt
        == "vqa: {text}"
    )
    with pytest.raises(
        UserError,
        match=r"^here: prompt: unknown \{txt\}; \{text\} is the placeholder for the question",
    ):
        parse(Protocol, {"lr": 1e-3, "steps": 1, "prompt": "vqa: {txt}"}, "here")


PROTOCOL_REFUSED = [
    ("lr", 0.0), ("lr", -1e-3), ("steps", -2), ("steps", 0), ("batch_size", 0),
    ("betas", [0.9]), ("betas", [0.9, 1.0]), ("eps", 0.0), ("weight_decay", -0.1),
    ("schedule", "cosin"), ("warmup_fraction", 1.0), ("warmup_steps", -1),
    ("clip_norm", 0.0), ("precision", "fp16"), ("images", "black"),
    ("train_limit", 0), ("eval_limit", -1), ("max_input_tokens", 0), ("max_output_tokens", 0),
    ("beams", 0), ("max_answers", 0), ("metrics", "cider"), ("metric_tokenizer", "moses"),
    ("name", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), PROTOCOL_REFUSED)
def test_protocol_ranges(key, value) -> None:
    with pytest.raises(UserError, match=rf"^here: '?{key}"):
        parse(Protocol, {"lr": 1e-3, "steps": 1, key: value}, "here")


def test_did_you_mean() -> None:
    assert did_you_mean("loar", ["lora", "bitfit"]) == "; did you mean 'lora'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("zzz", []) == ""


def test_located_keeps_the_kind_of_error() -> None:
    with pytest.raises(DataError, match=r"^there: gone$"), error_context("there"):
        raise DataError("gone")
