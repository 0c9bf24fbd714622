"""`vlpeft prefetch` against a local hub: fetched files load offline.

Missing files are found before jobs are submitted.
"""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.conftest import tiny
from tests.end_to_end.conftest import COMMAND, environment, main, write_one, write_vqav2
from tests.fake_hub import COMMIT, OTHER, FakeHub
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.backbones.fetching import NotHere, obtain, open_clip_choices, timm_choices
from vlpeft.benchmark.contract.backbone import TINY, WeightFiles
from vlpeft.benchmark.core.config import parse
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.plan.grid import expand
from vlpeft.benchmark.plan.prefetch import Found, require_weights, weight_files_of, weights
from vlpeft.benchmark.plan.sweep import SweepHandle

__all__ = ["main"]
BLIP = WeightFiles("some/blip", "blip", ("model", "pixels", "tokenizer"))
TEXT = WeightFiles("some/text", "roberta", ("model", "tokenizer"))
VISION = WeightFiles("some/vision", "vit", ("model", "pixels"))
IDS = "[{name: vit_roberta, text: some/text@pinned, vision: some/vision, prefix: none}]"


def folder_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a hub with an empty cache, and allow requests."""
    made = FakeHub()
    made.files = {
        f"some/{name}": folder_files(TINY / tower)
        for name, tower in (("text", "roberta"), ("vision", "vit"), ("blip", "blip"))
    }
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        made.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", made.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield made
    made.stop()


@pytest.fixture
def offline(monkeypatch):
    """Forbid requests to the hub from now on."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("each", [TEXT, VISION, BLIP], ids=lambda each: each.source)
def test_a_look_makes_no_request_and_a_fetch_fills_the_cache(hub, each, tmp_path) -> None:
    with pytest.raises(
        NotHere, match=f"weights '{each.source}' are not, or not all, in {tmp_path}/cache"
    ):
        obtain(each, fetch=False)
    assert hub.asked == []
    obtain(each, fetch=True)
    assert hub.asked
    hub.asked.clear()
    obtain(each, fetch=False)
    assert hub.asked == []


def test_fetched_files_build_offline(hub, offline) -> None:
    settings = {"text": "some/text@pinned", "vision": "some/vision", "prefix": "none"}
    config = parse(BACKBONES.load("vit_roberta"), settings, "test")
    for each in config.weight_files():
        obtain(each, fetch=True)
    hub.asked.clear()
    offline()
    made = config.build(["yes", "no"], Protocol(lr=1e-3, steps=1, max_input_tokens=12))
    assert hub.asked == []
    expected = load_file(TINY / "roberta" / "model.safetensors")
    assert torch.equal(
        made.text.embeddings.word_embeddings.weight, expected["embeddings.word_embeddings.weight"]
    )


def test_the_pinned_revision_is_fetched(hub, tmp_path) -> None:
    pinned = WeightFiles("some/text@pinned", "roberta", ("model", "tokenizer"))
    obtain(pinned, fetch=True)
    assert [
        path.name for path in (tmp_path / "cache" / "models--some--text" / "snapshots").iterdir()
    ] == [OTHER]
    with pytest.raises(NotHere):
        obtain(TEXT, fetch=False)
    obtain(WeightFiles(f"some/text@{OTHER}", "roberta", ("model", "tokenizer")), fetch=False)


@pytest.mark.parametrize("each", [TEXT, VISION], ids=lambda each: each.source)
def test_every_file_counts(hub, each, tmp_path) -> None:
    """Without any one file that loading needs, a source counts as missing."""
    obtain(each, fetch=True)
    (snapshot,) = (tmp_path / "cache").glob(f"models--some--*/snapshots/{COMMIT}")
    names = {path.name for path in snapshot.iterdir()}
    assert {"config.json", "model.safetensors"} < names
    for name in names - {"tokenizer_config.json"}:  # transformers can work without this one
        kept = (snapshot / name).readlink()
        (snapshot / name).unlink()
        with pytest.raises(NotHere):
            obtain(each, fetch=False)
        (snapshot / name).symlink_to(kept)
    obtain(each, fetch=False)


