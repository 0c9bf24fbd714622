"""The abilities of backbones. A backbone declares those it has, a task those it needs.

So a new task is one new file: no backbone names tasks. This module imports no torch, because
`vlpeft list` derives the tasks of each backbone from the source files alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from vlpeft.benchmark.core.errors import UserError, did_you_mean

# Three abilities are the fewest that separate the shipped backbones:
#
# choose  Read the text of an example together with its image, and choose one of a closed list of
#         answers. How is left to the backbone and the protocol: by a classifier (vit_roberta), or
#         by writing or ranking the answers (blip and clip_bart, see `answering`). Tasks therefore
#         do not ask for one of these ways. vit_gpt2 reads no text, so it cannot choose.
# write   Write a text about the image that no list holds. A classifier cannot.
# pair    Read two images with one text. blip and vit_gpt2 read one image: see `single`.
Ability = Literal["choose", "write", "pair"]


def check_abilities(names: Iterable[str], where: str) -> None:
    """Refuse unknown abilities: a typo would silently separate a backbone from its tasks.

    Args:
        names: Abilities as a `@register(...)` gives them.
        where: What declares them, for the message.

    Raises:
        UserError: If one of the names is not in `Ability`; the message suggests the nearest.
    """
    for name in names:
        if name not in get_args(Ability):
            hint = did_you_mean(name, get_args(Ability))
            raise UserError(f"{where}: unknown ability '{name}'{hint}")
