"""Image captioning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlpeft.benchmark.core.config import Protocol
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.tasks.base import Item, Task
from vlpeft.benchmark.tasks.text import clean_caption


@register("captioning", metrics=("cider", "bleu", "rouge_l", "meteor", "spice"))
class Captioning(Task):
    """Describe an image in one sentence; scored against several references by the COCO caption metrics."""

    asks = False

    def items(
        self, examples: Iterable[Example], answers: Sequence[str], protocol: Protocol
    ) -> list[Item]:  # noqa: ARG002
        """One item a (image, reference) pair."""
        pairs = (
            (e, clean_caption(caption, protocol.clean_text))
            for e in examples
            for caption in e.answers
        )
        return [Item(e.images, self.prompt(e, protocol), {caption: 1.0}) for e, caption in pairs]

    def text(self, example: Example) -> str:  # noqa: ARG002
        """Nothing: the image is the whole input."""
        return ""

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:  # noqa: ARG002
        """Empty: captions are written, not chosen."""
        return ()
