"""Recipes and published numbers are protected: no value changes without a line in a diff.

If a change is meant, run `python -m tests.golden.recipes` and commit what it alters.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.golden import recipes
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.plan import recipes as protocols
from vlpeft.benchmark.plan import sweep_files as sweeps
from vlpeft.results.papers import published

MUTANTS = 100
# Keys whose text no number depends on.
WORDS = ("title", "summary", "notes", "note", "paper", "table", "read", "url", "qualifier")
WORDS += ("unknown", "cannot", "not_comparable", "tolerance", "metric", "split", "decimals")


@pytest.mark.parametrize("sweep", recipes.PAPERS)
def test_recipes_are_those_on_record(sweep: str) -> None:
    assert recipes.render(sweep) == recipes.golden_file(sweep).read_text(encoding="utf-8")


def test_published_numbers_are_those_on_record() -> None:
    assert recipes.summarise_published() == recipes.PUBLISHED.read_text(encoding="utf-8")


def test_protocols_cover_the_tasks_on_record() -> None:
    assert recipes.summarise_protocols() == recipes.COVERS.read_text(encoding="utf-8")


def test_no_record_is_left_of_a_sweep_that_is_gone() -> None:
    assert {path.name for path in recipes.FOLDER.iterdir()} == {
        recipes.golden_file(sweep).name for sweep in recipes.PAPERS
    }


def leaves(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of all values in a YAML document that a number may depend on."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in WORDS:
                yield from leaves(value, (*place, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*place, index))
    elif node is not None:
        yield place


def mutate(value: Any, rng: Random) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((1, 2))
    if isinstance(value, float):
        return value * rng.choice((0.5, 1.01, 2.0)) or 0.1
    return f"{value}x"


def mutants() -> Iterator[tuple[Path, tuple[Any, ...], int]]:
    """Yield the files and places of all mutants, in a fixed order."""
    folders = (protocols.FOLDER, sweeps.SWEEPS, published.FOLDER)
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            if path.stem in ("quickstart", "parameters") or path.parent == sweeps.SWEEPS:
                continue
            document = YAML(typ="safe", pure=True).load(path)
            yield from ((path, place, i) for i, place in enumerate(leaves(document)))


def drawn_mutants() -> list[tuple[Path, tuple[Any, ...], int]]:
    every = list(mutants())
    return Random(0).sample(every, MUTANTS)


def write_mutant(path: Path, place: tuple[Any, ...], seed: int) -> str:
    """Change one value of a file; return the change in words."""
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(path)
    node = document
    for step in place[:-1]:
        node = node[step]
    before = node[place[-1]]
    node[place[-1]] = mutate(before, Random(seed))
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    return f"{before!r} -> {node[place[-1]]!r}"


def is_killed(path: Path) -> bool:
    """Return whether the files on record differ from what a mutant gives."""
    try:
        if "published" in path.parts:
            line = recipes.summarise_table(f"{path.parent.name}/{path.stem}")
            return line not in recipes.PUBLISHED.read_text(encoding="utf-8").splitlines()
        if recipes.summarise_protocols() != recipes.COVERS.read_text(encoding="utf-8"):
            return True
        return any(
            recipes.render(sweep) != recipes.golden_file(sweep).read_text(encoding="utf-8")
            for sweep in affected(path)
        )
    except (UserError, ValueError):
        return True


def affected(path: Path) -> list[str]:
    """Return the sweeps whose recipes a file may change, the likeliest first."""
    if "protocols" not in path.parts:
        return [f"{path.parent.name}/{path.stem}"]
    family = path.stem.removesuffix("_paper").removesuffix("_repaired")
    return sorted(recipes.PAPERS, key=lambda name: not name.startswith(family))


@pytest.fixture
def copied(tmp_path, monkeypatch) -> dict[Path, Path]:
    """Copy the folders of recipes and tables, and let the program read the copies."""
    places = {}
    for module, name in ((protocols, "FOLDER"), (sweeps, "SWEEPS"), (published, "FOLDER")):
        folder = getattr(module, name)
        places[folder] = tmp_path / folder.name
        shutil.copytree(folder, places[folder])
        monkeypatch.setattr(module, name, places[folder])
    published.load_published.cache_clear()
    yield places
    published.load_published.cache_clear()


@pytest.mark.parametrize(
    ("path", "place", "seed"),
    drawn_mutants(),
    ids=lambda value: value.stem if isinstance(value, Path) else None,
)
def test_mutants_are_killed(path: Path, place: tuple[Any, ...], seed: int, copied) -> None:
    folder = next(folder for folder in copied if path.is_relative_to(folder))
    copy = copied[folder] / path.relative_to(folder)
    change = write_mutant(copy, place, seed)
    assert is_killed(copy), f"{path.name}: {place}: {change} survives"
