"""`vlpeft pretrain tiny`: make the tiny pretrained towers of quick runs and tests.

The image tower is pretrained by classification, as ViT-in21k was, here of drawn scenes. The text
towers are pretrained on text only, as RoBERTa, GPT-2 and BART were. BLIP's tower also learns to
caption. No tower has seen a question together with its image: that is the job of the methods.

Everything is drawn from the seed and computed by one thread, so the same library versions give the
same bytes. Each tower is drawn independently, so a change of one leaves the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer

from vlpeft.benchmark.contract.backbone import TINY
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError, did_you_mean
from vlpeft.benchmark.core.files import read_json
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

# Parts of the manifest that is shipped with the towers.
DATA = {
    "vit": "scenes drawn by benchmark/datasets/drawing.py: per colour presence, shape, size and"
    " place, and what each patch is on",
    "roberta": "descriptions of scenes, then questions and answers"
    " (benchmark/pretraining/text.py); masked words",
    "gpt2": "the same, and captions alone; next word",
    "blip": "captions of drawn scenes next to the image; the text of roberta, and questions alone,"
    " without an image; next word",
    "bart": "the text of roberta with the answers hidden, and pairs of captions with spans hidden;"
    " the whole text",
}
NOTES = {
    "roberta": "the pooler is as initialised, untrained: pretraining has none",
    "blip": "vision_model is vit's weights renamed; text_encoder is a copy of text_decoder's, as"
    " BLIP shares all but self-attention between the two; never trained on a question together with"
    " an image",
}
TOWERS = tuple(DATA)


def pretrain_tiny(
    out: Path, seed: int = 0, plan: TrainingSchedule | None = None, only: Sequence[str] = TOWERS
) -> None:
    """Make tiny towers and write them to OUT/TOWER, and their manifest to OUT/manifest.json.

    Existing files of these names are replaced. BLIP's image tower is OUT/vit, or the shipped one if
    OUT has none.

    Args:
        out: The folder to write to.
        seed: Determines all random numbers.
        plan: The length of the training; None: the one of the shipped towers.
        only: The towers to make.

    Raises:
        UserError: A tower is unknown, or `out` cannot be a folder, or holds other towers of another
            seed, plan or version of the libraries.
    """
    plan = plan or TrainingSchedule()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose a folder") from error
    metrics = _kept_metrics(out, seed, plan, only)
    with one_thread():
        base = train_tokenizer(
            sample_dialogue(Random(f"tokenizer/{seed}/{i}")) for i in range(plan.tokenizer_texts)
        )
        for name in TOWERS:
            if name in only:
                metrics[name] = _make_tower(name, out, base, seed, plan)
    write_json(out / "manifest.json", _manifest(out, seed, plan, metrics))


def _make_tower(
    name: str, out: Path, base: Tokenizer, seed: int, plan: TrainingSchedule
) -> Scalars:
    vit = out / "vit"
    if not vit.exists():
        vit = TINY / "vit"
    makers: dict[str, Callable[[Path], Scalars]] = {
        "vit": lambda folder: pretrain_vit(folder, seed, plan),
        "roberta": lambda folder: pretrain_roberta(folder, roberta_tokenizer(base), seed, plan),
        "gpt2": lambda folder: pretrain_gpt2(folder, gpt2_tokenizer(base), seed, plan),
        "blip": lambda folder: pretrain_blip(folder, blip_tokenizer(base), vit, seed, plan),
        "bart": lambda folder: pretrain_bart(folder, roberta_tokenizer(base), seed, plan),
    }
    return makers[name](out / name)


@dataclass(frozen=True)
class _KeptTowers:
    """What is read of a manifest; other keys are ignored."""

    seed: int
    plan: dict[str, Any]
    versions: dict[str, str]
    metrics: dict[str, Scalars]


def _kept_metrics(
    out: Path, seed: int, plan: TrainingSchedule, only: Sequence[str]
) -> dict[str, Scalars]:
    """Return the scores of the towers in OUT that are not made again, from its manifest.

    A manifest has one seed, plan and list of versions for all towers. Raises UserError if those of
    the towers in OUT are others.
    """
    for name in only:
        if name not in TOWERS:
            raise UserError(f"unknown tiny tower '{name}'{did_you_mean(name, TOWERS)}")
    path = out / "manifest.json"
    if not path.exists() or set(only) == set(TOWERS):
        return {}
    manifest = parse(_KeptTowers, read_json(path) or {}, str(path))
    if manifest.seed != seed:
        raise UserError(
            f"{out} has towers of seed {manifest.seed}: use that seed, or another folder"
        )
    if manifest.plan != asdict(plan):
        raise UserError(
            f"{out} has towers of another training schedule: make all towers, or use another folder"
        )
    if manifest.versions != _versions():
        raise UserError(
            f"{out} has towers made with other versions ({_join_versions(manifest.versions)}): "
            f"install these, make all towers, or use another folder"
        )
    return {name: scores for name, scores in manifest.metrics.items() if name not in only}


def _manifest(
    out: Path, seed: int, plan: TrainingSchedule, metrics: dict[str, Scalars]
) -> dict[str, Any]:
    paths = sorted(chain.from_iterable((out / name).rglob("*") for name in metrics))
    rounded = {name: _rounded(scores) for name, scores in metrics.items()}
    return {
        "command": f"vlpeft pretrain tiny --out DIR --seed {seed}",
        "seed": seed,
        "plan": asdict(plan),
        "data": {name: DATA[name] for name in metrics},
        "notes": {name: note for name, note in NOTES.items() if name in metrics},
        "metrics": rounded,
        "files": {
            path.relative_to(out).as_posix(): _checksum(path) for path in paths if path.is_file()
        },
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that the weights depend on."""
    return {name: version(name) for name in ("numpy", "tokenizers", "torch", "transformers")}


def _join_versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _rounded(scores: Scalars) -> Scalars:
    return {key: round(value, 4) for key, value in scores.items()}


def _checksum(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