def test_shards_and_old_formats(hub, tmp_path) -> None:
    state = load_file(TINY / "vit" / "model.safetensors")
    half = sorted(state)[: len(state) // 2]
    parts = {
        "a.safetensors": {k: state[k] for k in half},
        "b.safetensors": {k: v for k, v in state.items() if k not in half},
    }
    files = hub.files["some/vision"]
    del files["model.safetensors"], files["preprocessor_config.json"]
    for name, part in parts.items():
        save_file(part, tmp_path / name, metadata={"format": "pt"})
        files[name] = (tmp_path / name).read_bytes()
    index = {
        "metadata": {},
        "weight_map": {key: name for name, part in parts.items() for key in part},
    }
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files["some/old"] = {"config.json": files["config.json"], "pytorch_model.bin": b"weights"}
    old = WeightFiles("some/old", "vit", ("model", "pixels"))
    for each in (VISION, old):
        obtain(each, fetch=True)
        obtain(each, fetch=False)  # the missing preprocessor is also known
    (shard,) = (tmp_path / "cache").glob("models--some--vision/snapshots/*/b.safetensors")
    shard.unlink()
    with pytest.raises(NotHere):
        obtain(VISION, fetch=False)


def test_files_missing_on_the_hub(hub) -> None:
    del hub.files["some/vision"]["model.safetensors"]
    for source, word in (
        ("some/vision", "found none of model.safetensors"),
        ("some/typo", "not a valid model identifier"),
    ):
        with pytest.raises(UserError, match=word) as caught:
            obtain(WeightFiles(source, "vit", ("model",)), fetch=True)
        assert str(caught.value).startswith(f"weights '{source}': ")
        assert str(caught.value).endswith("; check the id and the network")
        assert "\n" not in str(caught.value)


def test_without_a_network(hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.stop()
    with pytest.raises(UserError, match="check the id and the network"):
        obtain(TEXT, fetch=True)


def test_timm_and_open_clip(hub, offline, tmp_path) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, embed_dim=48, depth=1, img_size=32
    )
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    about = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": {"embed_dim": 48, "depth": 1, "img_size": 32},
    }
    about["pretrained_cfg"] = {"input_size": [3, 32, 32], "num_classes": 0}
    files = {
        "config.json": json.dumps(about).encode(),
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
    }
    hub.files |= {
        "some/timm": files,
        timm.models.get_pretrained_cfg("vit_tiny_patch16_224").hf_hub_id: {
            "pytorch_model.bin": b"weights"
        },
        "timm/resnet101_clip.openai": {"open_clip_model.safetensors": b"weights"},
    }
    for source in ("timm:hf-hub:some/timm", "timm:vit_tiny_patch16_224", "open_clip:RN101/openai"):
        each = WeightFiles(source, "vit", ("model", "pixels"))
        with pytest.raises(NotHere):
            obtain(each, fetch=False)
        obtain(each, fetch=True)
        hub.asked.clear()
        obtain(each, fetch=False)
        assert hub.asked == []
    offline()
    loaded = timm.create_model("hf-hub:some/timm", pretrained=True, num_classes=0)
    assert torch.equal(loaded.pos_embed, model.pos_embed)


