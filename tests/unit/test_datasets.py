"""Every data format on tiny files of the official form: reading, and reports of damage."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.samples import SAMPLES, coco_name, picture, write, write_sample
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets import DatasetSpec, dataset_names, load_card, load_spec
from vlpeft.benchmark.datasets.files import content_fingerprint
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.json_files import read_rows


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    write(path, content)


def opened(name: str, root: Path, **changes):
    spec = load_spec(name)
    return DatasetSpec(spec.name, spec.format, {**spec.settings, **changes}, str(root)).open()


@pytest.fixture(params=sorted(SAMPLES))
def sample(request, tmp_path):
    write_sample(request.param, tmp_path / "data")
    return request.param, tmp_path / "data"


def json_files(root: Path) -> list[Path]:
    """Return the annotation files, starting with one that the training split needs."""
    return sorted(root.rglob("*.json*"), key=lambda path: ("train" not in path.name, path))


def read(data, image: str):
    """Return the features if the dataset has them, otherwise the pixels."""
    return (data.features if data.has_features else data.image)(image)


# Reading


def test_vqav2_joins_questions_and_annotations_in_the_questions_order(tmp_path):
    write_sample("vqav2", tmp_path)
    first, second = opened("vqav2", tmp_path).examples("vqa", "val")
    assert (first.id, second.id) == ("9000", "9001")
    assert (first.images, first.question, first.kind) == (
        ("val2014/COCO_val2014_000000000009.jpg",),
        "What is 0?",
        "number",
    )
    assert first.answers == ("two",) * 10


def test_coco_captions_has_one_example_an_image_with_all_its_captions(tmp_path):
    write_sample("coco_captions2014", tmp_path)
    found = opened("coco_captions2014", tmp_path).examples("captioning", "train")
    assert [(e.id, e.question, e.answers) for e in found] == [
        ("9", "", ("a 1", "a 2")),
        ("25", "", ("a 0",)),
    ]


@pytest.mark.parametrize(("restval", "train"), [(True, ["1", "2", "4"]), (False, ["1", "4"])])
def test_karpathy_trains_on_restval_by_default(tmp_path, restval, train):
    write_sample("coco", tmp_path)
    data = opened("coco", tmp_path, restval_in_train=restval)
    assert [e.id for e in data.examples("captioning", "train")] == train
    assert [(e.id, e.answers, e.images[0]) for e in data.examples("captioning", "test")] == [
        ("0", ("A 0.", "B."), "val2014/" + coco_name("val", 0))
    ]


def test_karpathy_reads_flickr_files_without_filepath_and_cocoid(tmp_path):
    image = {"filename": "1.jpg", "split": "val", "sentences": [{"raw": "a"}], "imgid": 3}
    write(tmp_path / "dataset_flickr8k.json", {"images": [image]})
    picture(tmp_path / "pictures/1.jpg")
    (example,) = opened("coco", tmp_path, file="dataset_flickr8k.json", images="pictures").examples(
        "captioning", "val"
    )
    assert (example.id, example.images) == ("3", ("pictures/1.jpg",))


def test_easy_vqa_equals_the_published_set():
    data = load_spec("easy_vqa").open()
    both = {split: data.examples("vqa", split) for split in data.splits()}
    assert {split: (len(e), len({x.images for x in e})) for split, e in both.items()} == {
        "train": (38575, 4000),
        "test": (9673, 1000),
    }
    for split, yes_no in (("train", 28407), ("test", 7136)):  # from the README of the package
        assert len({x.answers for x in both[split]}) == 13
        assert sum(x.kind == "yes_no" for x in both[split]) == yes_no
        assert {x.kind for x in both[split]} == {"yes_no", "color", "shape"}
    assert data.image(both["test"][0].images[0]).shape == (64, 64, 3)
    assert data.fingerprint() == "6cbde25dd021"


def test_easy_vqa_names_its_package_when_it_is_absent(monkeypatch):
    monkeypatch.setattr("vlpeft.benchmark.core.libraries.easy_vqa.find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'vlpeft\[quickstart\]'"):
        load_spec("easy_vqa").open().examples("vqa", "train")


def test_every_image_of_every_split_decodes_and_ids_are_unique(sample):
    data = opened(*sample)
    for split in data.splits():
        examples = data.examples(data.tasks[0], split)
        assert len({e.id for e in examples}) == len(examples)
        for image in {image for example in examples for image in example.images}:
            got = read(data, image)
            assert (got.shape, got.dtype) == (
                ((49, 2048), np.float32) if image.endswith(".h5") else ((2, 3, 3), np.uint8)
            )
            assert data.image_stamp(image)


def test_image_folders_are_listed_once_and_no_image_is_looked_up(sample, monkeypatch):
    name, root = sample
    data, listed, looked_up, scandir, stat = opened(name, root), [], [], os.scandir, os.stat
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
        patch.setattr(
            os, "stat", lambda path, **options: looked_up.append(path) or stat(path, **options)
        )
        data.examples(data.tasks[0], "train")
    assert len(listed) == len(set(listed)) == (2 if name in ("coco", "vqav2_karpathy") else 1)
    assert looked_up == []


# Identity and fingerprint


def test_moving_the_data_keeps_identity_and_fingerprint(sample, tmp_path):
    name, root = sample
    spec = load_spec(name)
    before = opened(name, root).fingerprint()
    moved = DatasetSpec(
        spec.name, spec.format, spec.settings, str(shutil.move(root, tmp_path / "elsewhere"))
    )
    assert moved.open().fingerprint() == before
    assert moved.identity() == spec.identity()
    assert str(tmp_path) not in json.dumps(moved.identity())


def test_one_changed_letter_in_any_file_changes_the_fingerprint(sample):
    name, root = sample
    seen = {opened(name, root).fingerprint()}
    for path in json_files(root):
        path.write_bytes(path.read_bytes().replace(b"a", b"o", 1))
        seen.add(opened(name, root).fingerprint())
    assert len(seen) == 1 + len(json_files(root))
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in seen)


@given(st.lists(st.binary(max_size=8), min_size=2, max_size=2, unique=True))
@settings(max_examples=25, deadline=None)
def test_the_fingerprint_depends_on_which_file_has_which_content(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("data")
    for name, content in zip("ab", contents, strict=True):
        (folder / name).write_bytes(content)
    straight = content_fingerprint({"train": folder / "a", "val": folder / "b"})
    assert straight == content_fingerprint({"val": folder / "b", "train": folder / "a"})
    assert straight != content_fingerprint({"train": folder / "b", "val": folder / "a"})


# Bad data in any format


def refused(name: str, root: Path, split: str = "train") -> str:
    data = opened(name, root)
    with pytest.raises(DataError) as caught:
        data.examples(data.tasks[0], split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_split_and_task_suggest_a_known_one(sample):
    data = opened(*sample)
    assert "did you mean 'train'" in refused(*sample, split="trian")
    with pytest.raises(DataError, match=r"does not serve the task 'sorting'; known: "):
        data.examples("sorting", "train")


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "empty", "not text", "wrong top level", "folder"]
)
def test_a_damaged_json_is_named_with_a_fix(sample, damage):
    name, root = sample
    path = next(p for p in json_files(root) if name != "easy_vqa" or p.parent.name == "train")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        new = {
            "truncated": content[:-9],
            "empty": b"",
            "not text": b"\xff\xfe\xff",
            "wrong top level": b'{"a": []}',
        }
        path.write_bytes(new[damage])
    message = refused(name, root)
    assert str(path) in message
    assert ";" in message or "again" in message
    if damage in ("missing", "folder"):
        with pytest.raises(
            DataError, match="does not exist" if damage == "missing" else "cannot read"
        ):
            opened(name, root).fingerprint()


def test_a_missing_image_is_found_when_examples_are_listed(sample):
    name, root = sample
    data = opened(name, root)
    gone = root / data.examples(data.tasks[0], "train")[0].images[-1]
    gone.unlink()
    message = refused(name, root)
    assert str(gone.parent) in message
    assert gone.name in message
    assert "1 missing" in message
    shutil.rmtree(gone.parent)
    assert f"cannot list the image folder {gone.parent}" in refused(name, root)


def test_images_that_do_not_decode_are_named(sample):
    name, root = sample
    data = opened(name, root)
    image = data.examples(data.tasks[0], "train")[0].images[0]
    path = root / image
    content = path.read_bytes()
    for damaged in (b"", b"not an image", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot (decode image|read features)") as caught:
            read(data, image)
        assert path.name in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        read(data, image)


# Bad records, by format

VQA_Q, VQA_A = (
    "v2_OpenEnded_mscoco_train2014_questions.json",
    "v2_mscoco_train2014_annotations.json",
)
CAPTIONS, KARPATHY, EASY = (
    "annotations/captions_train2014.json",
    "dataset_coco.json",
    "train/questions.json",
)

BAD_RECORDS = {
    "question without annotation": (
        "vqav2",
        VQA_A,
        lambda c: c["annotations"].pop(),
        "question_id 9000 is not in",
    ),
    "annotation without question": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"].pop(),
        "question_id 9001 is not in",
    ),
    "no answers": (
        "vqav2",
        VQA_A,
        lambda c: c["annotations"][0].update(answers=[]),
        "question_id 9001: has no answers",
    ),
    "answer is not text": (
        "vqav2",
        VQA_A,
        lambda c: c["annotations"][0].update(answers=[{"answer": 2}]),
        "9001: answers: 'answer' must be str",
    ),
    "question twice": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"].append(c["questions"][0]),
        "question_id 9000 occurs twice",
    ),
    "annotation twice": (
        "vqav2",
        VQA_A,
        lambda c: c["annotations"].append(c["annotations"][0]),
        "question_id 9001 occurs twice",
    ),
    "no question text": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"][1].pop("question"),
        r"questions\[1\]: 'question' is missing",
    ),
    "id is true": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"][1].update(image_id=True),
        "'image_id' must be int or str, found bool",
    ),
    "id does not fit": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"][1].update(image_id="9"),
        "image_id '9' does not fit the pattern",
    ),
    "no questions": ("vqav2", VQA_Q, lambda c: c.update(questions=[]), "'questions' is empty"),
    "record is not an object": (
        "vqav2",
        VQA_Q,
        lambda c: c["questions"].append(3),
        r"questions\[2\]: expected an object",
    ),
    "caption of no image": (
        "coco_captions2014",
        CAPTIONS,
        lambda c: c["images"].pop(),
        "image_id 25 has a caption but is not",
    ),
    "image of no caption": (
        "coco_captions2014",
        CAPTIONS,
        lambda c: c["annotations"].pop(0),
        "image id 25 has no caption",
    ),
    "image twice": (
        "coco_captions2014",
        CAPTIONS,
        lambda c: c["images"].append(c["images"][0]),
        "id 9 occurs twice",
    ),
    "caption is null": (
        "coco_captions2014",
        CAPTIONS,
        lambda c: c["annotations"][0].update(caption=None),
        "'caption' must be str",
    ),
    "no sentences": (
        "coco",
        KARPATHY,
        lambda c: c["images"][1].update(sentences=[]),
        "image 1: has no sentences",
    ),
    "sentence without raw": (
        "coco",
        KARPATHY,
        lambda c: c["images"][1]["sentences"][0].pop("raw"),
        "image 1: sentences: 'raw' is missing",
    ),
    "split misspelt": (
        "coco",
        KARPATHY,
        lambda c: c["images"][1].update(split="trian"),
        "unknown split 'trian'; did you mean 'train'",
    ),
    "cocoid twice": (
        "coco",
        KARPATHY,
        lambda c: c["images"][1].update(cocoid=0),
        "cocoid 0 occurs twice",
    ),
    "no id": (
        "coco",
        KARPATHY,
        lambda c: c["images"][1].pop("cocoid") and c["images"][1].pop("imgid"),
        r"images\[1\]: 'imgid' is missing",
    ),
    "split is absent": (
        "coco",
        KARPATHY,
        lambda c: [i.update(split="val") for i in c["images"]],
        "no image is marked 'train'",
    ),
    "answer not of the 13": (
        "easy_vqa",
        EASY,
        lambda c: c.append(["what?", "pink", 0]),
        "train/3: expected",
    ),
    "row cut": ("easy_vqa", EASY, lambda c: c.append(["what?", "blue"]), "train/3: expected"),
    "no rows": ("easy_vqa", EASY, lambda c: c.clear(), "expected a list of rows"),
}


@pytest.mark.parametrize("case", sorted(BAD_RECORDS))
def test_a_bad_record_is_named(tmp_path, case):
    name, file, change, expected = BAD_RECORDS[case]
    write_sample(name, tmp_path)
    edit(tmp_path / file, change)
    data = opened(name, tmp_path)
    with pytest.raises(DataError, match=expected) as caught:
        data.examples(data.tasks[0], "train")
    assert str(tmp_path / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_json_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("data") / "any.json"
    for value in (content, {"rows": content}, {"rows": [content]}):
        write(path, value)
        try:
            outcome = {type(row["id"]) for row in read_rows(path, "rows", id=int)}
        except DataError as error:
            outcome = str(error)
        assert outcome == {int} or str(path) in outcome


@pytest.mark.parametrize(
    "pattern",
    ["x.jpg", "{image}.jpg", "{}.jpg", "{image_id:z}.jpg", "a/{image_id}.jpg", "{image_id"],
)
def test_an_impossible_pattern_is_refused_when_the_dataset_is_opened(tmp_path, pattern):
    files = json.loads(json.dumps(load_spec("vqav2").settings["files"]))
    files["val"]["pattern"] = pattern
    with pytest.raises(UserError, match=r"files\.val: pattern"):
        opened("vqav2", tmp_path, files=files)


# Images


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_colour_mode_decodes_as_plain_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image = Image.linear_gradient("L").resize((5, 4)).convert("RGB").convert(mode)
    image.save(path)
    pixels = decode_image(path)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((4, 5, 3), np.uint8, True)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_and_palette_transparency_does_not_warn(tmp_path):
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "alpha.png")
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    for name in ("alpha.png", "palette.png"):
        assert decode_image(tmp_path / name).reshape(-1, 3).tolist() == [[10, 20, 30]] * 4


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (8, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg").shape == (2, 8, 3)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    picture(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(DataError, match=r"bomb\.png \(DecompressionBombError"):
        decode_image(tmp_path / "bomb.png")


@given(st.sampled_from(["PNG", "JPEG", "GIF"]), st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_images_decode_or_are_refused(tmp_path_factory, kind, data):
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("data") / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged header may claim gigabytes
        try:
            outcome = decode_image(path).shape[2:]
        except DataError as error:
            outcome = str(error)
    assert outcome == (3,) or str(path) in outcome


# Names, YAML files and roots


def test_shipped_datasets_are_listed_with_their_tasks():
    assert set(SAMPLES) <= set(dataset_names())
    cards = {name: load_card(name) for name in SAMPLES}
    tasks = {
        "coco": "captioning",
        "textcaps": "captioning",
        "vizwiz_caps": "captioning",
        "snli_ve": "entailment",
        "nlvr2": "nlvr2",
    }
    assert {name: card.tasks for name, card in cards.items()} == {
        name: (next((task for of, task in tasks.items() if name.startswith(of)), "vqa"),)
        for name in SAMPLES
    }
    assert all(
        card.summary and card.licence and card.homepage.startswith("https://")
        for card in cards.values()
    )
    assert all(load_spec(name).tasks == card.tasks for name, card in cards.items())


def test_listing_imports_neither_torch_nor_a_format():
    code = (
        "import sys, vlpeft.benchmark.datasets as d; "
        "[d.load_card(n).tasks for n in d.dataset_names()]"
    )
    code += "; assert not {'torch', 'PIL', 'vlpeft.benchmark.datasets.vqav2'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=120
    )


def test_an_unknown_dataset_suggests_the_nearest():
    with pytest.raises(UserError, match="unknown dataset 'vqa2'; did you mean 'vqav2'"):
        load_spec("vqa2")


def test_shipped_data_is_looked_for_below_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("VLPEFT_DATA", str(tmp_path))
    assert load_spec("vqav2").root == str(tmp_path / "vqav2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLPEFT_DATA", "here")
    assert load_spec("vqav2").root == str(tmp_path / "here/vqav2")
    monkeypatch.delenv("VLPEFT_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_spec("vqav2").root == str(tmp_path / ".cache/vlpeft/data/vqav2")
    assert load_spec("easy_vqa").root == ""


@pytest.mark.parametrize(
    ("line", "root"),
    [
        ("", "{own}"),
        ("root: data/here", "{own}/data/here"),
        ("root: /data", "/data"),
        ('root: ""', ""),
    ],
)
def test_the_root_of_a_users_yaml_is_relative_to_it(tmp_path, monkeypatch, line, root):
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text(f"format: karpathy\nfile: a.json\n{line}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    spec = load_spec("own/mine.yaml")
    assert (spec.name, spec.root) == ("mine", root.format(own=own))
    assert spec.settings == {"file": "a.json", "images": "", "restval_in_train": True}
    assert spec.identity() == {"name": "mine", "format": "karpathy", "settings": spec.settings}


def test_spelling_out_a_default_keeps_the_identity(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.yaml").write_text("format: karpathy\nfile: a.json\n", encoding="utf-8")
    (tmp_path / "x.yaml").write_text(
        "images: ''\nsummary: other\nfile: a.json\nformat: karpathy\n", encoding="utf-8"
    )
    assert (
        load_spec(str(tmp_path / "x.yaml")).identity()
        == load_spec(str(tmp_path / "a/x.yaml")).identity()
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file: a.json", "'format' is required"),
        ("format: karpaty\nfile: a.json", "unknown data format 'karpaty'; did you mean 'karpathy'"),
        ("format: karpathy", "'file' is required"),
        ("format: karpathy\nfiel: a.json\nfile: b.json", "unknown key 'fiel'; did you mean 'file'"),
        ("format: karpathy\nfile: a.json\nrestval_in_train: 1", "restval_in_train: "),
        ("format: karpathy\nfile: a.json\nroot: 3", "root: "),
        ("format: karpathy\nfile: a.json\nname: x", "unknown key 'name'"),
        ("format: [karpathy]", "format: "),
    ],
)
def test_a_bad_yaml_names_itself_and_the_key(tmp_path, text, expected):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_spec(str(path))
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
