"""`vlpeft data check` and `vlpeft data download`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vlpeft.benchmark.cli.printing import (
    print_error,
    print_json,
    print_line,
    print_note,
    print_text,
)
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets import Card, load_card
from vlpeft.benchmark.datasets.fetch.check import by_hand, check, find_dataset, report_text
from vlpeft.benchmark.datasets.fetch.download import download
from vlpeft.benchmark.datasets.sources import Download
from vlpeft.benchmark.run.screen import PhaseProgress


def check_files(
    name: str, path: Path | None, split: str | None, *, images: bool, as_json: bool
) -> int:
    """Print a report on a dataset's files. Return 0 if all is well, else 2.

    The report goes to stdout; each problem, and each source to get files from, to stderr.
    """
    with PhaseProgress(name) as progress:
        report = check(name, path, split, images, progress)
    if as_json:
        print_json(asdict(report))
    else:
        print_text(report_text(report))
    for problem in report.problems:
        print_error(problem)
    for line in report.to_get:
        print_note(f"to get: {line}")
    if report.problems:
        return 2
    return 0


def download_files(name: str, path: Path | None, *, accepted: bool) -> int:
    """Show the licence, ask for its acceptance, and fetch what is missing.

    Also print what a person must fetch. Raises UserError if the licence is not accepted, or a
    download fails.
    """
    card, spec = load_card(name), find_dataset(name, path)
    root = Path(spec.root)
    wanted = tuple(source for source in card.downloads if source.missing(root))
    _print_licence(card, wanted)
    if wanted and not accepted:
        _ask(card.name)
    with PhaseProgress(card.name) as progress:
        fetched = download(wanted, root, progress) if wanted else []
    if fetched:
        print_line(f"fetched into {root}: {', '.join(fetched)}")
    elif spec.root:
        print_line(f"nothing to fetch for {root}")
    else:
        print("nothing to fetch, the data needs no folder")
    for request in card.by_hand:
        if gone := request.missing(root):
            print_line(f"by hand: {by_hand(request, gone, root)}")
    return 0


def _print_licence(card: Card, wanted: Sequence[Download]) -> None:
    """Print a dataset's licence, and what is to be fetched."""
    print_line(f"{card.name}: {card.summary or 'no summary'}")
    print_line(f"licence: {card.licence or 'not stated'}")
    print_line(f"terms: {card.homepage or 'not stated'}")
    for source in wanted:
        size = ""
        if source.bytes:
            size = f" ({source.bytes:,} bytes)"
        print_line(f"to fetch: {source.url}{size}")


def _ask(name: str) -> None:
    """Ask whether the licence is accepted. Raises UserError for a no, and without a terminal."""
    if not sys.stdin.isatty():
        raise UserError(
            f"the licence of '{name}' must be accepted before its files are fetched: "
            "read its terms, then add --yes"
        )
    answer = input("Do you accept this licence? [y/N] ").strip().lower()
    if answer not in ("y", "yes"):
        raise UserError(f"the licence of '{name}' was not accepted; nothing was fetched")
