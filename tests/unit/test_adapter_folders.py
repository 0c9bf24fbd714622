"""Exported adapters that were edited, and lists of questions: one line each, and no hang."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.export.folder import _check_tensors, _is_plain, check_adapter_file
from vlpeft.benchmark.export.folder import check_answers as check_list
from vlpeft.benchmark.export.predict import (
    AskedQuestion,
    check,
    image_problem,
    parse_question,
    read_rows,
)
from vlpeft.benchmark.tasks import TASKS

ROW = json.dumps({"image": "red.png", "question": "what is it?"})


@pytest.mark.parametrize("name", ["/dev/zero", "../x", "a/../../x", "", ".", "a//b", "a\0b"])
def test_files_of_an_adapter_are_inside_its_folder(name: str) -> None:
    assert not _is_plain(name)
    assert _is_plain("text/model.safetensors")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_files_of_an_adapter_are_regular(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(UserError, match="missing or not a regular file; copy or export"):
        check_adapter_file(tmp_path / "file")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, "a is missing in the file or in the model built here"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "b is missing in the file or in the model"),
        ({"a": torch.zeros(3)}, "a is missing .* or differs in shape or type"),
        ({"a": torch.zeros(2, dtype=torch.float64)}, "a is missing .* or differs in shape or type"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a holds values that are not finite"),
        ({"a": torch.tensor([1.0, float("inf")])}, "a holds values that are not finite"),
    ],
)
def test_tensors_of_an_adapter_fit_the_method(saved: dict[str, torch.Tensor], message: str) -> None:
    _check_tensors({"a": torch.ones(2)}, {"a": torch.zeros(2)}, Path("a.safetensors"))
    with pytest.raises(UserError, match=f"a.safetensors: {message}"):
        _check_tensors({"a": torch.ones(2)}, saved, Path("a.safetensors"))


def test_a_task_that_chooses_needs_its_answers() -> None:
    check_list("captioning", (), "answers")
    with pytest.raises(UserError, match="answers: vqa chooses from a list of answers"):
        check_list("vqa", (), "answers")
    with pytest.raises(UserError, match="answers: 'yes' is there twice"):
        check_list("vqa", ("yes", "yes"), "answers")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + ROW.encode() + b"\r\n",
        ROW.encode() + b"\n\n",
        ROW.encode() + b"\n  \n\n",
        b"\r\n" + ROW.encode(),
    ],
)
def test_marks_and_blank_lines_of_editors_are_skipped(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_bytes(content)
    (row,) = read_rows(tmp_path / "list.jsonl")
    assert row == AskedQuestion((str(tmp_path / "red.png"),), "what is it?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff", "list.jsonl:2: not UTF-8 text"),
        (b"{", "list.jsonl:2: not JSON"),
        (b"[" * 100_000, "list.jsonl:2: not JSON"),
        (b"[1]", "list.jsonl:2: write"),
        (b'{"image": 3}', r"list.jsonl:2: images\[0\]"),
        (b'{"image": "a", "images": ["b"]}', "list.jsonl:2: both `image` and `images`"),
    ],
)
def test_a_broken_line_is_named_by_its_number(line: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_bytes(ROW.encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "list.jsonl")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_list_that_is_no_file_is_refused(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "list.jsonl")
    with pytest.raises(UserError, match="is not a file; check the path of `--from`"):
        read_rows(tmp_path / "list.jsonl")
    asked = AskedQuestion((str(tmp_path / "list.jsonl"),), "why?")
    assert "is not a file; check the path" in image_problem(asked)


@pytest.mark.parametrize("asked", [AskedQuestion(("a.png",), "\ud800"), AskedQuestion(("\ud800",))])
def test_half_characters_are_refused(asked: AskedQuestion) -> None:
    with pytest.raises(UserError, match=r"\\ud800' holds half a character") as caught:
        check(asked, TASKS.load("vqa")())
    str(caught.value).encode()


def test_rows_of_other_types_are_refused() -> None:
    with pytest.raises(UserError, match=r"row 1: expected \{'images': "):
        parse_question("red.png", "row 1")


def test_a_key_that_stands_twice_in_a_request_is_refused(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "question": "x", "question": "y"}\n')
    with pytest.raises(UserError, match=r"list\.jsonl:1: key 'question' occurs twice"):
        read_rows(tmp_path / "list.jsonl")
