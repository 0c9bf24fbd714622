"""The text of the project is plain, modern English, and lines of the packages are short."""

import re
from collections.abc import Iterator
from pathlib import Path

from vlpeft.benchmark.core.registry import REPOSITORY

PACKAGES = ("baselines", "benchmark", "methods", "results", "slurm")
FOLDERS = (*PACKAGES, "docs", "tests")
SUFFIXES = {".ini", ".j2", ".js", ".md", ".py", ".sh", ".toml", ".yaml"}
COLUMNS = 100  # of a line of Python in the packages

# Words and phrases with their replacements. They match as whole words, in upper or lower case, and
# also across the end of a line.
BANNED = {
    "heed|heeds|heeded|heeding": "respect, or the negation: ignore",
    "mend|mends|mended|mending": "fix, repair",
    "anew|afresh": "again",
    "for want of": "because, without",
    "beside": "next to, compared with, in addition to",
    "whatever": "any, all",
    r"(?<!\.)tell|tells|told|telling": "print, report, say, name, distinguish",
    "of late": "recently",
    "at hand": "available",
    "so many that": "enough that",
    "nobody knows": "unknown",
    "without a word": "without an error message",
    "slip of the keyboard": "typo",
    "is to be thought of": "a noun, such as verdict",
    "all the same": "still, nevertheless",
    r"(?<!there\s)(is|are|was|were) no(?!\s(longer|more|fewer|worse|better))": "is not a, without",
    "(lie|lies|lay) (in|inside|beside|next|below|under|there|here|on|elsewhere|apart)": "is, are",
    "(stand|stands|stood) (in|beside|next|below|above|behind|before|over|there|here|apart|on)": (
        "is, appears, comes before, comes after"
    ),
}
# Quotations that keep such a word, as (file, text around it).
KEPT = (
    # Sentences that the tiny towers were trained on.
    ("benchmark/pretraining/text.py", '"is no {} present?"'),
    ("tests/unit/test_pretrain.py", '"is no blue shape present?"'),
)


def texts() -> Iterator[tuple[str, str]]:
    """Yield path and text of each file that people write, without data and results."""
    paths = [path for path in REPOSITORY.iterdir() if path.suffix in SUFFIXES]
    for folder in FOLDERS:
        paths += (path for path in (REPOSITORY / folder).rglob("*") if path.suffix in SUFFIXES)
    for path in sorted(paths):
        name = path.relative_to(REPOSITORY).as_posix()
        if path != Path(__file__).resolve() and not name.startswith("results/measured/"):
            yield name, path.read_text(encoding="utf-8")


def compile_phrase(phrase: str) -> re.Pattern[str]:
    """Let a space of the phrase match any white space and the start of a comment line."""
    words = phrase.replace(" ", r"[\s#]+")
    return re.compile(rf"\b(?:{words})\b", re.IGNORECASE)


def test_no_banned_words() -> None:
    patterns = [(compile_phrase(phrase), plain) for phrase, plain in BANNED.items()]
    found = []
    for name, text in texts():
        kept = [quote for file, quote in KEPT if file == name]
        for pattern, plain in patterns:
            for match in pattern.finditer(text):
                around = text[max(0, match.start() - 60) : match.end() + 60]
                if not any(quote in around for quote in kept):
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(f"{name}:{line}: {match[0]!r}; write: {plain}")
    assert not found, "\n" + "\n".join(found)


def test_kept_quotations_exist() -> None:
    known = dict(texts())
    assert [each for each in KEPT if each[1] not in known.get(each[0], "")] == []


def test_lines_of_the_packages_are_short() -> None:
    long = [
        f"{name}:{number}: {len(line)} columns"
        for name, text in texts()
        if name.endswith(".py") and name.split("/")[0] in PACKAGES
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert not long, "\n" + "\n".join(long)
