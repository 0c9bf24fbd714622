"""BLIP's tower: the image tower with BLIP's names, and a pretrained decoder.

The decoder learns to caption images, and to write text without an image. It never sees a question
together with its image: that is the job of adaptation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    BlipVisionModel,
    PreTrainedTokenizerFast,
    ViTModel,
)

from vlpeft.benchmark.pretraining.batches import make_blind_batch, make_caption_batch
from vlpeft.benchmark.pretraining.common import (
    HEADS,
    HELD_OUT,
    INIT,
    WIDTH,
    Scalars,
    TrainingSchedule,
    load_tower,
    save,
    train,
    write_json,
)
from vlpeft.benchmark.pretraining.images import IGNORED, draw_scene, pixel_values
from vlpeft.benchmark.pretraining.tokenizer import MAX_LENGTH
from vlpeft.benchmark.pretraining.vit import PREPROCESSOR

LAYERS = 2
RENAMED = {  # name of a module in a ViT layer -> its name in a BLIP layer
    "attention.o_proj": "self_attn.projection",
    "layernorm_before": "layer_norm1",
    "layernorm_after": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
FIRST_SCENE = HELD_OUT // 2  # the image tower has not seen this part of the stream


def pretrain_blip(
    folder: Path, tokenizer: PreTrainedTokenizerFast, vit: Path, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Pretrain the tower, write it and its tokenizer to `folder`, and return its scores.

    The image tower is the one in the folder `vit`; it stays frozen.
    """
    torch.manual_seed(seed)
    image_tower = load_tower(ViTModel, vit)
    model = BlipForQuestionAnswering(_config(image_tower.config, tokenizer))
    model.vision_model.load_state_dict(vision_state(image_tower))
    model.vision_model.requires_grad_(False)
    half = plan.batch // 2

    def loss(step: int) -> Tensor:
        scenes = [draw_scene(seed, FIRST_SCENE + step * half + i) for i in range(half)]
        ids, labels = make_caption_batch(tokenizer, f"blip/{seed}/{step}/captions", scenes)
        states = _image_states(model.vision_model, pixel_values(scenes))
        captions = _loss(model.text_decoder, ids, labels, states)
        ids, labels = make_blind_batch(tokenizer, f"blip/{seed}/{step}/texts", plan.batch - half)
        # One zero vector replaces the image; as many zeros as an image has states give the same.
        states = torch.zeros(len(ids), 1, WIDTH)
        return captions + _loss(model.text_decoder, ids, labels, states)

    train("blip", model.text_decoder, loss, plan.blip_steps, plan.blip_lr)
    model.text_encoder.load_state_dict(model.text_decoder.bert.state_dict())
    save(model, folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    tokenizer.save_pretrained(folder)
    return _score(load_tower(BlipForQuestionAnswering, folder), tokenizer, seed, plan)


def _config(vit: Any, tokenizer: PreTrainedTokenizerFast) -> BlipConfig:
    vision = {
        "hidden_size": vit.hidden_size,
        "num_hidden_layers": vit.num_hidden_layers,
        "num_attention_heads": vit.num_attention_heads,
        "intermediate_size": vit.intermediate_size,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "hidden_act": vit.hidden_act,
        "layer_norm_eps": vit.layer_norm_eps,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": INIT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return BlipConfig(
        vision_config=vision, text_config=text, projection_dim=WIDTH, image_text_hidden_size=WIDTH
    )


def vision_state(vit: Any) -> dict[str, Tensor]:
    """Return the weights of a ViTModel under the names of a BlipVisionModel.

    Both models compute the same function from them.
    """
    old = vit.state_dict()
    new = {
        "embeddings.class_embedding": old["embeddings.cls_token"],
        "embeddings.position_embedding": old["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        projection = old[f"embeddings.patch_embeddings.projection.{kind}"]
        new[f"embeddings.patch_embedding.{kind}"] = projection
        new[f"post_layernorm.{kind}"] = old[f"layernorm.{kind}"]
        for i in range(vit.config.num_hidden_layers):
            ours, theirs = f"layers.{i}", f"encoder.layers.{i}"
            qkv = [old[f"{ours}.attention.{name}_proj.{kind}"] for name in "qkv"]
            new[f"{theirs}.self_attn.qkv.{kind}"] = torch.cat(qkv)
            for name, other in RENAMED.items():
                new[f"{theirs}.{other}.{kind}"] = old[f"{ours}.{name}.{kind}"]
    return new


@torch.no_grad()
def _image_states(vision: BlipVisionModel, pixels: Tensor) -> Tensor:
    states: Tensor = vision(pixel_values=pixels).last_hidden_state
    return states


def _loss(decoder: Any, ids: Tensor, labels: Tensor, states: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next word.

    There is no attention mask: padding comes last, so causal attention never sees it.
    """
    logits = decoder(input_ids=ids, encoder_hidden_states=states).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def _score(
    model: Any, tokenizer: PreTrainedTokenizerFast, seed: int, plan: TrainingSchedule
) -> Scalars:
    """Return perplexities of held-out text.

    They are those of captions with their own image, of captions with the image of another scene,
    and of text without an image.
    """
    scenes = [draw_scene(seed, HELD_OUT + i) for i in range(plan.held_out)]
    chunks = (pixel_values(scenes[i : i + 100]) for i in range(0, len(scenes), 100))
    states = torch.cat([_image_states(model.vision_model, pixels) for pixels in chunks])
    other_states, no_states = states.roll(1, 0), torch.zeros(len(scenes), 1, WIDTH)
    captions = make_caption_batch(tokenizer, f"blip/{seed}/held-out/captions", scenes)
    texts = make_blind_batch(tokenizer, f"blip/{seed}/held-out/texts", plan.held_out)
    decoder = model.text_decoder
    losses = {
        "caption_perplexity": _loss(decoder, *captions, states),
        "caption_perplexity_with_another_image": _loss(decoder, *captions, other_states),
        "text_perplexity_without_image": _loss(decoder, *texts, no_states),
    }
    return {name: math.exp(value.item()) for name, value in losses.items()}
