"""Beam search as transformers 4.15 has it, which the p-Adapter release pins.

It differs from today's transformers in how it compares texts of different lengths. There the log
likelihood of a text is divided by the number of all its tokens, with the prompt and without the end
token. Today it is divided by the number of generated tokens, with the end token. So a text of n
words behind a prompt of four tokens was divided by n + 4 and is now divided by n + 1, which favours
other captions. Source: `generation_beam_search.py` of transformers 4.15.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vlpeft.benchmark.core.protocol import Protocol

# Map the last tokens of all beams (images x beams) to logits (images x beams, vocabulary). The
# second tensor, of the same shape, names the beam that each one continues, so that a cache can
# follow.
Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BeamSettings:
    """How beam search runs.

    Attributes:
        beams: The number of beams of each image.
        tokens: The most tokens that a text may have, without the prompt.
        least: The fewest tokens that a text must have, without prompt and end token.
        penalty: The exponent of the length that a log likelihood is divided by.
        early: Stop an image as soon as it has `beams` finished texts.
        end: The id of the end token.
        pad: The id that finished images go on with; it has no influence.
    """

    beams: int
    tokens: int
    least: int
    penalty: float
    early: bool
    end: int
    pad: int


def beam_settings(protocol: Protocol, end: int, pad: int) -> BeamSettings:
    """Return the settings of beam search in a protocol, for a model with these special tokens."""
    return BeamSettings(
        beams=protocol.beams,
        tokens=protocol.max_generated_tokens or protocol.max_output_tokens,
        least=protocol.min_generated_tokens,
        penalty=protocol.length_penalty,
        early=protocol.early_stopping,
        end=end,
        pad=pad,
    )


class FinishedText(NamedTuple):
    """A text with the score that it is compared by."""

    score: float
    ids: tuple[int, ...]  # without prompt and end token


@dataclass
class Finished:
    """The best finished texts of one image, at most one a beam.

    Args:
        settings: How beam search runs.
        prompt: The number of tokens of the prompt of this image.
    """

    settings: BeamSettings
    prompt: int
    texts: list[FinishedText] = field(default_factory=list)
    done: bool = False  # no running beam is continued

    def add(self, ids: list[int], log_likelihood: float) -> None:
        """Keep a text if it is among the best."""
        length = self.prompt + len(ids)
        text = FinishedText(log_likelihood / length**self.settings.penalty, tuple(ids))
        if self._is_full() and text.score <= self._worst().score:
            return
        self.texts.append(text)
        if len(self.texts) > self.settings.beams:
            self.texts.remove(self._worst())

    def close(self, best: float, generated: int) -> None:
        """Mark the image as done if no running beam can improve on its texts.

        Args:
            best: The best log likelihood of all continuations of this step, finished ones included.
            generated: The number of tokens of each beam before this step.
        """
        if self.done or not self._is_full():
            return
        possible = best / (self.prompt + generated) ** self.settings.penalty
        self.done = self.settings.early or self._worst().score >= possible

    def best(self) -> tuple[int, ...]:
        """Return the ids of the best text; of equal ones, the last that was added."""
        return max(reversed(self.texts), key=lambda text: text.score).ids

    def _is_full(self) -> bool:
        return len(self.texts) >= self.settings.beams

    def _worst(self) -> FinishedText:
        """Return the worst text; of equal ones, the first that was added."""
        return min(self.texts, key=lambda text: text.score)


def beam_search(
    step: Step, first: Tensor, prompts: list[int], settings: BeamSettings
) -> list[tuple[int, ...]]:
    """Return the token ids of the best text of each image, without prompt and end token.

    Args:
        step: The model behind the prompt.
        first: The logits of the first token, (images, vocabulary).
        prompts: The number of tokens of each image's prompt.
        settings: How beam search runs.
    """
    finished = [Finished(settings, prompt) for prompt in prompts]
    images, beams = len(prompts), settings.beams
    # All beams of an image begin as the same text. Only the first may continue, or all would
    # choose the same tokens.
    likelihoods = first.new_full((images, beams), -1e9)
    likelihoods[:, 0] = 0.0
    texts: list[list[int]] = [[] for _ in range(images * beams)]
    logits = first.repeat_interleave(beams, dim=0)
    for generated in range(settings.tokens):
        continued = _continue(logits, likelihoods, generated, settings)
        running = _sort_out(continued, texts, finished, generated)
        likelihoods = first.new_tensor(running.likelihoods).view(images, beams)
        texts = [[*texts[row], token] for row, token in zip(running.rows, running.ids, strict=True)]
        if all(image.done for image in finished) or generated + 1 == settings.tokens:
            break
        device = first.device
        logits = step(
            torch.tensor(running.ids, device=device), torch.tensor(running.rows, device=device)
        )
    _add_unfinished(finished, texts, likelihoods)
    return [image.best() for image in finished]


class _Continuations(NamedTuple):
    """The likeliest continuations of each image, best first, (images, 2 x beams)."""

    likelihoods: Tensor
    beams: Tensor
    tokens: Tensor


def _continue(
    logits: Tensor, likelihoods: Tensor, generated: int, settings: BeamSettings
) -> _Continuations:
    """Return the 2 x beams likeliest continuations: enough, even if half of them end."""
    images, beams = likelihoods.shape
    scores = functional.log_softmax(logits, dim=-1)
    if generated < settings.least:
        scores[:, settings.end] = -torch.inf
    scores = (scores + likelihoods.view(-1, 1)).view(images, -1)
    best, places = scores.topk(2 * beams, dim=1)
    vocabulary = logits.shape[-1]
    return _Continuations(best, places // vocabulary, places % vocabulary)


@dataclass
class _Running:
    """The beams that go on, (images x beams): what they continue, with which token."""

    likelihoods: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def add(self, likelihood: float, row: int, token: int) -> None:
        """Add one beam."""
        self.likelihoods.append(likelihood)
        self.rows.append(row)
        self.ids.append(token)


def _sort_out(
    continued: _Continuations, texts: list[list[int]], finished: list[Finished], generated: int
) -> _Running:
    """Put continuations that end into `finished`, and return those that go on."""
    running = _Running()
    for image, texts_of_image in enumerate(finished):
        first_row = image * texts_of_image.settings.beams
        choices = [column[image].tolist() for column in continued]
        if texts_of_image.done:
            for _ in range(texts_of_image.settings.beams):
                running.add(0.0, first_row, texts_of_image.settings.pad)
        else:
            _sort_out_image(
                list(zip(*choices, strict=True)), first_row, texts, texts_of_image, running
            )
            texts_of_image.close(choices[0][0], generated)
    return running


def _sort_out_image(
    choices: list[tuple[float, int, int]],
    first_row: int,
    texts: list[list[int]],
    finished: Finished,
    running: _Running,
) -> None:
    """Sort out the continuations of one image: (log likelihood, beam, token), best first."""
    settings = finished.settings
    enough = len(running.ids) + settings.beams
    for rank, (likelihood, beam, token) in enumerate(choices):
        if token != settings.end:
            running.add(likelihood, first_row + beam, token)
        elif rank < settings.beams:
            # An end token in the second half only makes room for another continuation.
            finished.add(texts[first_row + beam], likelihood)
        if len(running.ids) == enough:
            return


def _add_unfinished(finished: list[Finished], texts: list[list[int]], likelihoods: Tensor) -> None:
    """Let the beams that reached the limit compete with the finished texts."""
    for image, texts_of_image in enumerate(finished):
        if texts_of_image.done:
            continue
        first_row = image * texts_of_image.settings.beams
        for beam, likelihood in enumerate(likelihoods[image].tolist()):
            texts_of_image.add(texts[first_row + beam], likelihood)
