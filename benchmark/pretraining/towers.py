"""`vlpeft pretrain tiny`: make the tiny pretrained towers that every quick run and test starts from.

The image tower is pretrained as ViT-in21k was, by classification, here of drawn scenes; the text towers as RoBERTa,
GPT-2 and BART were, on text alone; BLIP's by captioning too. None has seen a question together with its image: that is
what the methods are for. Everything is drawn from the seed and computed by one thread, so the same library versions
give the same bytes; each tower is drawn on its own, so that changing or leaving out one leaves the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer

from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.pretraining.bart import pretrain_bart
from vlpeft.benchmark.pretraining.blip import pretrain_blip
from vlpeft.benchmark.pretraining.common import Scalars, TrainingSchedule, one_thread, write_json
from vlpeft.benchmark.pretraining.gpt2 import pretrain_gpt2
from vlpeft.benchmark.pretraining.roberta import pretrain_roberta
from vlpeft.benchmark.pretraining.text import sample_dialogue
from vlpeft.benchmark.pretraining.tokenizer import (
    blip_tokenizer,
    gpt2_tokenizer,
    roberta_tokenizer,
    train_tokenizer,
)
from vlpeft.benchmark.pretraining.vit import pretrain_vit

DATA = {
    "vit": "scenes drawn by benchmark/datasets/drawing.py: per colour presence, shape, size and place, and what each patch is on",
    "roberta": "descriptions of scenes, then questions and answers (benchmark/pretraining/text.py); masked words",
    "gpt2": "the same, and captions alone; next word",
    "blip": "captions of drawn scenes beside the image; the text of roberta, and questions alone, without an image; next word",
    "bart": "the text of roberta with the answers hidden, and pairs of captions with spans hidden; the whole text",
}
NOTES = {
    "roberta": "the pooler is as initialised, untrained: pretraining has none",
    "blip": "vision_model is vit's weights renamed; text_encoder is a copy of text_decoder's, as BLIP shares all but "
    "self-attention between the two; never trained on a question together with an image",
}
TOWERS = tuple(DATA)


def pretrain_tiny(
    out: Path, seed: int = 0, plan: TrainingSchedule | None = None, only: Sequence[str] = TOWERS
) -> None:
    """Write OUT/TOWER for the towers of `only` and OUT/manifest.json; existing files of these names are replaced.

    BLIP's image tower is OUT/vit or, where there is none, the shipped one.
    """
    plan = plan or TrainingSchedule()
    metrics = _kept_metrics(out, seed, only)
    with one_thread():
        base = train_tokenizer(
            sample_dialogue(Random(f"tokenizer/{seed}/{i}")) for i in range(plan.tokenizer_texts)
        )
        for name in TOWERS:
            if name in only:
                metrics[name] = _make(name, out, base, seed, plan)
    write_json(out / "manifest.json", _manifest(out, seed, plan, metrics))


def _make(name: str, out: Path, base: Tokenizer, seed: int, plan: TrainingSchedule) -> Scalars:
    vit = out / "vit" if (out / "vit").exists() else TINY / "vit"
    makers: dict[str, Callable[[Path], Scalars]] = {
        "vit": lambda folder: pretrain_vit(folder, seed, plan),
        "roberta": lambda folder: pretrain_roberta(folder, roberta_tokenizer(base), seed, plan),
        "gpt2": lambda folder: pretrain_gpt2(folder, gpt2_tokenizer(base), seed, plan),
        "blip": lambda folder: pretrain_blip(folder, blip_tokenizer(base), vit, seed, plan),
        "bart": lambda folder: pretrain_bart(folder, roberta_tokenizer(base), seed, plan),
    }
    return makers[name](out / name)


def _kept_metrics(out: Path, seed: int, only: Sequence[str]) -> dict[str, Scalars]:
    """What the manifest in OUT says of the towers that stay."""
    for name in only:
        if name not in TOWERS:
            raise UserError(f"no tiny tower '{name}'{did_you_mean(name, TOWERS)}")
    path = out / "manifest.json"
    if not path.exists() or set(only) == set(TOWERS):
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["seed"] != seed:
        raise UserError(
            f"{out} holds towers of seed {manifest['seed']}: give that seed, or another folder"
        )
    return {name: scores for name, scores in manifest["metrics"].items() if name not in only}


def _manifest(
    out: Path, seed: int, plan: TrainingSchedule, metrics: dict[str, Scalars]
) -> dict[str, Any]:
    files = sorted(path for name in metrics for path in (out / name).rglob("*") if path.is_file())
    return {
        "command": f"vlpeft pretrain tiny --out DIR --seed {seed}",
        "seed": seed,
        "plan": asdict(plan),
        "data": {name: DATA[name] for name in metrics},
        "notes": {name: note for name, note in NOTES.items() if name in metrics},
        "metrics": {
            name: {key: round(value, 4) for key, value in scores.items()}
            for name, scores in metrics.items()
        },
        "files": {str(path.relative_to(out).as_posix()): _checksum(path) for path in files},
        "versions": {
            name: version(name) for name in ("numpy", "tokenizers", "torch", "transformers")
        },
    }


def _checksum(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
