"""`vlpeft pretrain tiny`: make the three tiny pretrained towers that every quick run and test starts from.

The image tower is pretrained as ViT-in21k was, by classification, here of drawn scenes; the text towers as RoBERTa and
GPT-2 were, on text alone. None has seen an image together with a text: joining them is what the methods are for.
Everything is drawn from the seed and computed by one thread, so the same library versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

from benchmark.datasets.drawing import COLORS, SIDE
from benchmark.pretraining_images import IGNORED, OUTPUTS, PATCH, PATCH_CLASSES, pixel_values, scene_loss, scene_of, scene_scores, truth_of
from benchmark.pretraining_text import (
    MAX_LENGTH,
    causal_batch,
    gpt2_tokenizer,
    masked_batch,
    roberta_tokenizer,
    sample_dialogue,
    train_tokenizer,
)

WIDTH, HEADS = 128, 4
INIT = 0.05  # HF's 0.02 is for wide models; a narrow one learns sooner with more
HELD_OUT = 10**9  # index of the first scene that training never reaches
LOG_EVERY = 100
Scalars = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long to pretrain: the default takes about 17 minutes on one core."""

    vit_steps: int = 2400
    roberta_steps: int = 1000
    gpt2_steps: int = 600
    batch: int = 64
    vit_lr: float = 1e-3
    text_lr: float = 2e-3
    tokenizer_texts: int = 5000
    held_out: int = 1000


def pretrain_tiny(out: Path, seed: int = 0, plan: Plan | None = None) -> None:
    """Write OUT/{vit,roberta,gpt2} and OUT/manifest.json; existing files of these names are replaced."""
    plan = plan or Plan()
    with _one_thread():
        base = train_tokenizer(sample_dialogue(Random(f"tokenizer/{seed}/{i}")) for i in range(plan.tokenizer_texts))
        results = {
            "vit": _pretrain_vit(out / "vit", seed, plan),
            "roberta": _pretrain_roberta(out / "roberta", roberta_tokenizer(base), seed, plan),
            "gpt2": _pretrain_gpt2(out / "gpt2", gpt2_tokenizer(base), seed, plan),
        }
    _write_json(out / "manifest.json", _manifest(out, seed, plan, results))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, for equal sums everywhere; denormals off, for speed; torch's random state put back at the end."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(False)


# --- images -----------------------------------------------------------------------------------------------------------


def _pretrain_vit(folder: Path, seed: int, plan: Plan) -> Scalars:
    torch.manual_seed(seed)  # each tower on its own, so that changing one leaves the others
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vit, reader, namer = ViTModel(config), nn.Linear(WIDTH, len(COLORS) * OUTPUTS), nn.Linear(WIDTH, PATCH_CLASSES)

    def loss(step: int) -> Tensor:
        scenes = [scene_of(seed, step * plan.batch + i) for i in range(plan.batch)]
        seen = vit(pixel_values(scenes))
        return scene_loss(_per_color(reader(seen.pooler_output)), namer(seen.last_hidden_state[:, 1:]), truth_of(scenes))

    _train("vit", nn.ModuleList([vit, reader, namer]), loss, plan.vit_steps, plan.vit_lr)
    _save(vit, folder)
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    return _score_vit(_stored(ViTModel, folder), reader, seed, plan)


def _per_color(outputs: Tensor) -> Tensor:
    return outputs.view(-1, len(COLORS), OUTPUTS)


@torch.no_grad()
def _score_vit(vit: Any, reader: nn.Linear, seed: int, plan: Plan) -> Scalars:
    scenes = [scene_of(seed, HELD_OUT + i) for i in range(plan.held_out)]
    pooled = [vit(pixel_values(scenes[i : i + 100])).pooler_output for i in range(0, len(scenes), 100)]
    return scene_scores(_per_color(reader(torch.cat(pooled))), truth_of(scenes))


_PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


# --- text ------------------------------------------------------------------------------------------------------------


