"""Tiny samples of every shipped dataset that consists of files, true to the official formats."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

SPLITS = ("train", "val")
CLIP = "clip_features/data_clip_RN101_att"


def write_sample(name: str, folder: Path) -> Path:
    """Write the sample of a shipped dataset; `folder` serves as its `root`."""
    SAMPLES[name](folder)
    return folder


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (3, 2)).save(path)


def features(path: Path, value: float = 0.5) -> None:
    """Write features as in the VL-Adapter release.

    The group NAME has a dataset `features`: 49 x 2048 float16.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group(path.stem).create_dataset(
            "features", data=np.full((49, 2048), value, np.float16)
        )


def coco_name(split: str, number: int) -> str:
    return f"COCO_{split}2014_{number:012d}.jpg"


def ten(*texts: str) -> list[dict[str, object]]:
    """Return ten answers in the form of VQA v2, cycling through the texts."""
    return [
        {"answer": texts[i % len(texts)], "answer_confidence": "yes", "answer_id": i + 1}
        for i in range(10)
    ]


def vqav2(root: Path) -> None:
    for split in SPLITS:
        questions = [
            {"image_id": 9, "question": f"What is {i}?", "question_id": 9000 + i} for i in range(2)
        ]
        annotations = [
            {"question_id": 9001 - i, "image_id": 9, "answer_type": "number", "answers": ten("two")}
            for i in range(2)
        ]
        write(
            root / f"v2_OpenEnded_mscoco_{split}2014_questions.json",
            {"info": {}, "questions": questions},
        )
        write(
            root / f"v2_mscoco_{split}2014_annotations.json",
            {"info": {}, "annotations": annotations},
        )
        picture(root / f"{split}2014" / coco_name(split, 9))


def karpathy_vqa(root: Path, image: Callable[[str], None], lists: str = "") -> None:
    """Write VL-T5's lists: the questions of val2014 are split into train, val and test."""
    parts = {
        "train": [("train", 1), ("val", 2)],
        "val": [("val", 3)],
        "test": [("val", 4), ("val", 5)],
    }
    for part, numbers in parts.items():
        rows = [
            {
                "answer_type": "other",
                "img_id": coco_name(split, n).removesuffix(".jpg"),
                "label": {"a dog": 1, "dog": 0.3},
                "question_id": 1000 * n,
                "question_type": "what is",
                "sent": f"What is {n}?",
            }
            for split, n in numbers
        ]
        write(root / lists / f"karpathy_{part}.json", rows)
    for split, n in [pair for numbers in parts.values() for pair in numbers]:
        image(coco_name(split, n).removesuffix(".jpg"))
    for split in SPLITS:
        numbers = [n for part in parts.values() for of, n in part if of == split]
        rows = [
            {
                "question_id": 1000 * n,
                "image_id": n,
                "answer_type": "other",
                "answers": ten("a dog", "dog"),
            }
            for n in numbers
        ]
        write(root / lists / f"v2_mscoco_{split}2014_annotations.json", {"annotations": rows})


def vqav2_karpathy(root: Path) -> None:
    karpathy_vqa(root, lambda name: picture(root / name.split("_")[1] / f"{name}.jpg"))


def vqav2_clip_bart(root: Path) -> None:
    karpathy_vqa(root, lambda name: features(root / "COCO" / CLIP / f"{name}.h5"), "vqa")


def coco_captions2014(root: Path) -> None:
    for split in SPLITS:
        images = [{"id": number, "file_name": coco_name(split, number)} for number in (9, 25)]
        captions = [
            {"id": i, "image_id": number, "caption": f"a {i}"}
            for i, number in enumerate((25, 9, 9))
        ]
        write(
            root / f"annotations/captions_{split}2014.json",
            {"images": images, "annotations": captions},
        )
        for number in (9, 25):
            picture(root / f"{split}2014" / coco_name(split, number))


def karpathy_captions(path: Path, image: Callable[[str, str], None]) -> None:
    images = []
    for number, split in enumerate(("test", "train", "restval", "val", "train")):
        folder = "train" if split == "train" else "val"
        name, raw = (
            coco_name(folder, number),
            [{"raw": f"A {number}.", "tokens": []}, {"raw": "B.", "tokens": []}],
        )
        images.append(
            {
                "filepath": f"{folder}2014",
                "filename": name,
                "split": split,
                "sentences": raw,
                "cocoid": number,
                "imgid": 7,
            }
        )
        image(f"{folder}2014", name)
    write(path, {"dataset": "coco", "images": images})


def coco(root: Path) -> None:
    karpathy_captions(
        root / "dataset_coco.json", lambda folder, name: picture(root / folder / name)
    )


def coco_clip_bart(root: Path) -> None:
    file = root / "COCO/dataset_coco.json"
    karpathy_captions(
        file, lambda _, name: features(root / "COCO" / CLIP / f"{Path(name).stem}.h5")
    )


def easy_vqa(root: Path) -> None:
    for split in ("train", "test"):
        rows = [
            ["what color is the shape?", "blue", 0],
            ["is there a circle?", "no", 0],
            ["what shape is present?", "circle", 0],
        ]
        write(root / split / "questions.json", rows)
        picture(root / split / "images/0.png")


