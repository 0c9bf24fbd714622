"""Image captioning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.tasks.base import Item, Task
from vlpeft.benchmark.tasks.text import clean_caption


@register(
    "captioning",
    needs=("write",),
    metrics=("cider", "bleu", "rouge_l", "meteor", "spice"),
)
class Captioning(Task):
    """Describe an image in one sentence; scored by the COCO caption metrics."""

    asks = False
    pipeline = "image-to-text"

    def items(
        self,
        examples: Iterable[Example],
        answers: Sequence[str],
        protocol: Protocol,
    ) -> list[Item]:
        """Return one item for each pair of an image and a reference."""
        items = []
        for example in examples:
            prompt = self.prompt(example, protocol)
            for caption in example.answers:
                target = clean_caption(caption, protocol.clean_text)
                items.append(Item(example.images, prompt, {target: 1.0}))
        return items

    def text(self, example: Example) -> str:
        """Return an empty text: the image is the whole input."""
        return ""

    def answers(self, examples: Iterable[Example], protocol: Protocol) -> tuple[str, ...]:
        """Return an empty list: captions are generated."""
        return ()