def _pretrain_roberta(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: Plan) -> Scalars:
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=MAX_LENGTH + 2,  # RoBERTa counts from the padding id on
        type_vocab_size=1,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = RobertaForMaskedLM(config)

    def loss(step: int) -> Tensor:
        return _masked_loss(model, *masked_batch(tokenizer, f"roberta/{seed}/{step}", plan.batch))

    _train("roberta", model, loss, plan.roberta_steps, plan.text_lr)
    tower = RobertaModel(config)  # its pooler stays as drawn: RoBERTa's pretraining has none either
    tower.load_state_dict(model.roberta.state_dict(), strict=False)
    _save(tower, folder)
    tokenizer.save_pretrained(folder)
    model.roberta.load_state_dict(_stored(RobertaModel, folder).state_dict(), strict=False)
    with torch.no_grad():
        ids, labels, is_answer = masked_batch(tokenizer, f"roberta/{seed}/held-out", plan.held_out, answers_only=True)
        logits = model(input_ids=ids, attention_mask=(ids != 1).long()).logits
    right = logits.argmax(-1) == labels
    return {"masked_answer_accuracy": right[is_answer].float().mean().item()}


def _masked_loss(model: Any, ids: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    hidden = model.roberta(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
    chosen = labels != IGNORED
    return F.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen])


def _pretrain_gpt2(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, plan: Plan) -> Scalars:
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH,
        n_embd=WIDTH,
        n_layer=3,
        n_head=HEADS,
        initializer_range=INIT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)

    def loss(step: int) -> Tensor:
        ids, labels = causal_batch(tokenizer, f"gpt2/{seed}/{step}", plan.batch)
        return F.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    _train("gpt2", model, loss, plan.gpt2_steps, plan.text_lr)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    with torch.no_grad():
        ids, labels = causal_batch(tokenizer, f"gpt2/{seed}/held-out", plan.held_out)
        logits = _stored(GPT2LMHeadModel, folder)(input_ids=ids).logits[:, :-1]
    target = labels[:, 1:]
    answers = (ids[:, :-1] == tokenizer.convert_tokens_to_ids("?")) & (target != IGNORED)
    return {
        "answer_accuracy": (logits.argmax(-1) == target)[answers].float().mean().item(),
        "perplexity": math.exp(F.cross_entropy(logits.flatten(0, 1), target.flatten()).item()),
    }


# --- common ----------------------------------------------------------------------------------------------------------


def _train(name: str, model: nn.Module, loss: Callable[[int], Tensor], steps: int, lr: float) -> None:
    """AdamW with warm-up and cosine; `loss(step)` draws the batch itself."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, min(100, steps // 10))
    for step in _progress(name, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not sys.stdout.isatty() and (step + 1) % LOG_EVERY == 0:
            print(f"{name}: step {step + 1} of {steps}, loss {value.item():.3f}", flush=True)
    model.eval()


def _progress(name: str, steps: int) -> Iterable[int]:
    """A bar on a terminal; elsewhere `_train` writes lines."""
    return track(range(steps), description=name) if sys.stdout.isatty() else range(steps)


def _save(model: Any, folder: Path) -> None:
    """Store half-precision weights, halving what is committed, but have them load as float32: that is what CPUs compute in."""
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", config | {"dtype": "float32"})


def _stored(cls: Any, folder: Path) -> Any:
    """The tower as others will load it: what is measured is what is shipped."""
    return cls.from_pretrained(folder, dtype=torch.float32).eval()


def _manifest(out: Path, seed: int, plan: Plan, results: dict[str, Scalars]) -> dict[str, Any]:
    files = sorted(path for name in results for path in (out / name).rglob("*") if path.is_file())
    return {
        "command": f"vlpeft pretrain tiny --out DIR --seed {seed}",
        "seed": seed,
        "plan": asdict(plan),
        "data": {
            "vit": "scenes drawn by benchmark/datasets/drawing.py: per colour presence, shape, size and place, and what each patch is on",
            "roberta": "descriptions of scenes, then questions and answers (benchmark/pretraining_text.py); masked words",
            "gpt2": "the same, and captions alone; next word",
        },
        "notes": {"roberta": "the pooler is as initialised, untrained: pretraining has none"},
        "metrics": {name: {key: round(value, 4) for key, value in scores.items()} for name, scores in results.items()},
        "files": {str(path.relative_to(out).as_posix()): _checksum(path) for path in files},
        "versions": {name: version(name) for name in ("numpy", "tokenizers", "torch", "transformers")},
    }


def _checksum(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
