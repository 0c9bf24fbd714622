"""CLIP-BART: BART reads the text and the image's grid, and writes the answer.

The backbone of VL-Adapter (Sung et al., CVPR 2022) and VL-PET (Hu et al., ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import BartForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from vlpeft.benchmark.backbones.clip_bart_language import BartLanguage
from vlpeft.benchmark.backbones.clip_bart_parts import (
    VisualEmbedding,
    append_rows,
    list_sites,
    make_vision,
    number_tokens,
    pool_grid,
    special_ids,
)
from vlpeft.benchmark.backbones.language import (
    IGNORED,
    generation,
    language_loss,
    pad_rows,
    training_targets,
)
from vlpeft.benchmark.backbones.vision import FEATURES
from vlpeft.benchmark.backbones.weights import WeightSource
from vlpeft.benchmark.contract.backbone import (
    Backbone,
    BackboneConfig,
    Checkpoint,
    WeightFiles,
)
from vlpeft.benchmark.contract.sites import Need
from vlpeft.benchmark.contract.texts import Length, Room, usable_positions
from vlpeft.benchmark.contract.visual import VisualFeatures
from vlpeft.benchmark.core.config import NonNegative, Positive
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.libraries.transformers import (
    decode_tokens,
    generate,
)
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register


@register(
    "clip_bart",
    abilities=("choose", "write", "pair"),
    joint=True,
    # The decoder has no prompt: one rule counts its start token, the other the end token.
    ignores=("beam_length",),
)
@dataclass(frozen=True)
class CLIPBart(BackboneConfig):
    """BART with a trained embedding of CLIP's grid of features, as in VL-Adapter and VL-PET.

    The square grid of visual tokens is max-pooled to `grid` x `grid`. `extra_tokens` rows are
    appended to the token table (<extra_id_*>, <vis_extra_id_*>). The last of them number the visual
    tokens. They train only if the whole table does.
    """

    text: str = "facebook/bart-base"
    # CLIP's RN101, frozen in every method of VL-Adapter, full fine-tuning included.
    vision: str = "open_clip:RN101/openai"
    # None keeps the grid of the vision tower.
    grid: Positive | None = 6
    # 100 for text and 100 for images, as in VL-T5. With them the model has the 141,156,864
    # parameters of the published percentages; CLIP is not counted there.
    extra_tokens: NonNegative = 200
    # Routing functions mix in the embedded visual tokens, or their mean.
    # This is our choice, because the code of the routing paper has no CLIP-BART.
    context: Literal["pooled", "tokens"] = "pooled"

    @property
    def reads_features(self) -> bool:
        """Whether `vision` is features of a width, as VL-Adapter's own `features:2048`."""
        return self.vision.startswith(FEATURES)

    def offers(self) -> frozenset[Need]:
        """Return everything; the head is the visual embedding."""
        return frozenset(
            {"linears", "sublayers", "attention", "embeddings", "visual_context", "encoder", "head"}
        )

    def weight_files(self) -> tuple[WeightFiles, ...]:
        """Return BART with its tokenizer, and the vision tower if there is one."""
        text = WeightFiles(self.text, "bart", ("model", "tokenizer"))
        if self.reads_features:
            return (text,)
        return text, WeightFiles(self.vision, "vit", ("model", "pixels"))

    def build(self, answers: Sequence[str], protocol: Protocol) -> Backbone:
        """Assemble the model; `answers` are the choice of `answering: rank`."""
        return CLIPBartModel(self, answers, protocol)


