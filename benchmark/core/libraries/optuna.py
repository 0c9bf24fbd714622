"""optuna: samplers, which propose the next points of a search from the scores of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vlpeft.benchmark.core.errors import UserError

LIBRARY = "optuna"
TRIED = ("4.2.0", "5.0.0")


class ScoredPoint(NamedTuple):
    """An earlier point of a search, and its score; the higher the better."""

    point: Mapping[str, float]
    score: float


def propose_points(
    sampler: str,
    seed: int,
    choices: Mapping[str, int],
    earlier: Sequence[ScoredPoint],
    count: int,
) -> list[dict[str, float]]:
    """Return the next points of a search.

    Args:
        sampler: "tpe" or "random".
        seed: Of the sampler. The same seed and earlier points give the same next ones.
        choices: For each setting, how many values it can take; 0 for a range of numbers.
        earlier: All earlier points.
        count: How many points to propose.

    Returns:
        For each setting a number in [0, 1], or the index of a choice.

    Raises:
        UserError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"a search needs optuna ({error}); install it: pip install 'vlpeft[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(optuna, number) for key, number in choices.items()}
    study = optuna.create_study(direction="maximize", sampler=_sampler(optuna, sampler, seed))
    for each in earlier:
        point = dict(each.point)
        study.add_trial(
            optuna.trial.create_trial(params=point, distributions=space, value=each.score)
        )
    return [dict(study.ask(space).params) for _ in range(count)]


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "tpe":
        # Points that are proposed together keep away from each other.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _distribution(optuna: Any, choices: int) -> Any:
    if choices:
        return optuna.distributions.CategoricalDistribution(range(choices))
    return optuna.distributions.FloatDistribution(0.0, 1.0)
