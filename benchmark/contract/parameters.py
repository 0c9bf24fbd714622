"""Groups of parameters that methods train or initialise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from vlpeft.benchmark.contract.backbone import Backbone

# Groups of frozen parameters that the setting `also_train` can name.
UnfreezeGroup = Literal["norms", "all_norms", "biases"]


def extra_parameters(backbone: Backbone, groups: Iterable[UnfreezeGroup]) -> list[nn.Parameter]:
    """Return the frozen parameters that `also_train` names.

    Args:
        backbone: The backbone.
        groups: `norms` for the LayerNorms of the sites, `all_norms` for all LayerNorms of the
            language tower, `biases` for all its biases.

    Returns:
        The parameters. One that belongs to several groups comes once.
    """
    groups = set(groups)
    found: list[nn.Parameter] = []
    # The routing release trains the two LayerNorms of every layer.
    if "norms" in groups:
        found += _parameters_of(layer_norms(backbone, everywhere=False))
    # VL-Adapter adds those of the embeddings: 13 in BART's encoder, 19 in its decoder.
    if "all_norms" in groups:
        found += _parameters_of(layer_norms(backbone, everywhere=True))
    # VL-Adapter's LoRA and VL-PET's BitFit select by this part of the name.
    if "biases" in groups:
        found += [p for name, p in backbone.text.named_parameters() if name.endswith("bias")]
    # The bias of a LayerNorm is in two groups. Counted twice, it would make the total wrong.
    return list({id(p): p for p in found}.values())


def layer_norms(backbone: Backbone, *, everywhere: bool) -> list[nn.Module]:
    """Return LayerNorms of the language tower.

    Args:
        backbone: The backbone.
        everywhere: True for all of them, False for those of the sites.

    Returns:
        The LayerNorms.
    """
    if everywhere:
        return find_layer_norms(backbone.text)
    return [site.norm for site in backbone.sites]


def find_layer_norms(module: nn.Module) -> list[nn.Module]:
    """Return all LayerNorms inside a module.

    Args:
        module: Any module.

    Returns:
        The LayerNorms, in the order of `modules()`.
    """
    return [each for each in module.modules() if isinstance(each, nn.LayerNorm)]


def unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    """Mark parameters as trainable.

    Args:
        parameters: The parameters.
    """
    for parameter in parameters:
        parameter.requires_grad_(True)


@torch.no_grad()
def init_normal(linear: nn.Linear, std: float = 0.02) -> nn.Linear:
    """Draw the weight of a linear map from N(0, std^2), and set its bias to zero.

    Hugging Face models initialise keys that a checkpoint lacks in this way.

    Args:
        linear: The map, changed in place.
        std: The standard deviation.

    Returns:
        The same map.
    """
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear


def _parameters_of(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters()]