class CLIPBartModel(BartLanguage):
    """The assembled model. `text` is the whole of BART; `head` is the visual embedding."""

    # All boxes are zero here, so no input reaches the weight of their linear map.
    inert = frozenset({"head.position.0.weight"})

    def __init__(self, config: CLIPBart, answers: Sequence[str], protocol: Protocol) -> None:
        super().__init__()
        self.name = CLIPBart.name
        self.config = config
        self.source = config.text
        source = WeightSource.parse(config.text, tiny="bart")
        self.vision = make_vision(config.vision)
        self.context_tokens = config.context == "tokens"
        self.text = source.model(BartForConditionalGeneration)
        append_rows(self.text, config.extra_tokens)
        self.token_embeddings = self.text.model.shared
        self.tokenizer = source.tokenizer()
        self.begin, self.end, self.pad, self.start = special_ids(
            self.tokenizer, self.text.config, config.text
        )
        self.head = VisualEmbedding(self.vision.width, self.context_width)
        if config.grid is not None:
            # An error about too few rows then comes while the sweep is planned.
            number_tokens(self.token_embeddings.weight, config.grid**2, config.extra_tokens)
        self.follow(protocol, answers)
        self.sites = [*list_sites("encoder", self.text), *list_sites("decoder", self.text)]

    def follow(self, protocol: Protocol, answers: Sequence[str], task: int = 0) -> None:
        """Read, train and decode as this protocol says."""
        super().follow(protocol, answers, task)
        self.decoding = generation(protocol, self.start, self.end, self.pad, forced_end=self.end)

    @property
    def vocabulary(self) -> int:
        """The rows of BART's own table, without those appended for visual tokens."""
        return self.token_embeddings.num_embeddings - self.config.extra_tokens

    def lengths(self) -> tuple[Length, ...]:
        """Return the positions of the texts; soft prompts and visual tokens take none."""
        generated = 1 + (self.protocol.max_generated_tokens or 0)
        needed = max(self.protocol.max_input_tokens, self.protocol.max_output_tokens, generated)
        keys = "max_input_tokens, max_output_tokens and max_generated_tokens"
        return (Length(keys, needed, usable_positions(self.text)),)

    def target_room(self) -> Room:
        """Return the room for an answer with `<s>` and `</s>`."""
        return Room(self.protocol.max_output_tokens, special=True)

    @property
    def encoder(self) -> nn.Module:
        """BART's encoder."""
        return cast("nn.Module", self.text.model.encoder)

    @property
    def context_width(self) -> int:
        """The width of BART, because routing functions see embedded visual tokens."""
        return int(self.text.config.d_model)

    def loss(
        self, visual: Tensor, prompts: Sequence[str], targets: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, int]:
        """Return the cross-entropy of `<s> target </s>` behind the start token.

        See `language_loss` for the mean.
        """
        states, mask = self.encode(self.embed(visual), prompts)
        wanted = training_targets(targets, self.protocol)
        labels = pad_rows(self._tokenize([target.text for target in wanted]), IGNORED)
        # The decoder reads the labels shifted by one. Its start token is BART's `</s>`, so the
        # model also learns to write `<s>` first.
        inputs = labels.roll(1, 1)
        inputs[:, 0] = self.start
        questions = torch.tensor([target.question for target in wanted], device=self.device)
        # One row per sequence from here on: a question may have several answers to train on.
        self.visual_context.select_rows(questions)
        written = self.decode(inputs, states[questions], mask[questions]).last_hidden_state
        weights = [target.weight for target in wanted]
        return language_loss(
            written, labels, self.token_logits, weights, len(prompts), self.protocol
        )

    @torch.inference_mode()
    def predict(self, visual: Tensor, prompts: Sequence[str]) -> list[str]:
        """Return the likeliest listed answer, or free text by greedy or beam search.

        The last possible token is forced to be `</s>`, as in BART's configuration; `<s>` is not
        forced. `max_generated_tokens` counts `<s>` and `</s>`, but not the start token. So it is
        the papers' `max_length` minus one.
        """
        # The papers generate the answers of all tasks but NLVR2's, which they compare.
        states, mask = self.encode(self.embed(visual), prompts)
        if self.answers and self.protocol.answering == "rank":
            parts = self._rank_in_parts(states, mask)
            return [self.answers[i] for part in parts for i in part.best()]
        # The beams of one image follow each other and share its visual context.
        # Reordering them therefore never mixes images.
        self.visual_context.repeat_rows(self.protocol.beams)
        with self.generating():
            seen = BaseModelOutput(last_hidden_state=states)
            tokens = generate(self.text, self.decoding, encoder_outputs=seen, attention_mask=mask)
        return [text.replace("\n", " ").strip() for text in decode_tokens(self.tokenizer, tokens)]

    @torch.inference_mode()
    def ranked(self, visual: Tensor, prompts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the answers whose likelihoods were compared, if the protocol ranks."""
        if not self.answers or self.protocol.answering != "rank":
            return super().ranked(visual, prompts)
        states, mask = self.encode(self.embed(visual), prompts)
        parts = self._rank_in_parts(states, mask)
        return [row for part in parts for row in part.with_answers(self.answers)]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return BART without the appended rows, which every build draws again."""
        extra = self.config.extra_tokens
        if extra and self.token_embeddings.weight.requires_grad:
            raise UserError(
                "the rows appended to BART's token table have been trained, "
                "and no checkpoint of BART has a place for them"
            )
        if extra:
            self.text.resize_token_embeddings(self.text.config.vocab_size - extra)
        self.text.generation_config = GenerationConfig.from_model_config(self.text.config)
        return super().checkpoints()

    def embed(self, visual: Tensor) -> Tensor:
        """Return visual tokens, (batch, tokens, width of BART), and set the visual context.

        visual is (batch, images, tokens, width).
        """
        images = visual.shape[1]
        grids = VisualFeatures(visual).grids(self.vision.leading)
        grid = pool_grid(grids.flatten(0, 1), self.config.grid)
        table, extra = self.token_embeddings.weight, self.config.extra_tokens
        order = number_tokens(table, grid.shape[1], extra)
        head = cast("nn.Module", self.head)
        tokens: Tensor = head(grid.view(-1, images, *grid.shape[1:]), order).flatten(1, 2)
        context = tokens
        if not self.context_tokens:
            context = tokens.mean(1, keepdim=True)
        self.visual_context.value = context
        return tokens
