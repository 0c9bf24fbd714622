"""One byte-level BPE for all text towers, with the special tokens of each family."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers import decoders as tokenizer_decoders
from transformers import PreTrainedTokenizerFast

VOCABULARY = 512
MAX_LENGTH = 128
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # in the order of their ids
GPT2_SPECIAL = "<|endoftext|>"
BLIP_SPECIALS = ("[DEC]", "[PAD]", "[SEP]", "[UNK]")  # they replace RoBERTa's first four


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Train a byte-level BPE.

    It encodes any text, and common words as one token. A word is the same token at the start of a
    text as elsewhere.
    """
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
    """Return a tokenizer that writes `<s> text </s>`, as RoBERTa's does."""
    tokenizer = Tokenizer.from_str(base.to_str())
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", 2), cls_token=("<s>", 0), add_prefix_space=True
    )
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
    """Return a tokenizer that adds no tokens.

    As in GPT-2, one special token begins, ends and pads texts.
    """
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


def blip_tokenizer(base: Tokenizer) -> PreTrainedTokenizerFast:
    """Return a tokenizer that adds no tokens, with the special tokens of BLIP's decoder.

    They have the ids of RoBERTa's first four special tokens.
    """
    values = json.loads(base.to_str())
    renamed = dict(zip(ROBERTA_SPECIALS, BLIP_SPECIALS, strict=False))
    for token in values["added_tokens"]:
        token["content"] = renamed.get(token["content"], token["content"])
    values["model"]["vocab"] = {
        renamed.get(word, word): number for word, number in values["model"]["vocab"].items()
    }
    tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    begin, pad, end, unknown = BLIP_SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        model_max_length=MAX_LENGTH,
    )