def test_paths_equal_those_of_the_loaders() -> None:
    """The loaders keep these paths in private lists."""
    tags = [
        cfg["hf_hub"] for each in open_clip.pretrained._PRETRAINED.values() for cfg in each.values()
    ]
    files = [
        f"a/{file}"
        for file in (
            "pytorch_model.bin",
            "open_clip_pytorch_model.bin",
            "b.bin",
            "b.pth",
            "b.safetensors",
        )
    ]
    for paths, library, choices in (
        (tags, open_clip.pretrained, open_clip_choices),
        (files, timm.models._hub, timm_choices),
    ):
        for path in paths:
            file = path.rpartition("/")[2] or open_clip.constants.HF_WEIGHTS_NAME
            assert choices(file) == (*library._get_safe_alternatives(file), file)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("/nowhere/vit", "weights /nowhere/vit do not exist"),
        ("nowhere.pth", "weights nowhere.pth do not exist"),
        ("timm:local-dir:/nowhere", "weights /nowhere/config.json do not exist"),
        ("open_clip:RN101/nowhere.pt", "weights nowhere.pt do not exist"),
        ("timm:vit_nonsense", "timm knows no weights of it"),
    ],
)
def test_sources_that_cannot_be_fetched(hub, source, word) -> None:
    with pytest.raises(UserError, match=word):
        obtain(WeightFiles(source, "vit", ("model",)), fetch=True)
    assert hub.asked == []


