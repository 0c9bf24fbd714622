"""The names of `vlpeft` for notebooks, and the page that shows them."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import vlpeft
from vlpeft.arguments import python_arguments
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.registry import REPOSITORY

PAGE = REPOSITORY / "docs" / "api.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the page's code defines, run as one notebook in an empty folder."""
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
            exec(compile(code, str(PAGE), "exec"), names)
        names["folder"] = Path.cwd()
    return names


def test_the_leaderboard_has_settings_as_columns(ran: dict[str, object]) -> None:
    frame = ran["frame"]
    assert isinstance(frame, pd.DataFrame)
    assert set(frame["method"]) == {"bitfit", "lora"}
    assert set(frame[frame["method"] == "lora"]["method.rank"]) == {4}
    assert set(frame["state"]) == {"done"}
    assert set(frame["protocol.steps"]) == {3}
    assert set(frame["verified"]) == {"yes"}


def test_the_report_and_the_plan(ran: dict[str, object]) -> None:
    page = ran["folder"] / ran["page"]  # type: ignore[operator]
    assert "Two methods" in page.read_text(encoding="utf-8")
    assert [cell.row for cell in ran["cells"]] == ["bitfit", "lora"]  # type: ignore[attr-defined]


def test_adapt_trains_what_the_method_says(ran: dict[str, object]) -> None:
    model = ran["model"]
    assert isinstance(model, vlpeft.Backbone)
    full = sum(parameter.numel() for parameter in model.parameters())
    assert 0 < int(str(ran["trainable"])) < full / 2


def test_a_method_may_be_an_instance() -> None:
    from vlpeft.baselines.lora import LoRA

    tiny = {"name": "vit_roberta", "text": "tiny", "vision": "tiny"}
    models = [
        vlpeft.adapt(tiny, method, answers=("yes", "no"))
        for method in (LoRA(rank=2, alpha=2), {"name": "lora", "rank": 2, "alpha": 2})
    ]
    first, second = (
        sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models
    )
    assert first == second > 0


def test_every_name_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = set(re.findall(r"`(\w+)[(`]", text))
    assert set(vlpeft.__all__) - {"LoadedAdapter", "SweepResults"} <= shown
    assert all(getattr(vlpeft, name).__doc__ for name in vlpeft.__all__)


def test_errors_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no sweep; run `vlpeft sweep SWEEP --root "):
        vlpeft.open_results(tmp_path)
    with pytest.raises(UserError, match="`name` is missing"):
        vlpeft.adapt({"text": "tiny"}, "lora")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        vlpeft.trian  # noqa: B018 - the access is the test


@pytest.mark.parametrize("method", [None, vlpeft.Method, 3])
def test_adapt_refuses_what_names_no_method(method: object) -> None:
    tiny = {"name": "vit_roberta", "text": "tiny", "vision": "tiny"}
    with pytest.raises(UserError, match="not a name; write 'lora'"):
        vlpeft.adapt(tiny, method, answers=["yes"])  # type: ignore[arg-type]


def test_adapt_refuses_one_string_of_answers() -> None:
    with pytest.raises(UserError, match=r"answers: a list is needed; write \['yes'\]"):
        vlpeft.adapt("vit_roberta", "lora", answers="yes")


def test_import_is_light() -> None:
    code = (
        "import sys, vlpeft; print(sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((), "vit_roberta classifies, so it needs a list of answers; write for example"),
        (("yes", "no", "yes"), "'yes' is there twice; remove one"),
        ((1, 2), "answers: 1 is not a text; write '1'"),
        (None, "a list of texts is needed, got NoneType"),
        ({"yes"}, "a list of texts is needed, got set"),
    ],
)
def test_adapt_refuses_answers_that_make_no_classifier(answers: object, message: str) -> None:
    tiny = {"name": "vit_roberta", "text": "tiny", "vision": "tiny"}
    with pytest.raises(UserError, match=message):
        vlpeft.adapt(tiny, "lora", answers=answers)  # type: ignore[arg-type]


def test_errors_name_python_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give what `vlpeft.open_results\(ROOT\)` returns, got N"):
        vlpeft.leaderboard(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"give what `vlpeft.open_results\(ROOT\)` returns"):
        vlpeft.report("runs/mine", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"give what `vlpeft.load_adapter\(FOLDER\)` returns"):
        vlpeft.predict("folder", [])  # type: ignore[arg-type]
    for text in ("--device tpu: no such device", "name one of them with --task"):
        with pytest.raises(UserError) as caught, python_arguments():
            raise UserError(text)
        assert "--" not in str(caught.value)
