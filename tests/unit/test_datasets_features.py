"""From feature files to a trained model: how features are used, and who cannot use them."""

import json

import h5py
import numpy as np
import pytest
import torch

from tests.conftest import Case
from tests.samples import CLIP, features, write_sample
from vlpeft.benchmark.backbones.clip_bart import CLIPBart
from vlpeft.benchmark.backbones.vision import FeatureTower, vision_tower
from vlpeft.benchmark.cli import main as cli
from vlpeft.benchmark.core.errors import DataError, UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.datasets.fetch.check import find_dataset
from vlpeft.benchmark.run.features import visual_inputs

SWEEP = """
protocol: {{lr: 1e-3, steps: 2, batch_size: 2, answering: generate, {more}}}
tasks: [{tasks}]
seeds: [0]
backbones: [{backbones}]
methods: [{{name: lora, rank: 2}}]
"""


def built(width=2048):
    return CLIPBart(text="tiny", vision=f"features:{width}").build([], Protocol(lr=1e-3, steps=1))


def own(folder, name):
    spec = find_dataset(name, folder)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"format": spec.format, **spec.settings}))
    return path


@pytest.fixture
def pairs(tmp_path):
    """Return NLVR2's sample, in which every image has features of its own."""
    write_sample("nlvr2_clip_bart", tmp_path)
    for number, path in enumerate(sorted((tmp_path / "nlvr" / CLIP).iterdir())):
        features(path, number / 8)
    data = find_dataset("nlvr2_clip_bart", tmp_path).open()
    return data, [example.images for example in data.examples("nlvr2", "train")]


def test_a_model_gets_the_files_numbers_image_by_image(pairs, tmp_path):
    data, ids = pairs
    given = visual_inputs(
        built(), data, [image for pair in ids for image in pair], False, tmp_path / "cache"
    )(ids)
    assert (tuple(given.shape), given.dtype) == ((2, 2, 49, 2048), torch.float32)
    for row, pair in zip(given, ids, strict=True):
        for image, name in zip(row, pair, strict=True):
            assert torch.equal(image, torch.from_numpy(data.features(name)))
    assert not torch.equal(given[0, 0], given[0, 1])
    assert not (tmp_path / "cache").exists(), "features are read where they lie"


def test_the_model_has_no_tower_and_uses_both_images(pairs, tmp_path):
    data, ids = pairs
    torch.manual_seed(0)  # of its visual embedding
    backbone = built().eval()
    assert list(backbone.vision.parameters()) == []
    given = visual_inputs(backbone, data, [], False, tmp_path)(ids[:1])
    assert backbone.embed(given).shape[1] == 2 * 36
    backbone.requires_grad_(False)
    losses = [
        float(backbone.loss(each, ["a"], [{"true": 1.0}])[0])
        for each in (given, given.flip(1), given * 0)
    ]
    assert len(set(losses)) == 3


def test_features_of_another_width_or_grid_are_named(pairs, tmp_path):
    data, ids = pairs
    with pytest.raises(
        DataError, match=r"img0\.h5: features of width 2048, not 512; set `vision: features:2048`"
    ):
        visual_inputs(built(512), data, [], False, tmp_path)(ids)
    path = tmp_path / ids[0][1]
    with h5py.File(path, "w") as file:
        file[f"{path.stem}/features"] = np.zeros((36, 2048), np.float16)
    with pytest.raises(
        DataError, match=r"img1\.h5: another number of tokens than image .*img0\.h5"
    ):
        visual_inputs(built(), data, [], False, tmp_path)(ids)


def test_towers_and_zeroed_images_are_refused(pairs, tmp_path):
    data, _ = pairs
    with pytest.raises(UserError, match="clip_bart needs images, but this dataset holds features"):
        visual_inputs(Case("lora", "clip_bart").fresh(), data, [], False, tmp_path)
    with pytest.raises(UserError, match="images: zeroed needs images"):
        visual_inputs(built(), data, [], True, tmp_path)


def test_random_features_have_the_shape_of_the_release():
    tower = built().vision
    assert tuple(tower(tower.random_inputs(3)).shape) == (3, 49, 2048)


@pytest.mark.parametrize(
    "source", ["features:", "features:x", "features:0", "features:-3", "features:1.5"]
)
def test_a_width_must_be_given(source):
    with pytest.raises(UserError, match=r"write features:WIDTH, as in features:2048"):
        FeatureTower(source)


def test_methods_that_need_a_pooled_vector_are_refused():
    with pytest.raises(
        UserError, match="vision: features:2048: this backbone needs a pooled vector"
    ):
        vision_tower("features:2048", "mean", tokens=True)


def test_full_finetuning_of_no_tower_is_refused():
    case = Case("full_finetuning", "clip_bart", {"vision": True}, {"vision": "features:2048"})
    assert case.refusal() == "vision: clip_bart has no vision tower here; leave it out"


def plan(capsys, path, code=0):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(path), "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return json.loads(out) if code == 0 else err


def test_planning_reports_unreadable_combinations(tmp_path, capsys):
    write_sample("vqav2_clip_bart", tmp_path / "f")
    write_sample("vqav2", tmp_path / "p")
    features, pixels = own(tmp_path / "f", "vqav2_clip_bart"), own(tmp_path / "p", "vqav2")
    tasks = f"{{task: vqa, dataset: {features}}}, {{task: vqa, dataset: {pixels}}}"
    towers = (
        "{name: clip_bart, text: tiny, vision: tiny, label: tower}, "
        "{name: clip_bart, text: tiny, vision: features:2048, label: none}"
    )
    path = tmp_path / "one.yaml"
    path.write_text(SWEEP.format(tasks=tasks, backbones=towers, more="eval_split: val"))
    reasons = {(row["backbone"], row["dataset"]): row["skipped"] for row in plan(capsys, path)}
    assert reasons == {
        (
            "tower",
            "vqav2_clip_bart",
        ): "clip_bart needs images here, and vqav2_clip_bart holds features",
        ("tower", "vqav2"): "",
        ("none", "vqav2_clip_bart"): "",
        ("none", "vqav2"): "clip_bart needs features here, and vqav2 holds images",
    }


def test_a_cell_runs_on_features(tmp_path, capsys):
    write_sample("nlvr2_clip_bart", tmp_path)
    path = tmp_path / "one.yaml"
    tasks = f"{{task: nlvr2, dataset: {own(tmp_path, 'nlvr2_clip_bart')}}}"
    path.write_text(
        SWEEP.format(
            tasks=tasks, backbones="{name: clip_bart, text: tiny, vision: 'features:2048'}", more=""
        )
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "sweep",
                str(path),
                "--root",
                str(tmp_path / "out"),
                "--on",
                "inline",
                "--device",
                "cpu",
                "--threads",
                "1",
            ]
        )
    assert ended.value.code == 0, capsys.readouterr().err
    (record,) = (
        json.loads(found.read_text()) for found in (tmp_path / "out").glob("cells/*/record.json")
    )
    assert set(record["metrics"]) == {"accuracy"}
