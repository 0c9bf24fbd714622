"""SNLI-VE (https://github.com/necla-ml/SNLI-VE): does a Flickr30k image entail a sentence?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlpeft.benchmark.core.errors import DataError, did_you_mean
from vlpeft.benchmark.core.registry import register
from vlpeft.benchmark.datasets.base import Example
from vlpeft.benchmark.datasets.files import (
    ID,
    FileFormat,
    check_request,
    find_images,
    index_by_id,
    read_lines,
)

LABELS = ("entailment", "neutral", "contradiction")


@register("snli_ve", tasks=("entailment",))
@dataclass(frozen=True, kw_only=True)
class SNLIVE(FileFormat):
    """One JSON record a line: `pairID`, `Flickr30K_ID`, the hypothesis `sentence2` and its `gold_label`.

    `files` names the file of each split; images are `Flickr30K_ID`.jpg in the folders `images`.
    """

    files: dict[str, str]
    images: tuple[str, ...]

    def splits(self) -> tuple[str, ...]:
        """Names of the splits: the keys of `files`."""
        return tuple(self.files)

    def annotation_files(self) -> Mapping[str, str]:
        """Every split's records."""
        return self.files

    def examples(self, task: str, split: str) -> Sequence[Example]:
        """One example a pair, in the file's order. Raises DataError naming file, record and fix."""
        check_request(self, task, split)
        root, path = Path(self.root), Path(self.root) / self.files[split]
        rows = index_by_id(
            read_lines(path, pairID=str, Flickr30K_ID=ID, sentence2=str, gold_label=str),
            "pairID",
            path,
        )
        for key, row in rows.items():
            if row["gold_label"] not in LABELS:
                near = did_you_mean(row["gold_label"], LABELS)
                raise DataError(
                    f"{path}: pairID {key}: unknown gold_label '{row['gold_label']}'{near}; mend or remove the record"
                )
        names = {key: f"{row['Flickr30K_ID']}.jpg" for key, row in rows.items()}
        places = find_images(
            root, self.images, ((f"{path}: pairID {key}", name) for key, name in names.items())
        )
        return [
            Example(
                key,
                (places[names[key]],),
                row["sentence2"],
                (row["gold_label"],),
                row["gold_label"],
            )
            for key, row in rows.items()
        ]
