"""SNLI-VE (https://github.com/necla-ml/SNLI-VE): does a Flickr30k image entail a sentence?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import FileFormat, check_request
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.json_files import ID, DataRow, index_by_id, read_lines

LABELS = ("entailment", "neutral", "contradiction")


@register("snli_ve", tasks=("entailment",))
@dataclass(frozen=True, kw_only=True)
class SNLIVE(FileFormat):
    """One JSON record per line: `pairID`, `Flickr30K_ID`, `sentence2` and `gold_label`.

    `sentence2` is the hypothesis. `files` names the file of each split. The images are
    `Flickr30K_ID`.jpg in the folders `images`.
    """

    files: dict[str, str]
    images: tuple[str, ...]

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits: the keys of `files`."""
        return tuple(self.files)

    def annotation_files(self) -> Mapping[str, str]:
        """Return the file of every split."""
        return self.files

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """Return one example per pair, in the order of the file.

        Raises:
            DataError: A file or a record is wrong; names the file, the record and the fix.
        """
        check_request(self, task, split)
        path = Path(self.root) / self.files[split]
        rows = _read_pairs(path)
        names = {key: f"{row['Flickr30K_ID']}.jpg" for key, row in rows.items()}
        wanted = ((f"{path}: pairID {key}", name) for key, name in names.items())
        places = find_images(Path(self.root), self.images, wanted)
        examples = []
        for key, row in rows.items():
            label = row["gold_label"]
            examples.append(Example(key, (places[names[key]],), row["sentence2"], (label,), label))
        return examples

    def record_place(self, split: str, identifier: str) -> str:
        """Return the file and the pairID of a pair."""
        return self.place_in((self.files[split],), f"pairID {identifier}")


def _read_pairs(path: Path) -> dict[str, DataRow]:
    """Return pairID -> record, with a known label each."""
    lines = read_lines(path, pairID=str, Flickr30K_ID=ID, sentence2=str, gold_label=str)
    rows = index_by_id(lines, "pairID", path)
    for key, row in rows.items():
        label = row["gold_label"]
        if label not in LABELS:
            raise DataError(
                f"{path}: pairID {key}: unknown gold_label '{label}'{did_you_mean(label, LABELS)};"
                " fix or remove the record"
            )
    return rows