def vizwiz_vqa(root: Path) -> None:
    for split in SPLITS:
        rows = []
        for i in range(2):
            name = f"VizWiz_{split}_{i:08d}.jpg"
            picture(root / split / name)
            rows.append(
                {
                    "image": name,
                    "question": f"What is can {i}?",
                    "answers": [
                        {k: v for k, v in each.items() if k != "answer_id"}
                        for each in ten("soup", "unanswerable")
                    ],
                    "answer_type": "other",
                    "answerable": 1,
                }
            )
        write(root / f"Annotations/{split}.json", rows)


def vizwiz_caps(root: Path) -> None:
    """Write captions of three images.

    One keeps two captions, one loses a rejected caption, and one has stock phrases only.
    """
    for split in SPLITS:
        images, captions = [], []
        for i, flags in enumerate([(0, 0), (0, 2), (1, 1)]):
            name = f"VizWiz_{split}_{i:08d}.jpg"
            picture(root / split / name)
            images.append(
                {
                    "file_name": name,
                    "id": i,
                    "vizwiz_url": f"https://x/{name}",
                    "text_detected": False,
                }
            )
            captions += [
                {
                    "id": 10 * i + n,
                    "image_id": i,
                    "caption": f"a can {n}",
                    "is_precanned": flag == 1,
                    "is_rejected": flag == 2,
                }
                for n, flag in enumerate(flags)
            ]
        write(
            root / f"annotations/{split}.json",
            {"info": {}, "images": images, "annotations": captions},
        )


def gqa(root: Path) -> None:
    for number, split in enumerate(("train", "val", "testdev")):
        question = {
            "imageId": str(2370799 + number) if split != "testdev" else "n161313",
            "question": "Is the sky dark?",
            "answer": "yes",
            "fullAnswer": "Yes, the sky is dark.",
            "isBalanced": True,
            "types": {"structural": "verify", "semantic": "global", "detailed": "sky"},
            "semantic": [{"operation": "select", "argument": "scene", "dependencies": []}],
        }
        write(
            root / f"{split}_balanced_questions.json",
            {f"0{number}": question, f"1{number}": {**question, "answer": "no"}},
        )
        picture(root / f"images/{question['imageId']}.jpg")


def gqa_clip_bart(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "testdev")):
        rows = [
            {
                "img_id": f"n{number}",
                "label": {"yes": 1.0},
                "question_id": f"0{number}",
                "sent": "Is the sky dark?",
            }
        ]
        write(root / f"GQA/{split}.json", rows)
        features(root / ("GQA" if split == "testdev" else "VG") / CLIP / f"n{number}.h5")


def snli_ve(root: Path) -> None:
    for number, split in enumerate(("train", "dev", "test")):
        image = f"{number}29893"
        rows = [
            {
                "Flickr30K_ID": image,
                "annotator_labels": [label],
                "captionID": f"{image}.jpg#0",
                "gold_label": label,
                "pairID": f"{image}.jpg#0r1{label[0]}",
                "sentence1": "Two men talk.",
                "sentence1_binary_parse": "( Two men )",
                "sentence2": f"a man is {label}",
            }
            for label in ("neutral", "entailment", "contradiction")
        ]
        write_lines(root / f"snli_ve_{split}.jsonl", rows)
        picture(root / f"flickr30k-images/{image}.jpg")


def nlvr2(root: Path) -> None:
    for split in ("train", "dev", "test1"):
        rows = [
            {
                "identifier": f"{split}-850-0-{i}",
                "sentence": f"There are {i} dogs.",
                "label": str(i == 0),
                "left_url": "http://x/a.jpg",
                "right_url": "http://x/b.jpg",
                "validation": {"92": label},
            }
            for i, label in enumerate(("True", "False"))
        ]
        write_lines(root / f"{split}.json", rows)
        for i in range(2):
            picture(root / f"images/{split}/{split}-850-0-img{i}.png")


def nlvr2_clip_bart(root: Path) -> None:
    for split in ("train", "valid", "test"):
        names = {f"img{i}": f"{split}-850-0-img{i}" for i in range(2)}
        rows = [
            {
                "identifier": f"{split}-850-0-{i}",
                "uid": f"nlvr2_{split}_{i}",
                **names,
                "sent": "dogs",
                "label": i,
            }
            for i in range(2)
        ]
        write(root / f"nlvr/{split}.json", rows)
        for name in names.values():
            features(root / "nlvr" / CLIP / f"{name}.h5")


def textcaps(root: Path) -> None:
    for split in SPLITS:
        captions = {"ab": ["a sign says stop", "a red sign"], "cd": ["a book"]}
        rows = [
            {
                "caption_id": i,
                "caption_str": text,
                "image_id": f"{split}{key}",
                "image_path": f"train_images/{split}{key}.jpg",
                "reference_strs": captions[key],
                "set_name": split,
            }
            for i, (key, text) in enumerate(
                [("ab", captions["ab"][0]), ("cd", "a book"), ("ab", captions["ab"][1])]
            )
        ]
        write(
            root / f"TextCaps_0.1_{split}.json",
            {"dataset_type": split, "dataset_name": "textcaps", "data": rows},
        )
        for key in captions:
            picture(root / f"train_images/{split}{key}.jpg")


SAMPLES: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (
        coco,
        coco_captions2014,
        coco_clip_bart,
        easy_vqa,
        gqa,
        gqa_clip_bart,
        nlvr2,
        nlvr2_clip_bart,
        snli_ve,
        textcaps,
        vizwiz_caps,
        vizwiz_vqa,
        vqav2,
        vqav2_clip_bart,
        vqav2_karpathy,
    )
}
