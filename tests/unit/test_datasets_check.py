"""`vlpeft data check` on whole, short, damaged and missing data, and the fixes that it names."""

import json
from pathlib import Path

import pytest

from tests.samples import SAMPLES, write, write_sample
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.datasets import load_card
from vlpeft.benchmark.datasets.fetch.check import CheckReport, check, find_dataset, report_text


def quiet(*_):
    pass


def own(folder: Path, name: str, more: str = "") -> str:
    """Write a user's YAML file for a shipped sample, without published numbers."""
    spec = find_dataset(name, folder)
    path = folder / "own.yaml"
    path.write_text(
        json.dumps({"format": spec.format, **spec.settings})[:-1]
        + (f", {more}" if more else "")
        + "}"
    )
    return str(path)


@pytest.fixture
def said(capsys):
    """Run the command; return its code, stdout and the lines of stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err.splitlines()

    return run


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_whole_data_pass_with_every_image_decoded(tmp_path, name):
    write_sample(name, tmp_path)
    steps = []
    report = check(own(tmp_path, name), None, None, True, lambda *step: steps.append(step))
    assert report.problems == report.to_get == ()
    assert all(split.counts["examples"] and split.counts["images"] for split in report.splits)
    assert [step for step in steps if step[1] == step[2]] == [
        (f"decode images of {split.split}", split.counts["images"], split.counts["images"])
        for split in report.splits
    ]


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if load_card(name).expected))
def test_data_of_another_size_than_published_are_refused(tmp_path, name):
    write_sample(name, tmp_path)
    report = check(name, tmp_path, None, False, quiet)
    wrong = {problem.split(":")[0] for problem in report.problems}
    assert wrong == set(load_card(name).expected)
    assert all(
        "are published; fetch the split's files again" in problem for problem in report.problems
    )


def test_numbers_as_published_pass(tmp_path, said):
    write_sample("snli_ve", tmp_path)
    code, out, err = said(
        "check", own(tmp_path, "snli_ve", '"expected": {"dev": {"examples": 3, "images": 1}}')
    )
    assert (code, err) == (0, [])
    assert "dev (entailment): 3 examples, 1 images, 3 answers: as published" in out
    assert "train (entailment): 3 examples, 1 images, 3 answers: ok, no published numbers" in out


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        (
            '{"dve": {"examples": 3}}',
            "expected: dataset 'own' has no split 'dve'; did you mean 'dev'?",
        ),
        (
            '{"dev": {"exmples": 3}}',
            "expected: dev: 'exmples' is not counted here; did you mean 'examples'?",
        ),
        (
            '{"dev": {"examples": 4}}',
            "dev: 3 examples, 4 are published; fetch the split's files again",
        ),
    ],
)
def test_each_difference_is_one_line(tmp_path, said, expected, problem):
    write_sample("snli_ve", tmp_path)
    code, _, err = said("check", own(tmp_path, "snli_ve", f'"expected": {expected}'))
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith(f"vlpeft: error: {problem}")


def test_broken_images_are_named_with_their_examples(tmp_path, said):
    write_sample("nlvr2", tmp_path)
    yaml = own(tmp_path, "nlvr2")
    assert said("check", yaml)[0] == 0
    broken = tmp_path / "images/dev/dev-850-0-img1.png"
    broken.write_bytes(broken.read_bytes()[:30])
    assert said("check", yaml)[0] == 0, "seen only when images are decoded"
    code, out, err = said("check", yaml, "--images", "--split", "dev")
    assert code == 2
    errors = [line for line in err if line.startswith("vlpeft: error")]
    assert len(errors) == 1
    assert f"dev: example dev-850-0-0: cannot decode image {broken}" in errors[0]
    assert "WRONG" in out
    assert "train" not in out


def test_many_broken_images_are_counted(tmp_path):
    rows = [{"image": f"{i}.jpg", "question": "?", "answers": [{"answer": "a"}]} for i in range(13)]
    write(tmp_path / "Annotations/train.json", rows)
    for i in range(13):
        (tmp_path / f"train/{i}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"train/{i}.jpg").write_bytes(b"no image")
    report = check("vizwiz_vqa", tmp_path, "train", True, quiet)
    assert len(report.problems) == 11
    assert report.problems[-1] == "train: 3 more images cannot be read; unpack the images again"


def test_broken_features_are_found(tmp_path):
    write_sample("nlvr2_clip_bart", tmp_path)
    path = next(tmp_path.rglob("train-*-img0.h5"))
    path.write_bytes(path.read_bytes()[:100])
    report = check(own(tmp_path, "nlvr2_clip_bart"), None, "train", True, quiet)
    assert len(report.problems) == 1
    assert f"train: example train-850-0-0: cannot read features {path}" in report.problems[0]


def test_missing_data_come_with_where_to_get_them(tmp_path, said):
    code, out, err = said("check", "snli_ve", "--path", tmp_path)
    assert code == 2
    assert out.count("cannot be read") == 3
    assert (
        f"vlpeft: error: {tmp_path}/snli_ve_train.jsonl does not exist; put the file there"
        in err[0]
    )
    assert "data check" not in err[0]  # the command as it was typed
    get = [line for line in err if line.startswith("vlpeft: to get: ")]
    assert len(get) == 4
    assert (
        f"snli_ve_dev.jsonl: `vlpeft data download snli_ve --path {tmp_path}` fetches https://"
        in get[1]
    )
    assert (
        "the Flickr30k images cannot be fetched by program; fill in the request form at https://"
        in get[3]
    )
    assert get[3].endswith(f"put flickr30k-images at {tmp_path}/flickr30k-images")


def test_only_missing_files_are_listed(tmp_path, said):
    write_sample("snli_ve", tmp_path)
    (tmp_path / "snli_ve_test.jsonl").unlink()
    _, _, err = said("check", "snli_ve", "--path", tmp_path, "--split", "test")
    assert [line.split(":")[2].strip() for line in err if line.startswith("vlpeft: to get")] == [
        "snli_ve_test.jsonl"
    ]


def test_ids_that_occur_in_two_places_are_found(tmp_path, monkeypatch):
    write_sample("textcaps", tmp_path)
    spec = find_dataset("textcaps", tmp_path)
    cls, real = type(spec.open()), type(spec.open()).examples
    monkeypatch.setattr(cls, "examples", lambda self, task, split: [*real(self, task, split)] * 2)
    report = check(own(tmp_path, "textcaps"), None, "val", False, quiet)
    assert report.problems == ("val: id valab occurs twice, 2 ids do; keep one record of each",)


def test_a_published_checksum_is_compared(tmp_path):
    write_sample("textcaps", tmp_path)
    source = '"downloads": [{"file": "TextCaps_0.1_val.json", "url": "https://x", %s}]'
    size = (tmp_path / "TextCaps_0.1_val.json").stat().st_size
    for published, wrong in (
        (f'"md5": "{"0" * 32}"', "its md5 is "),
        (f'"sha256": "{"0" * 64}"', "its sha256 is "),
        ('"bytes": 7', f"it has {size:,} bytes, 7 are published"),
        (f'"bytes": {size}', ""),
    ):
        problems = check(
            own(tmp_path, "textcaps", source % published), None, None, False, quiet
        ).problems
        assert [
            wrong in problem and str(tmp_path / "TextCaps_0.1_val.json") in problem
            for problem in problems
        ] == [True] * bool(wrong)


def test_the_report_as_json(tmp_path, said):
    write_sample("coco", tmp_path)
    code, out, _ = said("check", "coco", "--path", tmp_path, "--json", "--split", "val")
    report = json.loads(out)
    assert code == 2
    assert report["dataset"] == "coco"
    assert report["root"] == str(tmp_path)
    assert report["splits"][0]["counts"] == {"examples": 1, "images": 1, "answers": 2}
    assert report["splits"][0]["expected"] == {"examples": 5000, "answers": 25010}
    assert len(report["splits"][0]["problems"]) == 2


BAD = {  # one record of each task that no reader accepts: file, text in it, replacement
    "vqav2_karpathy": (
        "vqa",
        "vit_roberta",
        "karpathy_train.json",
        '"question_id": 1000',
        '"question_id": 2000',
    ),
    "vizwiz_vqa": (
        "vqa",
        "vit_roberta",
        "Annotations/train.json",
        '"question": "What is can 0?"',
        '"question": null',
    ),
    "gqa": ("vqa", "vit_roberta", "train_balanced_questions.json", '"answer": "no"', '"answer": 0'),
    "textcaps": (
        "captioning",
        "vit_gpt2",
        "TextCaps_0.1_train.json",
        '"image_id": "traincd"',
        '"image_id": "x"',
    ),
    "vizwiz_caps": (
        "captioning",
        "vit_gpt2",
        "annotations/train.json",
        '"is_rejected": false',
        '"is_rejected": 0',
    ),
    "snli_ve": (
        "entailment",
        "clip_bart",
        "snli_ve_train.jsonl",
        '"gold_label": "neutral"',
        '"gold_label": "-"',
    ),
    "nlvr2": ("nlvr2", "clip_bart", "train.json", '"label": "True"', '"label": "Yes"'),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_sweep_reports_the_same_as_the_check(tmp_path, capsys, said, name):
    task, backbone, file, old, new = BAD[name]
    path = write_sample(name, tmp_path) / file
    path.write_text(path.read_text().replace(old, new, 1))
    dataset = own(tmp_path, name)
    split = find_dataset(name, tmp_path).open().splits()[1]
    (tmp_path / "one.yaml").write_text(
        f"protocol: {{lr: 1e-3, steps: 1, eval_split: {split}}}\nseeds: [0]\nmethods: [bitfit]\n"
        f"tasks: [{{task: {task}, dataset: {dataset}}}]\n"
        f"backbones: [{{name: {backbone}, text: tiny, vision: tiny}}]\n"
    )
    code, _, lines = said("check", dataset, "--split", "train")
    assert code == 2
    assert str(path) in lines[0]
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "sweep",
                str(tmp_path / "one.yaml"),
                "--root",
                str(tmp_path / "out"),
                "--on",
                "inline",
                "--device",
                "cpu",
            ]
        )
    assert (ended.value.code, capsys.readouterr().err.splitlines()) == (2, lines)
    assert not (tmp_path / "out").exists()


def test_generated_data_pass(said):
    code, out, err = said("check", "easy_vqa")
    assert (code, err) == (0, [])
    assert out.startswith("easy_vqa: no folder\n")


def test_unknown_names_suggest_the_nearest(tmp_path, said):
    assert said("check", "vqav")[2] == [
        "vlpeft: error: unknown dataset 'vqav'; did you mean 'vqav2'?"
    ]
    code, _, err = said("check", "coco", "--split", "vla")
    assert (code, err) == (
        2,
        ["vlpeft: error: --split vla: dataset 'coco' has no such split; did you mean 'val'?"],
    )
    with pytest.raises(UserError, match="unknown dataset"):
        find_dataset("nothing", tmp_path)


def test_a_line_break_in_a_folder_is_not_printed_as_one() -> None:
    report = CheckReport("mine", "a\nvlpeft: error: forged", (), (), ())
    assert report_text(report).splitlines() == ["mine: a\\nvlpeft: error: forged"]


def test_a_dataset_without_splits_is_not_in_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{format: vqav2, files: {}}")
    with pytest.raises(UserError, match="dataset 'mine' has no split"):
        check(str(tmp_path / "mine.yaml"), None, None, images=False, watch=quiet)
