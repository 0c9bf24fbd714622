"""Damaged, odd and hostile data files: found by name, read right, or refused in one line."""

import json
import os
import threading
import unicodedata

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.samples import picture, write
from vlpeft.benchmark.cli.printing import print_json
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.datasets import load_spec
from vlpeft.benchmark.datasets.base import image_fingerprint, read_examples
from vlpeft.benchmark.datasets.hdf5 import read_features
from vlpeft.benchmark.datasets.image_files import decode_image
from vlpeft.benchmark.datasets.image_lookup import find_images
from vlpeft.benchmark.datasets.image_memory import ImageMemory
from vlpeft.benchmark.datasets.image_names import check_pattern
from vlpeft.benchmark.datasets.json_files import parse_json, read_json, read_lines
from vlpeft.benchmark.plan.sweep import SweepHandle

HALF = chr(0xD83D)  # the first half of a character beyond U+FFFF
COMPOSED = unicodedata.normalize("NFC", "café.jpg")
APART = unicodedata.normalize("NFD", "café.jpg")


def look(root, names, folders=("img",)):
    return find_images(root, folders, [(f"record {i}", name) for i, name in enumerate(names)])


# The look-up of images


@pytest.mark.parametrize(
    ("files", "names", "says"),
    [
        (["b/1.png"], ["a/1.png", "b/1.png"], "'a/1.png' is missing, and img/b/1.png is 'b/1.png'"),
        (["b/1.png"], ["b/1.png", "a/1.png"], "'a/1.png' is missing, and img/b/1.png is 'b/1.png'"),
        (["b/1.png"], ["1.png", "b/1.png"], "'b/1.png' and the image '1.png' are both img/b/1.png"),
        (["1.png"], ["1.png", "1.PNG"], "'1.PNG' is missing, and img/1.png is '1.png'"),
        (["a/1.png"], ["a/1.png", "x/a/1.png"], "'x/a/1.png' is missing"),
        ([APART], [COMPOSED, APART], "is missing, and img/"),
    ],
)
def test_two_names_never_get_one_image(tmp_path, files, names, says):
    for file in files:
        picture(tmp_path / "img" / file)
    with pytest.raises(DataError, match="record 1") as error:
        look(tmp_path, names)
    assert says in str(error.value)
    assert len(look(tmp_path, [names[0]] * 2)) == 1


def test_a_dataset_names_at_least_one_folder_of_images(tmp_path):
    with pytest.raises(DataError, match="no folder of images is named; add one to `images`"):
        look(tmp_path, ["1.png"], folders=())


def test_no_other_program_decodes_an_image(tmp_path):
    """Pillow hands EPS to Ghostscript, also from a file with another ending."""
    path = tmp_path / "1.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(DataError, match="cannot identify image file"):
        decode_image(path)


