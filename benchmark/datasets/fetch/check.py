"""Check a dataset's files: counts against published ones, ids, images, checksums; and say where to get what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean
from vlpeft.benchmark.datasets import Card, DatasetSpec, load_card, load_spec
from vlpeft.benchmark.datasets.base import DataFormat, Example
from vlpeft.benchmark.datasets.fetch.checksum import wrong_checksum
from vlpeft.benchmark.datasets.sources import SOURCES, ByHand

ReportCheck = Callable[[str, int, int | None], None]  # phase, step, total
SHOWN = 10  # broken images named one by one
READERS = 4  # threads that decode


@dataclass(frozen=True)
class SplitReport:
    """One split as one task reads it: what it holds, what it should hold, and what is wrong with it, a line each."""

    split: str
    task: str
    counts: Mapping[str, int]
    expected: Mapping[str, int]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """What `vlpeft data check` finds. `to_get` says where missing files come from; it is empty where nothing is wrong."""

    dataset: str
    root: str
    splits: tuple[SplitReport, ...]
    files: tuple[str, ...]  # problems of files that belong to no split
    to_get: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(chain(self.files, *(split.problems for split in self.splits))))


def find_dataset(name: str, path: Path | None) -> DatasetSpec:
    """The dataset, its files in `path` if that is given. Raises UserError for an unknown name."""
    spec = load_spec(name)
    return spec if path is None else replace(spec, root=str(path.expanduser().absolute()))


def check(
    name: str, path: Path | None, split: str | None, images: bool, watch: ReportCheck
) -> CheckReport:
    """Read a dataset as a run would and report on it; `images` decodes every image. Raises UserError for unknown names."""
    spec, card = find_dataset(name, path), load_card(name)
    data = spec.open()
    if split is not None and split not in data.splits():
        raise UserError(
            f"--split {split}: dataset '{spec.name}' has no such split{did_you_mean(split, data.splits())}"
        )
    splits = [split] if split is not None else data.splits()
    reports = tuple(
        _split(data, task, each, card, images, watch) for each in splits for task in data.tasks
    )
    strange = [s for s in card.expected if s not in data.splits()]
    files = (
        *(
            f"expected: dataset '{spec.name}' has no split '{s}'{did_you_mean(s, data.splits())}"
            for s in strange
        ),
        *_sums(card, spec),
    )
    found = CheckReport(spec.name, spec.root, reports, files, ())
    if not found.problems:
        return found
    return replace(
        found,
        to_get=tuple(
            hints(name if path is None else f"{name} --path {path}", Path(spec.root), card)
        ),
    )


def hints(arguments: str, root: Path, card: Card) -> Iterator[str]:
    """A line for each source whose files are not below `root`: what is missing, where it comes from, where it belongs."""
    for source in card.downloads:
        if gone := source.missing(root):
            yield f"{', '.join(gone)}: `vlpeft data download {arguments}` fetches {source.url} into {root}"
    for request in card.by_hand:
        if gone := request.missing(root):
            yield by_hand(request, gone, root)


def by_hand(request: ByHand, gone: Sequence[str], root: Path) -> str:
    """What a person must do for the files `gone`."""
    return f"{', '.join(gone)}: {request.what} cannot be fetched by program; {request.get}; put {gone[0]} at {root / gone[0]}"


def _sums(card: Card, spec: DatasetSpec) -> Iterator[str]:
    """Files that are still as they were fetched and have a published checksum."""
    for source in card.downloads:
        path = Path(spec.root) / source.file
        if path.is_file() and (wrong := wrong_checksum(source, path)):
            yield f"{path}: {wrong}; delete it and run `vlpeft data download {spec.name}` again"


def _split(
    data: DataFormat, task: str, split: str, card: Card, images: bool, watch: ReportCheck
) -> SplitReport:
    expected = card.expected.get(split, {})
    try:
        examples = data.examples(task, split)
    except DataError as error:
        return SplitReport(split, task, {}, expected, (str(error).removesuffix(SOURCES),))
    counts = data.counts(split, examples)
    problems = [*_repeated(split, examples), *_differences(split, counts, expected)]
    if images:
        problems += _broken(data, split, examples, watch)
    return SplitReport(split, task, counts, expected, tuple(problems))


def _repeated(split: str, examples: Sequence[Example]) -> Iterator[str]:
    seen: set[str] = set()
    twice = [example.id for example in examples if example.id in seen or seen.add(example.id)]  # type: ignore[func-returns-value]
    if twice:
        yield f"{split}: id {twice[0]} occurs twice, {len(twice)} ids do; keep one record of each"


def _differences(
    split: str, counts: Mapping[str, int], expected: Mapping[str, int]
) -> Iterator[str]:
    for what, number in expected.items():
        if what not in counts:
            yield f"expected: {split}: '{what}' is not counted here{did_you_mean(what, counts)}"
        elif counts[what] != number:
            yield f"{split}: {counts[what]:,} {what}, {number:,} are published; fetch the split's files again, or the other release of them"


def _broken(
    data: DataFormat, split: str, examples: Sequence[Example], watch: ReportCheck
) -> list[str]:
    """Images that cannot be read, with the first example that needs each."""
    owner: dict[str, str] = {}
    for example in examples:
        for image in example.images:
            owner.setdefault(image, example.id)

    read = data.features if data.has_features else data.image

    def problem(image: str) -> str:
        try:
            read(image)
        except DataError as error:
            return f"{split}: example {owner[image]}: {str(error).removesuffix(SOURCES)}"
        return ""

    found: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        for done, text in enumerate(pool.map(problem, owner), 1):
            found += [text] if text else []
            watch(f"decode images of {split}", done, len(owner))
    more = (
        [f"{split}: {len(found) - SHOWN} more images cannot be read; unpack the images again"]
        if len(found) > SHOWN
        else []
    )
    return found[:SHOWN] + more


def report_text(report: CheckReport) -> str:
    """A line a split: counts, and what is published where that differs."""
    lines = [f"{report.dataset}: {report.root or 'no folder'}"]
    for each in report.splits:
        verdict = (
            "WRONG"
            if each.problems
            else "as published"
            if each.expected
            else "ok, no published numbers"
        )
        counts = ", ".join(f"{number:,} {what}" for what, number in each.counts.items())
        lines.append(
            f"  {each.split} ({each.task}): {f'{counts}: {verdict}' if counts else 'cannot be read'}"
        )
    return "\n".join(lines)
