"""VizWiz, GQA, SNLI-VE, NLVR2, TextCaps, lists and feature files: reading, and bad records."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.samples import CLIP, SAMPLES, features, picture, write, write_sample
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets import DatasetSpec, dataset_names, load_card, load_spec
from vlpeft.benchmark.datasets.hdf5 import read_features


def opened(name, root, **changes):
    spec = load_spec(name)
    return DatasetSpec(spec.name, spec.format, {**spec.settings, **changes}, str(root)).open()


def examples(name, root, split, **changes):
    data = opened(name, root, **changes)
    return data.examples(data.tasks[0], split)


# Reading


@pytest.mark.parametrize("name", ["vqav2_karpathy", "vqav2_clip_bart"])
def test_karpathys_parts_come_out_with_ten_official_answers(tmp_path, name):
    write_sample(name, tmp_path)
    found = {split: examples(name, tmp_path, split) for split in ("train", "val", "test")}
    assert {split: [e.id for e in each] for split, each in found.items()} == {
        "train": ["1000", "2000"],
        "val": ["3000"],
        "test": ["4000", "5000"],
    }
    assert all(
        e.answers == ("a dog", "dog") * 5 and e.kind == "other"
        for each in found.values()
        for e in each
    )
    assert [e.question for e in found["train"]] == ["What is 1?", "What is 2?"]
    assert [Path(e.images[0]).stem for e in found["train"]] == [
        "COCO_train2014_000000000001",
        "COCO_val2014_000000000002",
    ]


def test_blip_lists_hold_their_ten_answers(tmp_path):
    row = {
        "question_id": 7,
        "image": "val2014/x.jpg",
        "question": "What?",
        "answer": ["a"] * 9 + ["b"],
        "dataset": "vqa",
    }
    write(tmp_path / "vqa_train.json", [row])
    picture(tmp_path / "val2014/x.jpg")
    files = {"train": {"questions": ["vqa_train.json"], "images": ["val2014"]}}
    (example,) = examples(
        "vqav2_karpathy", tmp_path, "train", layout="blip", pattern="{image}", files=files
    )
    assert (example.id, example.images, example.question) == ("7", ("val2014/x.jpg",), "What?")
    assert example.answers == ("a",) * 9 + ("b",)


def test_vizwiz_questions_are_named_by_their_images(tmp_path):
    write_sample("vizwiz_vqa", tmp_path)
    first, second = examples("vizwiz_vqa", tmp_path, "val")
    assert (first.id, first.images, first.kind) == (
        "VizWiz_val_00000000.jpg",
        ("val/VizWiz_val_00000000.jpg",),
        "other",
    )
    assert (first.answers, second.question) == (("soup", "unanswerable") * 5, "What is can 1?")


def test_gqa_trains_on_one_file_or_on_two(tmp_path):
    write_sample("gqa", tmp_path)
    (first, second) = examples("gqa", tmp_path, "testdev")
    assert (first.id, first.images, first.answers, first.kind) == (
        "02",
        ("images/n161313.jpg",),
        ("yes",),
        "verify",
    )
    assert second.answers == ("no",)
    assert [e.id for e in examples("gqa", tmp_path, "train+val")] == ["00", "10", "01", "11"]


def test_gqa_features_of_train_and_testdev_are_separate(tmp_path):
    write_sample("gqa_clip_bart", tmp_path)
    train, (test,) = (
        examples("gqa_clip_bart", tmp_path, "train"),
        examples("gqa_clip_bart", tmp_path, "testdev"),
    )
    assert [e.images for e in train] == [(f"VG/{CLIP}/n0.h5",), (f"VG/{CLIP}/n1.h5",)]
    assert (test.images, test.answers) == ((f"GQA/{CLIP}/n2.h5",), ("yes",))


def test_snli_ve_reads_hypothesis_and_label(tmp_path):
    write_sample("snli_ve", tmp_path)
    found = examples("snli_ve", tmp_path, "dev")
    assert [(e.answers, e.question, e.images) for e in found] == [
        ((label,), f"a man is {label}", ("flickr30k-images/129893.jpg",))
        for label in ("neutral", "entailment", "contradiction")
    ]
    assert found[1].id == "129893.jpg#0r1e"


@pytest.mark.parametrize(("name", "split"), [("nlvr2", "test"), ("nlvr2_clip_bart", "dev")])
def test_nlvr2_has_two_images_left_and_right(tmp_path, name, split):
    write_sample(name, tmp_path)
    found = examples(name, tmp_path, split)
    assert [e.answers for e in found] == (
        [("true",), ("false",)] if name == "nlvr2" else [("false",), ("true",)]
    )
    assert all([Path(image).stem[-5:] for image in e.images] == ["-img0", "-img1"] for e in found)


def test_images_may_be_in_subfolders(tmp_path):
    write_sample("nlvr2", tmp_path)
    (tmp_path / "images/train").rename(tmp_path / "images/all")
    (tmp_path / "images/train").mkdir()
    (tmp_path / "images/all").rename(tmp_path / "images/train/62")
    data = opened("nlvr2", tmp_path)
    first = data.examples("nlvr2", "train")[0].images
    assert first == ("images/train/62/train-850-0-img0.png", "images/train/62/train-850-0-img1.png")
    assert data.image(first[1]).shape == (2, 3, 3)


def test_textcaps_gathers_an_images_captions(tmp_path):
    write_sample("textcaps", tmp_path)
    found = examples("textcaps", tmp_path, "val")
    assert [(e.id, e.answers, e.images) for e in found] == [
        ("valab", ("a sign says stop", "a red sign"), ("train_images/valab.jpg",)),
        ("valcd", ("a book",), ("train_images/valcd.jpg",)),
    ]


def test_vizwiz_drops_flagged_captions_and_images_without_others(tmp_path):
    write_sample("vizwiz_caps", tmp_path)
    data = opened("vizwiz_caps", tmp_path)
    found = data.examples("captioning", "val")
    assert [(e.id, e.answers) for e in found] == [
        ("0", ("a can 0", "a can 1")),
        ("1", ("a can 0",)),
    ]
    assert data.counts("val", found) == {
        "examples": 2,
        "images": 2,
        "answers": 3,
        "images in the file": 3,
        "captions in the file": 6,
    }
    kept = examples("vizwiz_caps", tmp_path, "val", drop_flagged=False)
    assert [len(e.answers) for e in kept] == [2, 2, 2]


def test_karpathys_captions_with_features_in_place_of_images(tmp_path):
    write_sample("coco_clip_bart", tmp_path)
    data = opened("coco_clip_bart", tmp_path)
    (example,) = data.examples("captioning", "test")
    assert example.images == (f"COCO/{CLIP}/COCO_val2014_000000000000.h5",)
    array = data.features(example.images[0])
    assert (array.shape, array.dtype) == ((49, 2048), np.float32)
    assert (array == 0.5).all()
    with pytest.raises(DataError, match="holds features, not an image; use a backbone"):
        data.image(example.images[0])


def test_datasets_of_pixels_give_no_features(tmp_path):
    write_sample("coco", tmp_path)
    data = opened("coco", tmp_path)
    assert not data.has_features
    with pytest.raises(
        DataError,
        match=r"'karpathy' gives images, not features: .*jpg; use a backbone with a vision tower",
    ):
        data.features(data.examples("captioning", "test")[0].images[0])


# Bad records

NOT_KARPATHY = {"label": {"dog": 0.3}}
BAD_RECORDS = {
    "question in no annotations": (
        "vqav2_karpathy",
        "karpathy_train.json",
        lambda c: c[0].update(question_id=5),
        "question 5: has no answers",
    ),
    "list question twice": (
        "vqav2_karpathy",
        "karpathy_train.json",
        lambda c: c.append(c[0]),
        "question_id 1000 occurs twice",
    ),
    "list without sent": (
        "vqav2_karpathy",
        "karpathy_train.json",
        lambda c: c[1].pop("sent"),
        r"record\[1\]: 'sent' is missing",
    ),
    "list is empty": (
        "vqav2_karpathy",
        "karpathy_train.json",
        lambda c: c.clear(),
        "found an empty list",
    ),
    "no such image": (
        "vqav2_karpathy",
        "karpathy_train.json",
        lambda c: c[0].update(img_id="x"),
        r"question 1000: its image x\.jpg is mis",
    ),
    "soft label": (
        "gqa_clip_bart",
        "GQA/train.json",
        lambda c: c[0].update(NOT_KARPATHY),
        "'label' must hold one answer of score 1",
    ),
    "no label": (
        "gqa_clip_bart",
        "GQA/train.json",
        lambda c: c[0].pop("label"),
        "one answer of score 1, found None",
    ),
    "two labels": (
        "gqa_clip_bart",
        "GQA/train.json",
        lambda c: c[0].update(label={"a": 1, "b": 1}),
        "one answer of score 1",
    ),
    "question in two files": (
        "gqa_clip_bart",
        "GQA/valid.json",
        lambda c: c[0].update(question_id="00"),
        "question 00 is in .*train.json too",
    ),
    "vizwiz without answers": (
        "vizwiz_vqa",
        "Annotations/train.json",
        lambda c: c[0].update(answers=[]),
        "00000000.jpg: has no answers",
    ),
    "vizwiz test set": (
        "vizwiz_vqa",
        "Annotations/train.json",
        lambda c: c[0].pop("answers"),
        r"record\[0\]: 'answers' is missing",
    ),
    "vizwiz image twice": (
        "vizwiz_vqa",
        "Annotations/train.json",
        lambda c: c[1].update(image=c[0]["image"]),
        "occurs twice",
    ),
    "gqa test set": (
        "gqa",
        "train_balanced_questions.json",
        lambda c: c["00"].pop("answer"),
        "json: 00: 'answer' is missing",
    ),
    "gqa is empty": (
        "gqa",
        "train_balanced_questions.json",
        lambda c: c.clear(),
        "found an empty object",
    ),
    "gqa question is a list": (
        "gqa",
        "train_balanced_questions.json",
        lambda c: c.update({"7": []}),
        "7: expected an object, found list",
    ),
    "textcaps test set": (
        "textcaps",
        "TextCaps_0.1_train.json",
        lambda c: c["data"][0].pop("caption_str"),
        r"data\[0\]: 'caption_str' is mis",
    ),
    "textcaps image gone": (
        "textcaps",
        "TextCaps_0.1_train.json",
        lambda c: c["data"][0].update(image_id="x"),
        r"image_id x: its image /.*/x\.jpg is mis",
    ),
    "no flags": (
        "vizwiz_caps",
        "annotations/train.json",
        lambda c: c["annotations"][0].pop("is_rejected"),
        "'is_rejected' is missing",
    ),
    "flag is text": (
        "vizwiz_caps",
        "annotations/train.json",
        lambda c: c["annotations"][0].update(is_precanned="no"),
        "must be bool",
    ),
    "nlvr2 label 2": (
        "nlvr2_clip_bart",
        "nlvr/train.json",
        lambda c: c[0].update(label=2),
        "train-850-0-0: label 2 is none of 1, 0",
    ),
    "nlvr2 label true": (
        "nlvr2_clip_bart",
        "nlvr/train.json",
        lambda c: c[0].update(label=True),
        "'label' must be int, found bool",
    ),
}
BAD_RECORDS["answers in two files"] = (
    "vqav2_karpathy",
    "v2_mscoco_val2014_annotations.json",
    lambda c: c["annotations"][0].update(question_id=1000),
    "question_id 1000 is in .*train2014_annotations.json too; name one",
)
BAD_LINES = {
    "no gold label": (
        "snli_ve",
        "snli_ve_train.jsonl",
        {"gold_label": "-"},
        "129893|029893.jpg#0r1n: unknown gold_label '-'",
    ),
    "label misspelt": (
        "snli_ve",
        "snli_ve_train.jsonl",
        {"gold_label": "entailed"},
        "did you mean 'entailment'",
    ),
    "hypothesis is null": (
        "snli_ve",
        "snli_ve_train.jsonl",
        {"sentence2": None},
        "line 1: 'sentence2' must be str",
    ),
    "pair twice": (
        "snli_ve",
        "snli_ve_train.jsonl",
        {"pairID": "029893.jpg#0r1e"},
        "pairID 029893.jpg#0r1e occurs twice",
    ),
    "no such photograph": (
        "snli_ve",
        "snli_ve_train.jsonl",
        {"Flickr30K_ID": "8"},
        r"its image /.*/8\.jpg is missing",
    ),
    "identifier without parts": (
        "nlvr2",
        "train.json",
        {"identifier": "x"},
        "identifier x: expected SPLIT-SET-PAIR-SENTENCE",
    ),
    "label in lower case": (
        "nlvr2",
        "train.json",
        {"label": "true"},
        "train-850-0-0: label 'true' is none of 'True', 'False'",
    ),
    "label is not text": (
        "nlvr2",
        "train.json",
        {"label": True},
        "line 1: 'label' must be str, found bool",
    ),
    "left image gone": (
        "nlvr2",
        "train.json",
        {"identifier": "train-1-0-0"},
        r"its image /.*/train-1-0-img0\.png is missing",
    ),
}


def refused(name, root, file, expected):
    data = opened(name, root)
    with pytest.raises(DataError, match=expected) as caught:
        data.examples(data.tasks[0], "train")
    message = str(caught.value)
    assert str(root / file) in message
    assert "\n" not in message
    assert ";" in message


@pytest.mark.parametrize("case", sorted(BAD_RECORDS))
def test_a_bad_record_is_named(tmp_path, case):
    name, file, change, expected = BAD_RECORDS[case]
    path = write_sample(name, tmp_path) / file
    content = json.loads(path.read_text())
    change(content)
    write(path, content)
    refused(name, tmp_path, file, expected)


@pytest.mark.parametrize("case", sorted(BAD_LINES))
def test_a_bad_line_is_named(tmp_path, case):
    name, file, change, expected = BAD_LINES[case]
    path = write_sample(name, tmp_path) / file
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(first), **change}) + "\n" + rest)
    refused(name, tmp_path, file, expected)


def test_a_line_cut_short_is_named(tmp_path):
    path = write_sample("nlvr2", tmp_path) / "train.json"
    path.write_text(path.read_text()[:-20])
    refused(
        "nlvr2",
        tmp_path,
        "train.json",
        "line 2 is not valid JSON .*: cut short or damaged; fetch the file again",
    )


@pytest.mark.parametrize("pattern", ["x.h5", "{img}.h5", "{}", "a/{image}.h5", "{image"])
def test_an_impossible_pattern_is_refused(tmp_path, pattern):
    for name in ("gqa_clip_bart", "nlvr2_clip_bart"):
        with pytest.raises(UserError, match="pattern"):
            opened(name, tmp_path, pattern=pattern)


def test_an_image_id_that_does_not_fit_the_pattern_is_named(tmp_path):
    write_sample("gqa", tmp_path)
    with pytest.raises(
        DataError,
        match=r"question 00: image '2370799' does not fit the pattern '{image:d}\.jpg'; fix",
    ):
        examples("gqa", tmp_path, "train", pattern="{image:d}.jpg")


# Feature files


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((49, 2048), np.int32), "must be numbers of shape"),
        (np.zeros((7, 7, 2048), np.float16), r"found float16 \(7, 7, 2048\)"),
        (np.zeros((0, 2048), np.float16), "must be numbers of shape"),
        (np.full((49, 8), np.nan, np.float16), "holds NaN or infinity"),
        (np.full((49, 8), np.inf, np.float16), "holds NaN or infinity"),
    ],
)
def test_features_of_another_kind_are_refused(tmp_path, array, expected):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/features"] = array
    with pytest.raises(DataError, match=expected) as caught:
        read_features(tmp_path / "a.h5")
    assert str(tmp_path / "a.h5") in str(caught.value)


def test_features_of_another_image_are_refused(tmp_path):
    features(tmp_path / "a.h5")
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")
    with pytest.raises(
        DataError, match=r"b\.h5: has no dataset 'b/features', only a; replace the file"
    ):
        read_features(tmp_path / "b.h5")


# YAML files


def test_every_dataset_of_files_has_a_sample_and_names_its_sources():
    in_files = [name for name in dataset_names() if load_spec(name).root]
    assert set(in_files) | {"easy_vqa"} == set(SAMPLES)
    for name in in_files:
        card, data = load_card(name), load_spec(name).open()
        assert card.licence
        assert card.homepage.startswith("https://")
        assert set(card.expected) <= set(data.splits())
        places = [place for source in card.downloads for place in source.places()] + [
            place for each in card.by_hand for place in each.places
        ]
        assert {
            file
            for file in data.annotation_files().values()
            if not any(Path(file).is_relative_to(place) for place in places)
        } == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("downloads: [{file: ../a, url: https://x}]", "'../a' must be inside the dataset's root"),
        ("downloads: [{file: a, url: ftp://x}]", "must begin with https://"),
        ("downloads: [{file: a, url: https://x, shaa: 1}]", "unknown key 'downloads[0].shaa'"),
        ("downloads: [{file: a, url: https://x, zzz: 1}]", "known: bytes, file, gives, into, md5"),
        ("by_hand: [{zzz: 1}]", "unknown key 'by_hand[0].zzz'; known: get, places, what"),
        ("expected: {train: {examples: -1}}", "expected.train.examples"),
        ("by_hand: [{what: a}]", "'by_hand[0].get' is required"),
    ],
)
def test_a_bad_source_in_a_yaml_is_named(tmp_path, line, expected):
    (tmp_path / "mine.yaml").write_text(f"format: karpathy\nfile: a.json\n{line}\n")
    with pytest.raises(UserError) as caught:
        load_spec(str(tmp_path / "mine.yaml"))
    assert expected in str(caught.value)
    assert str(tmp_path / "mine.yaml") in str(caught.value)


def test_the_known_keys_are_those_of_the_level(tmp_path):
    (tmp_path / "mine.yaml").write_text("format: vqav2\nfiles: {train: {zzz: a}}\n")
    expected = "unknown key 'files.train.zzz'; known: annotations, images, pattern, questions"
    with pytest.raises(UserError, match=re.escape(expected)):
        load_spec(str(tmp_path / "mine.yaml"))


def test_the_yaml_of_the_documentation_is_valid(tmp_path):
    page = Path(__file__).parents[2] / "docs/data.md"
    text = page.read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        text.split("```yaml\n")[1].split("```")[0], encoding="utf-8"
    )
    assert load_spec(str(tmp_path / "mine.yaml")).tasks == ("vqa",)
    assert load_card(str(tmp_path / "mine.yaml")).expected == {"test": {"examples": 26280}}
    assert {
        name
        for name in dataset_names()
        if f"| {name} |" in text or f"{name}, " in text or f"{name} |" in text
    } >= set(SAMPLES) - {"easy_vqa"}
