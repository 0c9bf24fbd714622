"""Small parts of models."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.activations import ACT2FN
from transformers.models.roberta.modeling_roberta import RobertaPooler


def make_activation(name: str) -> nn.Module:
    """Return the activation that model configurations call `name`."""
    activation: nn.Module = ACT2FN[name]
    return activation


def make_roberta_pooler(config: PretrainedConfig) -> Any:
    """Return RoBERTa's tanh pooler with new weights."""
    return RobertaPooler(config)
