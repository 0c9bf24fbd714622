"""Check the files of a dataset, and list the sources of missing files.

The check compares counts with published ones, and it reads ids, images and checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vlpeft.benchmark.core.errors import DataError, UserError, did_you_mean
from vlpeft.benchmark.core.paths import expand_home
from vlpeft.benchmark.core.terminal import escape
from vlpeft.benchmark.datasets import Card, DatasetSpec, load_card, load_spec
from vlpeft.benchmark.datasets.base import DataFormat, Example, read_examples
from vlpeft.benchmark.datasets.fetch.checksum import wrong_checksum
from vlpeft.benchmark.datasets.image_memory import MEMORY
from vlpeft.benchmark.datasets.sources import SOURCES, ByHand

ReportCheck = Callable[[str, int, int | None], None]  # phase, step, total
SHOWN = 10  # broken images that are listed one by one
READERS = 4  # threads that decode images


@dataclass(frozen=True)
class SplitReport:
    """The check of one split for one task."""

    split: str
    task: str
    counts: Mapping[str, int]  # what the split holds; empty if it cannot be read
    expected: Mapping[str, int]  # the published numbers
    problems: tuple[str, ...]  # one line each
    contents: str = ""  # hash of all images as they were decoded; "" if they were not


@dataclass(frozen=True)
class CheckReport:
    """The findings of `vlpeft data check`."""

    dataset: str
    root: str
    splits: tuple[SplitReport, ...]
    files: tuple[str, ...]  # problems of files that belong to no split
    to_get: tuple[str, ...]  # sources of missing files; empty without problems

    @property
    def problems(self) -> tuple[str, ...]:
        """All problems, each once."""
        return tuple(dict.fromkeys(chain(self.files, *(split.problems for split in self.splits))))


def find_dataset(name: str, path: Path | None) -> DatasetSpec:
    """Return a dataset, with its files in `path` if it is given.

    Raises:
        UserError: The dataset is unknown.
    """
    spec = load_spec(name)
    if path is None:
        return spec
    return replace(spec, root=str(expand_home(path).absolute()))


def check(
    name: str, path: Path | None, split: str | None, images: bool, watch: ReportCheck
) -> CheckReport:
    """Read a dataset as a run would, and report its problems.

    Args:
        name: The name of the dataset, or the path of its YAML.
        path: The folder of the files; None: the dataset's `root`.
        split: The split to check; None: all splits.
        images: Decode every image, and hash what is in them.
        watch: Receives the progress.

    Raises:
        UserError: The dataset or the split is unknown.
    """
    spec, card = find_dataset(name, path), load_card(name)
    data = spec.open()
    splits = data.splits()
    if not splits:
        raise UserError(f"dataset '{spec.name}' has no split; name its files in the YAML")
    if split is not None:
        if split not in splits:
            near = did_you_mean(split, splits)
            raise UserError(f"--split {split}: dataset '{spec.name}' has no such split{near}")
        splits = (split,)
    reports: list[SplitReport] = []
    for each in splits:
        reports += [_check_split(data, task, each, card, images, watch) for task in data.tasks]
    files = (*_unknown_splits(card, spec, data), *_wrong_checksums(card, spec))
    report = CheckReport(spec.name, spec.root, tuple(reports), files, ())
    if not report.problems:
        return report
    arguments = name
    if path is not None:
        arguments = f"{name} --path {path}"
    return replace(report, to_get=tuple(hints(arguments, Path(spec.root), card)))


def hints(arguments: str, root: Path, card: Card) -> Iterator[str]:
    """Yield a line for each source with missing files: the files, the source and the place.

    Args:
        arguments: The arguments of the `vlpeft data download` command to suggest.
        root: The folder of the dataset.
        card: The description of the dataset.
    """
    for source in card.downloads:
        if missing := source.missing(root):
            yield (
                f"{', '.join(missing)}: `vlpeft data download {arguments}`"
                f" fetches {source.url} into {root}"
            )
    for request in card.by_hand:
        if missing := request.missing(root):
            yield by_hand(request, missing, root)


def by_hand(request: ByHand, missing: Sequence[str], root: Path) -> str:
    """Return what a person must do to get the missing files."""
    return (
        f"{', '.join(missing)}: {request.what} cannot be fetched by program; {request.get};"
        f" put {missing[0]} at {root / missing[0]}"
    )


def _unknown_splits(card: Card, spec: DatasetSpec, data: DataFormat) -> Iterator[str]:
    for split in card.expected:
        if split not in data.splits():
            near = did_you_mean(split, data.splits())
            yield f"expected: dataset '{spec.name}' has no split '{split}'{near}"


def _wrong_checksums(card: Card, spec: DatasetSpec) -> Iterator[str]:
    """Check those downloads that still exist as files, not only unpacked."""
    for source in card.downloads:
        path = Path(spec.root) / source.file
        if path.is_file() and (wrong := wrong_checksum(source, path)):
            yield f"{path}: {wrong}; delete it and run `vlpeft data download {spec.name}` again"


def _check_split(
    data: DataFormat, task: str, split: str, card: Card, images: bool, watch: ReportCheck
) -> SplitReport:
    expected = card.expected.get(split, {})
    try:
        examples = read_examples(data, task, split)
    except DataError as error:
        return SplitReport(split, task, {}, expected, (str(error).removesuffix(SOURCES),))
    counts = data.counts(split, examples)
    problems = [*_repeated_ids(split, examples), *_differences(split, counts, expected)]
    contents = ""
    if images:
        broken, contents = _read_images(data, split, examples, watch)
        problems += broken
    return SplitReport(split, task, counts, expected, tuple(problems), contents)


def _repeated_ids(split: str, examples: Sequence[Example]) -> Iterator[str]:
    seen: set[str] = set()
    repeated: list[str] = []
    for example in examples:
        if example.id in seen:
            repeated.append(example.id)
        seen.add(example.id)
    if repeated:
        yield (
            f"{split}: id {repeated[0]} occurs twice, {len(repeated)} ids do;"
            " keep one record of each"
        )


def _differences(
    split: str, counts: Mapping[str, int], expected: Mapping[str, int]
) -> Iterator[str]:
    for what, number in expected.items():
        if what not in counts:
            yield f"expected: {split}: '{what}' is not counted here{did_you_mean(what, counts)}"
        elif counts[what] != number:
            yield (
                f"{split}: {counts[what]:,} {what}, {number:,} are published;"
                " fetch the split's files again, or the other release of them"
            )


def _read_images(
    data: DataFormat, split: str, examples: Sequence[Example], watch: ReportCheck
) -> tuple[list[str], str]:
    """Read every image of a split.

    Returns:
        A line for each image that cannot be read, with the first example that needs it, and a hash
        (12 hex digits) of the contents of all images.
    """
    owner: dict[str, str] = {}
    for example in examples:
        for image in example.images:
            owner.setdefault(image, example.id)
    read: Callable[[str], NDArray[Any]] = data.image
    if data.has_features:
        read = data.features

    def find_problem(image: str) -> tuple[str, bytes]:
        try:
            with MEMORY.hold():
                found = read(image)
                return "", hashlib.sha256(str(found.shape).encode() + found.tobytes()).digest()
        except DataError as error:
            return f"{split}: example {owner[image]}: {str(error).removesuffix(SOURCES)}", b""

    problems: list[str] = []
    contents = hashlib.sha256()
    with ThreadPoolExecutor(READERS) as pool:
        for done, (problem, digest) in enumerate(pool.map(find_problem, owner), 1):
            contents.update(digest)
            if problem:
                problems.append(problem)
            watch(f"decode images of {split}", done, len(owner))
    more = len(problems) - SHOWN
    if more > 0:
        last = f"{split}: {more} more images cannot be read; unpack the images again"
        problems = [*problems[:SHOWN], last]
    return problems, contents.hexdigest()[:12]


def report_text(report: CheckReport) -> str:
    """Return one line per split: its counts, and whether they are the published ones."""
    lines = [f"{report.dataset}: {report.root or 'no folder'}"]
    lines += [f"  {each.split} ({each.task}): {_verdict(each)}" for each in report.splits]
    lines = list(map(escape, lines))  # a name may hold a line break
    return "\n".join(lines)


def _verdict(report: SplitReport) -> str:
    if report.contents:
        return f"{_count_verdict(report)}; contents of the images: {report.contents}"
    return _count_verdict(report)


def _count_verdict(report: SplitReport) -> str:
    if not report.counts:
        return "cannot be read"
    counts = ", ".join(f"{number:,} {what}" for what, number in report.counts.items())
    if report.problems:
        return f"{counts}: WRONG"
    if report.expected:
        return f"{counts}: as published"
    return f"{counts}: ok, no published numbers"
