"""An error names a library whose arguments changed; no setting of a checkpoint is used unasked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Case
from vlpeft.benchmark.backbones.language import generation
from vlpeft.benchmark.contract.attention import attend
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries.changes import refuse_unknown, require_arguments
from vlpeft.benchmark.core.libraries.transformers import (
    call_model,
    generate,
    make_config,
    override_blip_text,
)
from vlpeft.benchmark.core.libraries.transformers import generation as generation_module

NAMED = r"^transformers [\d.]+"
FIX = r"install the versions in constraints\.txt"


def text(backbone: str, method: str = "bitfit") -> Any:
    return Case(method, backbone).build().text


def test_the_error_names_library_version_function_argument_and_fix() -> None:
    with pytest.raises(UserError, match=rf"{NAMED} passes arguments `a`, `b` to f, .*; {FIX}"):
        refuse_unknown("transformers", "f", {"b": 1, "a": 2})
    refuse_unknown("transformers", "f", {})


@pytest.mark.parametrize("hooked", [False, True])
def test_attention_refuses_unknown_arguments(hooked: bool) -> None:
    module = (
        text("vit_roberta", "p_adapter" if hooked else "bitfit").encoder.layer[0].attention.self
    )
    assert hasattr(module, "attention_hook") == hooked
    query = torch.randn(1, 4, 3, 8)
    with pytest.raises(
        UserError, match=rf"{NAMED} passes argument `softcap` to .*attend, .*; {FIX}"
    ):
        attend(module, query, query, query, None, softcap=30.0)
    attend(module, query, query, query, None, position_ids=None, use_cache=False)


def test_attention_that_should_be_causal_needs_its_mask() -> None:
    """A prefix would shift the kernel's own mask, and recorded probabilities would have none."""
    module = text("vit_roberta", "p_adapter").encoder.layer[0].attention.self
    query = torch.randn(1, 4, 3, 8)
    with pytest.raises(RuntimeError, match="causal attention without a mask"):
        attend(module, query, query, query, None, is_causal=True)
    attend(module, query[:, :, :1], query, query, None, is_causal=True)


@pytest.mark.parametrize("name", ["past_key_values", "encoder_attention_mask"])
def test_the_attention_of_blip_refuses_unknown_arguments(name: str) -> None:
    module = text("blip").bert.encoder.layer[0].attention.self
    with pytest.raises(
        UserError, match=rf"{NAMED} passes argument `{name}` to BlipAttention\.forward, .*; {FIX}"
    ):
        module(torch.randn(1, 3, 128), **{name: None})


def test_generation_refuses_unknown_arguments() -> None:
    with pytest.raises(
        UserError, match=rf"{NAMED} passes argument `past_key_values` to BlipDecoder\.prepare"
    ):
        text("blip").prepare_inputs_for_generation(
            torch.ones(1, 1, dtype=torch.long), past_key_values=None
        )


class Renamed(nn.Module):
    """A model whose argument has another name than the one that vlpeft passes.

    Libraries such as transformers rename arguments like this.
    """

    def forward(self, states: Tensor, **kwargs: Any) -> tuple[Tensor, Any]:
        return states, kwargs


def test_a_renamed_argument_of_a_model_is_an_error() -> None:
    states = torch.ones(1)
    assert call_model(Renamed(), states=states)[0] is states
    with pytest.raises(
        UserError,
        match=rf"{NAMED}: Renamed\.forward has no argument `cache`, which vlpeft passes; {FIX}",
    ):
        call_model(Renamed(), states=states, cache=None)


def test_arguments_are_read_through_decorators_of_transformers() -> None:
    decoder = text("clip_bart").model.decoder
    require_arguments("transformers", type(decoder).forward, ["cache", "encoder_hidden_states"])
    with pytest.raises(UserError, match=r"has no argument `past_key_values`"):
        require_arguments("transformers", type(decoder).forward, ["cache", "past_key_values"])


@pytest.mark.parametrize(
    ("kind", "settings", "unknown"),
    [
        ("roberta", {"hidden_size": 8, "hidden_sizes": 9}, "`hidden_sizes`"),
        ("blip", {"text_config": {"heads": 4}}, "`text_config.heads`"),
    ],
)
def test_a_setting_that_no_model_reads_is_an_error(
    kind: str, settings: dict[str, Any], unknown: str
) -> None:
    with pytest.raises(
        UserError, match=rf"{NAMED}: the configuration of {kind} has no argument {unknown}"
    ):
        make_config(kind, settings)
    assert make_config("gpt2", {"n_embd": 8, "hidden_size": 8}).n_embd == 8


def test_a_renamed_setting_of_generation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renaming(generation_module.GenerationConfig):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            if not kwargs:
                del self.no_repeat_ngram_size

    monkeypatch.setattr(generation_module, "GenerationConfig", Renaming)
    with pytest.raises(
        UserError, match=rf"{NAMED}: GenerationConfig has no argument `no_repeat_ngram_size`"
    ):
        generation(Case("bitfit", "vit_gpt2").protocol, None, 0, 0)


@pytest.mark.parametrize("name", ["vit_gpt2", "blip"])
def test_generation_settings_of_the_checkpoint_are_ignored(name: str) -> None:
    """For open settings transformers uses those of the checkpoint, such as tokens to suppress."""
    case = Case("bitfit", name)
    backbone = case.config.build((), case.protocol).eval()
    side = backbone.vision.size
    visual = backbone.vision(
        torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    )[:, None]
    expected = backbone.predict(visual, ["what?", "where?"])
    model = backbone.text
    own = model.generation_config
    own.suppress_tokens, own.repetition_penalty = list(range(3, 200)), 9.0
    assert backbone.predict(visual, ["what?", "where?"]) == expected
    assert model.generation_config is own


def test_generate_restores_the_settings_of_the_model_after_an_error() -> None:
    model = text("vit_gpt2")
    own = model.generation_config
    with pytest.raises(ValueError, match="no_such_input"):
        generate(
            model,
            type(own)(max_new_tokens=1),
            inputs_embeds=torch.ones(1, 1, model.config.n_embd),
            no_such_input=1,
        )
    assert model.generation_config is own


def test_towers_without_blips_attention_are_refused() -> None:
    with pytest.raises(RuntimeError, match="no BLIP text attention"):
        override_blip_text(nn.Linear(1, 1), object)  # type: ignore[arg-type]
