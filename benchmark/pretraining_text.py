"""The text the tiny towers are pretrained on: descriptions of drawn scenes, then questions about them and their answers.

A tower learns to look a word up in its context and to compare. It sees no image, and the context always holds the
answer, so the question's wording alone says nothing that the balanced datasets would reward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers import decoders as tokenizer_decoders
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from benchmark.datasets.drawing import COLORS, SHAPES, Scene, below, pick, sample_scene, sample_single
from benchmark.datasets.shapes import captions, clear_relations, questions
from benchmark.pretraining_images import IGNORED

VOCABULARY = 512
MAX_LENGTH = 128
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # in the order of their ids
GPT2_SPECIAL = "<|endoftext|>"
ASKED = 2  # questions after a description
SINGLE_SHARE = 0.3  # of the scenes hold one thing, as in easy-VQA
CAPTION_SHARE = 0.3  # of the causal model's texts are captions alone

# easy-VQA's grammar; {} is a noun such as "red shape" or "circle"
PRESENT = (
    "does the image contain a {}?",
    "is a {} present?",
    "is there a {} in the image?",
    "is there a {}?",
)
ABSENT = (
    "does the image not contain a {}?",
    "is no {} present?",
    "is there not a {} in the image?",
    "is there not a {}?",
)
WHICH_SHAPE = ("what shape does the image contain?", "what shape is in the image?", "what shape is present?")
WHICH_COLOR = ("what color is the {}?", "what is the color of the {}?")


def easy_questions(scene: Scene) -> Iterator[tuple[str, str]]:
    """Questions in easy-VQA's wording with their answers; which shape and colour only where there is one thing."""
    present = {t.shape for t in scene.things} | {f"{t.color} shape" for t in scene.things}
    for noun in (*SHAPES, *(f"{color} shape" for color in COLORS)):
        for template in PRESENT:
            yield template.format(noun), "yes" if noun in present else "no"
        for template in ABSENT:
            yield template.format(noun), "no" if noun in present else "yes"
    if len(scene.things) == 1:
        (thing,) = scene.things
        yield from ((text, thing.shape) for text in (*WHICH_SHAPE, f"what is the {thing.color} shape?"))
        yield from ((t.format(noun), thing.color) for t in WHICH_COLOR for noun in ("shape", thing.shape))


def sample_dialogue(rng: Random) -> str:
    """Description, relations, then a few questions with answers: `a small red circle. is there a circle? yes.`"""
    scene = sample_single(rng) if rng.random() < SINGLE_SHARE else sample_scene(rng)
    if len(scene.things) == 1:
        thing = scene.things[0]
        parts = [f"a {thing.color} {thing.shape}" if below(rng, 2) else f"there is a {thing.color} {thing.shape}"]
        asked = _draw_by_answer(rng, list(easy_questions(scene)))
    else:
        parts, asked = _described(scene, rng)
    return ". ".join([*parts, *(f"{text} {answer}" for text, answer in asked)])


def sample_caption(rng: Random) -> str:
    """One caption alone."""
    return pick(rng, captions(sample_scene(rng), rng), 1)[0]


def _described(scene: Scene, rng: Random) -> tuple[list[str], list[tuple[str, str]]]:
    told = captions(scene, rng)
    parts = [told[k] for k in pick(rng, (0, 1, 3), 1)]  # those that name sizes and keep to no relation
    kind = below(rng, 3)
    if kind == 0:
        return parts, _draw_by_answer(rng, list(easy_questions(scene)))
    if kind == 1:
        asked = [(q.text, q.answer) for q in questions(scene) if q.kind != "relation"]
        return parts, _draw_by_answer(rng, asked)
    one, other, name, _ = pick(rng, [r for r in clear_relations(scene.things) if r[3]], 1)[0]
    parts.append(f"the {one.color} {one.shape} is {name} the {other.color} {other.shape}")
    pair = {f"{one.color} shape", f"{other.color} shape"}
    same_axis = ("left of", "right of") if name in ("left of", "right of") else ("above", "below")
    told_of = [
        (q.text, q.answer)
        for q in questions(scene)
        if q.kind == "relation" and all(noun in q.text for noun in pair) and any(word in q.text for word in same_axis)
    ]
    return parts, pick(rng, told_of, min(2, len(told_of)))


def _draw_by_answer(rng: Random, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A few different questions; the answer is drawn first, so that "no" is no better guess than "yes"."""
    by_answer: dict[str, list[str]] = {}
    for text, answer in asked:
        by_answer.setdefault(answer, []).append(text)
    drawn = [pick(rng, tuple(by_answer), 1)[0] for _ in range(ASKED)]
    return [(pick(rng, by_answer[answer], 1)[0], answer) for answer in drawn]


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE: any text is encoded, common words as one token. A word is the same token at the start of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizer_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*ROBERTA_SPECIALS, GPT2_SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def roberta_tokenizer(base: Tokenizer) -> PreTrainedTokenizerFast:
    """`<s> text </s>`, as RoBERTa's tokenizer frames it."""
    tokenizer = Tokenizer.from_str(base.to_str())
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls_token=("<s>", 0), add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_LENGTH,
    )


def gpt2_tokenizer(base: Tokenizer) -> PreTrainedTokenizerFast:
    """No frame; one special token ends a text, begins one and pads, as with GPT-2."""
    tokenizer = Tokenizer.from_str(base.to_str())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=GPT2_SPECIAL,
        eos_token=GPT2_SPECIAL,
        pad_token=GPT2_SPECIAL,
        unk_token=GPT2_SPECIAL,
        model_max_length=MAX_LENGTH,
    )


def masked_batch(tokenizer: PreTrainedTokenizerFast, key: str, size: int, answers_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Ids with masks, the ids to predict, and where the answers are. Every answer is masked, and 10 % of the rest."""
    texts = [sample_dialogue(Random(f"{key}/{i}")) for i in range(size)]
    labels = _encode(tokenizer, texts, pad=1)
    question_mark = tokenizer.convert_tokens_to_ids("?")
    is_answer = torch.zeros_like(labels, dtype=torch.bool)
    is_answer[:, 1:] = labels[:, :-1] == question_mark
    noise = torch.rand(labels.shape, generator=_generator(key))
    chosen = is_answer | ((noise < 0.1) & (labels > 4) & (not answers_only))
    ids = labels.masked_fill(chosen, 4)
    return ids, labels.masked_fill(~chosen, IGNORED), is_answer


def causal_batch(tokenizer: PreTrainedTokenizerFast, key: str, size: int) -> tuple[Tensor, Tensor]:
    """Ids and labels. Half the texts begin with the special token, so that both ways of prompting are known."""
    texts = []
    for i in range(size):
        rng = Random(f"{key}/{i}")
        text = sample_caption(rng) if rng.random() < CAPTION_SHARE else sample_dialogue(rng)
        texts.append(f"{tokenizer.bos_token if rng.random() < 0.5 else ''}{text}{tokenizer.eos_token}")
    ids = _encode(tokenizer, texts, pad=IGNORED)
    return ids.masked_fill(ids == IGNORED, int(tokenizer.eos_token_id)), ids


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], pad: int) -> Tensor:
    rows = [torch.tensor(row) for row in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
