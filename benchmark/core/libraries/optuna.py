"""optuna: studies in a journal file, which give points and take their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlpeft.benchmark.core.errors import UserError

LIBRARY = "optuna"
TRIED = ("5.0.0",)


class Point(NamedTuple):
    """A trial: its number, where it lies, and whether its value is known.

    A number of `place` is in [0, 1]; for a choice it is an index.
    """

    number: int
    place: dict[str, float]
    is_scored: bool


def recorded(journal: Path, study: str) -> list[Point]:
    """Return the trials of a study in their order; none if the journal has no such study.

    Raises UserError without optuna, and for a journal that cannot be read.
    """
    if not journal.exists():
        return []
    optuna, storage = _open(journal)
    try:
        found = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    return [Point(each.number, dict(each.params), each.state.is_finished()) for each in found]


def record_values(journal: Path, study: str, values: Mapping[int, float | None]) -> None:
    """Record the values of trials, the higher the better; None for one that has failed."""
    optuna, storage = _open(journal)
    opened = optuna.load_study(study_name=study, storage=storage)
    for number, value in values.items():
        if value is None:
            opened.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            opened.tell(number, value)


def ask(journal: Path, study: str, sampler: str, seed: int, choices: Mapping[str, int]) -> None:
    """Record the next trial of a study, which is made if there is none.

    Args:
        journal: The file; made if there is none.
        study: Its name.
        sampler: A name of SAMPLERS.
        seed: Of the sampler. The same seed and the same trials give the same next one.
        choices: For each setting, how many values it can take; 0 for a range of numbers.
    """
    optuna, storage = _open(journal)
    opened = optuna.create_study(
        study_name=study, storage=storage, direction="maximize", load_if_exists=True
    )
    opened.sampler = _sampler(optuna, sampler, seed + len(opened.get_trials(deepcopy=False)))
    opened.ask({key: _distribution(optuna, number) for key, number in choices.items()})


SAMPLERS = ("tpe", "random")


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _distribution(optuna: Any, choices: int) -> Any:
    if choices:
        return optuna.distributions.CategoricalDistribution(range(choices))
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _open(journal: Path) -> tuple[Any, Any]:
    """Return optuna, and the storage of a journal."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise UserError(
            f"a search needs optuna ({error}); install it: pip install 'vlpeft[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The other kind of lock needs links, which some disks lack.
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    try:
        return optuna, optuna.storages.JournalStorage(backend)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"cannot read {journal} ({type(error).__name__}: {error}); "
            "delete it to begin the search again"
        ) from error


def check_places(points: Sequence[Point], settings: Sequence[str], journal: Path) -> None:
    """Raise UserError if a trial lacks one of these settings, or has others."""
    for point in points:
        if set(point.place) != set(settings):
            raise UserError(
                f"{journal}: trial {point.number} is damaged; delete it to begin the search again"
            )