@pytest.mark.parametrize(
    ("files", "names", "found"),
    [
        (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["1.png", "a/1.png"], ["1.png"], ["1.png"]),
        (["a/1.png"], ["./a//1.png"], ["a/1.png"]),
        (["a/b/c/d/1.png"], ["a/b/c/d/1.png"], ["a/b/c/d/1.png"]),
        (["a/1.png"], ["1.png"], ["a/1.png"]),
        (["1.png"], ["val2014/1.png"], ["1.png"]),
        (["x/a/1.png", "x/b/1.png"], ["b/1.png"], ["x/b/1.png"]),
        ([APART], [COMPOSED], [APART]),
        ([COMPOSED], [APART], [COMPOSED]),
        (["1.JPG"], ["1.jpg"], ["1.JPG"]),
        (["1.JPG", "1.jpg"], ["1.jpg"], ["1.jpg"]),
    ],
)
def test_an_image_is_found_by_its_path_and_else_by_a_unique_name(tmp_path, files, names, found):
    for file in files:
        picture(tmp_path / "img" / file.replace("JPG", "png"))
        (tmp_path / "img" / file.replace("JPG", "png")).rename(tmp_path / "img" / file)
    assert list(look(tmp_path, names).values()) == [f"img/{place}" for place in found]


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        (["a/1.png", "b/1.png"], "1.png", ("ambiguous", "img/a/1.png", "img/b/1.png")),
        (["a/1.png", "b/2.png"], "b/1.png", ("img/b/1.png is missing",)),
        (["1.JPG", "1.Jpg"], "1.jpg", ("ambiguous", "img/1.JPG", "img/1.Jpg")),
        (["Cat.jpg"], "cat.jpg", ("is missing", "img/Cat.jpg differs in upper and lower case")),
        (["a/1.png"], "a\\1.png", ("is missing", "written with /")),
        (["1.png/2.png"], "1.png", ("is missing", "img/1.png is a folder")),
        (["1.png"], "../1.png", ("not below the image folder",)),
        (["1.png"], "/etc/passwd", ("not below the image folder",)),
        (["1.png"], "", ("not below the image folder",)),
        (["1.png"], "a" * 300, ("is missing",)),
        (["1.png"], "a/" * 10_000 + "b", ("File name too long",)),
        (["1.png"], "\ud83d/\0.png", ("cannot list",)),
    ],
)
def test_what_is_not_one_image_is_refused(tmp_path, files, name, words):
    for file in files:
        (tmp_path / "img" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "img" / file).touch()
    with pytest.raises(DataError) as caught:
        look(tmp_path, [name])
    message = str(caught.value)
    assert len(message) < 2000
    assert all(word in message for word in words), message


def test_one_file_is_not_given_to_two_paths(tmp_path):
    picture(tmp_path / "img/1.png")
    with pytest.raises(DataError, match=r"neither its image 'b/1\.png' nor 'a/1\.png' exists"):
        look(tmp_path, ["a/1.png", "b/1.png"])


def test_one_name_in_two_listed_folders_is_ambiguous(tmp_path):
    for folder in "ab":
        picture(tmp_path / folder / "1.png")
    with pytest.raises(DataError, match=r"a/1\.png and b/1\.png both fit"):
        look(tmp_path, ["1.png"], ("a", "b"))


