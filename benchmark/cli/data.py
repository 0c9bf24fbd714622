"""What `vlpeft data check` and `vlpeft data download` print and ask."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets import load_card
from vlpeft.benchmark.datasets.fetch.check import by_hand, check, find_dataset, report_text
from vlpeft.benchmark.datasets.fetch.download import download
from vlpeft.benchmark.run.screen import PhaseProgress


def check_files(
    name: str, path: Path | None, split: str | None, *, images: bool, as_json: bool
) -> int:
    """Print a report on stdout, and a line on stderr for each problem and each source. 0 if all is well, else 2."""
    with PhaseProgress(name) as progress:
        report = check(name, path, split, images, progress)
    print(
        json.dumps(asdict(report), indent=1, ensure_ascii=False) if as_json else report_text(report)
    )
    for problem in report.problems:
        print(f"vlpeft: error: {problem}", file=sys.stderr)
    for line in report.to_get:
        print(f"vlpeft: to get: {line}", file=sys.stderr)
    return 2 if report.problems else 0


def download_files(name: str, path: Path | None, *, accepted: bool) -> int:
    """Show the licence, have it accepted, fetch what is missing, and say what must be asked for. Raises UserError."""
    card, spec = load_card(name), find_dataset(name, path)
    root = Path(spec.root)
    wanted = tuple(source for source in card.downloads if source.missing(root))
    print(
        f"{card.name}: {card.summary or 'no summary'}\nlicence: {card.licence or 'not stated'}\nterms: {card.homepage or 'not stated'}"
    )
    for source in wanted:
        print(f"to fetch: {source.url}{f' ({source.bytes:,} bytes)' if source.bytes else ''}")
    if wanted and not accepted:
        _accept(card.name)
    with PhaseProgress(card.name) as progress:
        fetched = download(wanted, root, progress) if wanted else []
    print(
        f"fetched into {root}: {', '.join(fetched)}"
        if fetched
        else f"nothing to fetch{f' for {root}' if spec.root else ', the data needs no folder'}"
    )
    for request in card.by_hand:
        if gone := request.missing(root):
            print(f"by hand: {by_hand(request, gone, root)}")
    return 0


def _accept(name: str) -> None:
    """Ask whether the licence is accepted. Raises UserError for no, and where nobody can answer."""
    if not sys.stdin.isatty():
        raise UserError(
            f"the licence of '{name}' must be accepted before its files are fetched: read its terms, then add --yes"
        )
    if input("Do you accept this licence? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError(f"the licence of '{name}' was not accepted; nothing was fetched")