def test_an_incomplete_folder(hub, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_bytes(hub.files["some/vision"]["config.json"])
    with pytest.raises(
        UserError, match=r"mine has none of model.safetensors.*; complete the folder"
    ):
        obtain(WeightFiles(str(tmp_path / "mine"), "vit", ("model",)), fetch=False)


@pytest.mark.parametrize("name", sorted(BACKBONES.entries))
def test_tiny_and_random_towers_need_nothing(hub, name) -> None:
    known = {
        "text": "random:roberta-base",
        "vision": "timm:random:vit_tiny_patch16_224",
        "weights": "random:tiny",
    }
    for settings in (
        tiny(name),
        {
            **tiny(name),
            **{key: value for key, value in known.items() if key == "vision" and key in tiny(name)},
        },
    ):
        for each in parse(BACKBONES.load(name), settings, name).weight_files():
            obtain(each, fetch=False)
    assert hub.asked == []


@pytest.mark.parametrize("name", sorted(BACKBONES.entries))
def test_defaults_are_missing_from_an_empty_cache(hub, name) -> None:
    """Cover each source that a backbone opens by default."""
    for each in parse(BACKBONES.load(name), {}, name).weight_files():
        with pytest.raises(NotHere):
            obtain(each, fetch=False)


def test_the_command(hub, main, monkeypatch, tmp_path) -> None:
    """Dry run, fetch, fetch again; the data comes from an archive on the same server."""
    data = write_vqav2(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(
            p for p in data.parent.rglob("*") if p.is_file() and p.suffix != ".yaml"
        ):
            archive.write(path, path.relative_to(data.parent))
    hub.plain["all.zip"] = (tmp_path / "all.zip").read_bytes()
    gives = sorted(path.name for path in data.parent.iterdir() if path.suffix != ".yaml")
    sum_ = hashlib.sha256(hub.plain["all.zip"]).hexdigest()
    later = {"what": "the key", "get": "ask", "places": ["key.txt"]}
    source = {"file": "all.zip", "url": f"{hub.url}/all.zip", "sha256": sum_, "gives": gives}
    own = tmp_path / "mine.yaml"
    about = (
        "root: new\nlicence: CC BY 4.0\nhomepage: https://example.org\n"
        f"downloads: [{json.dumps(source)}]\n"
    )
    own.write_text(f"{about}by_hand: [{json.dumps(later)}]\n{data.read_text()}")
    sweep = write_one(
        tmp_path,
        dataset="mine.yaml",
        backbones=IDS,
        protocol="{lr: 1e-3, steps: 2, batch_size: 4, max_input_tokens: 12, eval_split: val}",
    )

    def states(*more: str):
        said = main("prefetch", sweep, *more)
        return said, [line.split(": ")[1] for line in said.out.splitlines()]

    said, found = states("--dry-run")
    assert (said.code, found) == (2, ["to fetch"] * 3)
    assert said.err == ""  # it is reported once
    text, _, data_ = said.out.splitlines()
    assert text.startswith("weights some/text@pinned: to fetch: not, or not all, in ")
    assert data_.startswith(f"data mine: to fetch: {tmp_path / 'new'} lacks ")
    assert "; key.txt: the key cannot be fetched by program; ask; put key.txt at " in data_
    assert hub.asked == []
    said, found = states()
    assert (said.code, found) == (2, ["fetched", "fetched", "missing"])
    assert said.lines == [
        "vlpeft: error: data 'mine': its licence (CC BY 4.0, see https://example.org) "
        "must be accepted before it is fetched: read its terms, then add --yes"
    ]
    said, found = states("--yes")
    # fetched, and the key is reported
    assert (said.code, found) == (2, ["here", "here", "missing"])
    (tmp_path / "new" / "key.txt").write_text("")
    hub.asked.clear()
    said = main("prefetch", sweep, "--json")
    assert said.code == 0
    assert json.loads(said.out) == [
        {"kind": "weights", "name": "some/text@pinned", "state": "here", "problem": ""},
        {"kind": "weights", "name": "some/vision", "state": "here", "problem": ""},
        {"kind": "data", "name": "mine", "state": "here", "problem": ""},
    ]
    assert hub.asked == []
    (tmp_path / "new" / gives[-1]).rename(tmp_path / "away")
    hub.plain.clear()
    monkeypatch.setattr("vlpeft.benchmark.datasets.fetch.download.PAUSE", 0)
    said, found = states("--yes")
    assert (said.code, found) == (2, ["here", "here", "missing"])
    assert "404" in said.lines[-1]


def test_data_that_no_program_fetches(hub, main, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "format: vqav2\nroot: new\nfiles:\n"
        "  train: {questions: q.json, annotations: a.json, images: i, pattern: '{image_id}.png'}\n"
        "  test: {questions: q.json, annotations: a.json, images: i, pattern: '{image_id}.png'}\n"
        "by_hand: [{what: the questions, get: ask the authors, places: [q.json]}]\n"
    )
    said = main("prefetch", write_one(tmp_path, dataset="mine.yaml"))
    assert said.code == 2
    assert said.out.splitlines()[-1] == "data mine: missing"
    assert said.lines == [
        "vlpeft: error: data 'mine': q.json: the questions cannot be fetched by program; "
        f"ask the authors; put q.json at {tmp_path}/new/q.json"
    ]


def test_a_scale_needs_nothing(hub, main) -> None:
    said = main("prefetch", "p_adapter/table1", "--scale", "tiny")
    assert (said.code, hub.asked) == (0, [])
    assert all(line.endswith(": here") for line in said.out.splitlines())


def test_jobs_are_not_submitted_without_their_weights(hub, tmp_path) -> None:
    cells = [
        planned.cell
        for planned in expand(SweepHandle(str(write_one(tmp_path, backbones=IDS, seeds="[0, 1]"))))
    ]
    assert len(weight_files_of(cells)) == 2
    with pytest.raises(UserError) as caught:
        require_weights(cells, "one.yaml")
    assert str(caught.value) == (
        f"weights 'some/text@pinned' are not, or not all, in {tmp_path}/cache (and 1 more); "
        "jobs run offline: run `vlpeft prefetch one.yaml` where there is a network"
    )
    for each in weight_files_of(cells):
        obtain(each, fetch=True)
    require_weights(cells, "one.yaml")


def test_the_real_command_reads_the_environment(hub, offline, monkeypatch, tmp_path) -> None:
    """A cell loads what the command fetches into the cache of that variable."""
    sweep = write_one(tmp_path, backbones=IDS)
    own = {
        **environment(),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    own.pop("TRANSFORMERS_OFFLINE", None)
    done = subprocess.run(
        [COMMAND, "prefetch", str(sweep)],
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "weights some/text@pinned: fetched",
        "weights some/vision: fetched",
        "data small_shapes: here",
    ]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    offline()
    require_weights([planned.cell for planned in expand(SweepHandle(str(sweep)))], "one.yaml")


def test_an_offline_session_cannot_fetch(hub, offline) -> None:
    offline()
    assert weights(TEXT, fetch=True) == Found(
        "weights",
        "some/text",
        "missing",
        "weights 'some/text': HF_HUB_OFFLINE is set; unset it to fetch them",
    )