def test_links_of_the_user_are_followed_and_loops_are_not(tmp_path):
    picture(tmp_path / "elsewhere/1.png")
    (tmp_path / "img").mkdir()
    (tmp_path / "img/sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "img/loop").symlink_to("loop")
    assert look(tmp_path, ["1.png"]) == {"1.png": "img/sub/1.png"}


@pytest.mark.parametrize("field", ["filepath", "filename"])
@pytest.mark.parametrize("outside", ["{root}/secret", "../../secret"])
def test_karpathys_paths_stay_below_the_image_folder(tmp_path, field, outside):
    picture(tmp_path / "secret/1.png")
    (tmp_path / "kar/im").mkdir(parents=True)
    place = outside.format(root=tmp_path)
    row = {"filename": "1.png", "filepath": place}
    if field == "filename":
        row = {"filename": f"{place}/1.png", "filepath": ""}
    row |= {"imgid": 1, "split": "test", "sentences": [{"raw": "a"}]}
    write(tmp_path / "kar/k.json", {"images": [row]})
    yaml = tmp_path / "kar/d.yaml"
    yaml.write_text("format: karpathy\nfile: k.json\nimages: im\n")
    with pytest.raises(DataError, match=r"k\.json: image 1: .*not below the image folder"):
        load_spec(str(yaml)).open().examples("captioning", "test")


@pytest.mark.parametrize("layout", ["blip", "vizwiz"])
def test_lists_of_questions_name_images_in_folders(tmp_path, layout):
    rows = []
    for scene in "ab":
        picture(tmp_path / "img" / scene / "1.png")
        row = {"question_id": scene, "image": f"{scene}/1.png", "question": "?", "answer": ["x"]}
        rows.append(row | {"answers": [{"answer": "x"}]})
    write(tmp_path / "q.json", rows)
    yaml = tmp_path / "d.yaml"
    files = "{test: {questions: [q.json], images: [img]}}"
    yaml.write_text(f"format: vqa_lists\nlayout: {layout}\nfiles: {files}\n")
    examples = load_spec(str(yaml)).open().examples("vqa", "test")
    assert [e.images for e in examples] == [("img/a/1.png",), ("img/b/1.png",)]


# Pixels


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_is_scaled(tmp_path, name):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    image = Image.fromarray(values)
    if name.endswith("pgm"):
        (tmp_path / name).write_bytes(b"P5 3 2 65535\n" + values.astype(">u2").tobytes())
    else:
        image.save(tmp_path / name)
    pixels = decode_image(tmp_path / name)
    assert pixels[..., 0].tolist() == (values >> 8).tolist()
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_range_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif has .* pixels, and the file does not name"):
        decode_image(tmp_path / "a.tif")


def test_a_large_image_is_converted_in_bands_without_a_difference(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for mode, channels in (("RGBA", 4), ("CMYK", 4), ("LA", 2)):
        image = Image.fromarray(rng.integers(0, 256, (7, 5, channels), np.uint8), mode)
        image.save(tmp_path / "a.tif")
        with monkeypatch.context() as patch:
            patch.setattr("vlpeft.benchmark.datasets.image_files.BAND", 12)
            pixels = decode_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_threads_share_the_memory_for_images():
    memory, most, lock = ImageMemory(10), [0], threading.Lock()

    def work() -> None:
        for _ in range(30):
            with memory.hold():
                with memory.reserve(4):
                    pass
                with lock:
                    most[0] = max(most[0], memory.used)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert (memory.used, most[0] <= 8) == (0, True)
    with memory.reserve(1000):
        assert memory.used == 1000, "an image larger than all is decoded alone"


def test_replaced_images_have_another_fingerprint(tmp_path):
    for name in "ab":
        picture(tmp_path / f"im/{name}.jpg")
    row = {"filename": "a.jpg", "imgid": 1, "split": "test", "sentences": [{"raw": "a"}]}
    write(tmp_path / "k.json", {"images": [row]})
    (tmp_path / "d.yaml").write_text("format: karpathy\nfile: k.json\nimages: im\n")
    data = load_spec(str(tmp_path / "d.yaml")).open()
    before = image_fingerprint(data, ["im/a.jpg", "im/b.jpg"])
    assert before == image_fingerprint(data, ["im/b.jpg", "im/a.jpg", "im/a.jpg"])
    os.utime(tmp_path / "im/a.jpg", (1, 1))
    touched = image_fingerprint(data, ["im/a.jpg", "im/b.jpg"])
    (tmp_path / "im/a.jpg").write_bytes(b"other")
    replaced = image_fingerprint(data, ["im/a.jpg", "im/b.jpg"])
    parts = [text.split("-") for text in (before, touched, replaced)]
    assert len({names for names, _, _ in parts}) == 1
    assert parts[0][1] == parts[1][1] != parts[2][1]
    assert parts[0][2] != parts[1][2]
    assert image_fingerprint(load_spec("shapes").open(), ["train/0"]) == ""


# Names and files


@pytest.mark.parametrize("spec", ["9999999999", "256", "0300d", "{image_id}", "." + "9" * 5000])
def test_a_pattern_with_a_large_width_is_refused(spec):
    with pytest.raises(ValueError, match="has a width of more than 255"):
        check_pattern(f"{{image_id:{spec}}}.jpg", "image_id")
    check_pattern("{image_id:012d}.jpg", "image_id")


@pytest.mark.parametrize("read", [read_json, read_lines, read_features, decode_image])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_odd_nodes_in_place_of_a_file_are_refused(tmp_path, read, kind):
    path = tmp_path / "a"
    {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda p: p.symlink_to("a")}[kind](path)
    with pytest.raises(DataError, match=r"cannot read .*/a: "):
        read(path)


# JSON


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (nested(100_000), "nested too deep"),
        (b'{"id": 7, "q": "a", "q": "b"}', r"key 'q' occurs twice.*'a' and 'b' \(id 7\)"),
        (b'{"a": {"1": {"x": 1}, "1": {"x": 2}}}', "key '1' occurs twice"),
        (b'"\xed\xa0\xbd"', "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
    ],
)
def test_json_that_means_nothing_is_refused(text, words):
    with pytest.raises(DataError, match=f"a.json.*{words}"):
        parse_json(text, "a.json")


def test_a_key_that_repeats_its_value_is_harmless():
    assert parse_json(b'{"q": [1], "q": [1]}', "a.json") == {"q": [1]}


def test_lines_may_have_a_byte_order_mark_and_blank_lines(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"x": 1}\r\n\r\n{"x": 2}\n\n  \n')
    assert read_lines(tmp_path / "a", x=int) == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize("where", ["question", "answer", "kind", "id"])
def test_half_of_a_character_is_found_before_training(tmp_path, where):
    half = dict.fromkeys([where], HALF)
    key = half.get("id", 1)
    question = {"question_id": key, "image_id": 1, "question": half.get("question", "?")}
    answers = [{"answer": half.get("answer", "a")}]
    annotation = {"question_id": key, "answers": answers, "answer_type": half.get("kind", "")}
    write(tmp_path / "q.json", {"questions": [question]})
    write(tmp_path / "a.json", {"annotations": [annotation]})
    picture(tmp_path / "im/1.png")
    files = "questions: q.json, annotations: a.json, images: im, pattern: '{image_id}.png'"
    (tmp_path / "d.yaml").write_text(f"format: vqav2\nfiles: {{val: {{{files}}}}}\n")
    data = load_spec(str(tmp_path / "d.yaml")).open()
    with pytest.raises(DataError, match=r"q\.json .*question_id .*holds half of a") as caught:
        read_examples(data, "vqa", "val")
    str(caught.value).encode()


def test_half_of_a_character_is_printed_as_json(capsys):
    print_json({"a": "\ud83d"})
    assert json.loads(capsys.readouterr().out) == {"a": "\ud83d"}


# Feature files


def huge(file):
    file.create_dataset("a/features", (1 << 40, 2048), "f2", chunks=(1, 2048))


def unwritten(file):
    file.create_dataset("a/features", (4, 8), "f2", chunks=(2, 8))[:2] = 1


def external(file):
    file["a/features"] = h5py.ExternalLink("other.h5", "x")


def outside(file):
    file.create_dataset("a/features", (4, 8), "f4", external=[("raw", 0, 128)])


def objects(file):
    file.create_dataset("a/features", data=[["x"]], dtype=h5py.string_dtype())


def group(file):
    file.create_group("a/features")


def overflow(file):
    file["a/features"] = np.full((4, 8), 1e300)


@pytest.mark.parametrize("make", [huge, unwritten, external, outside, objects, group, overflow])
def test_features_that_cannot_be_read_whole_are_refused(tmp_path, make):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(DataError, match=r"a\.h5.*(replace the file|in the file itself)"):
        read_features(tmp_path / "a.h5")


def test_damaged_feature_files_are_read_or_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/features"] = np.ones((4, 8), np.float16)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, 900, 3):
            content[place] = rng.choice([0, 255, rng.integers(256)])
        path.write_bytes(content)
        try:
            read_features(path)
        except DataError as error:
            refused += str(path) in str(error)
    assert refused > 30


def test_two_datasets_with_one_name_are_refused(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "d.yaml").write_text('format: shapes\nroot: ""\n')
    (tmp_path / "s.yaml").write_text(
        "protocol: {lr: 1e-3, steps: 1}\nmethods: [head_only]\n"
        "tasks: [{task: vqa, dataset: a/d.yaml}, {task: vqa, dataset: b/d.yaml}]\n"
        "backbones: [{name: vit_roberta, text: tiny, vision: tiny}]\n"
    )
    from vlpeft.benchmark.plan.grid import expand

    with pytest.raises(UserError, match=r"a/d\.yaml and .*b/d\.yaml are two datasets with one"):
        expand(SweepHandle(str(tmp_path / "s.yaml")))
