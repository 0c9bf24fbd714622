"""The kinds of hostile input: each writes files and returns the arguments of a command."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML

from tests.fuzz.damage import (
    DOCUMENTS,
    copy_tree,
    damage_bytes,
    damage_file,
    damage_json,
    hostile_value,
    replace_by_odd_node,
)
from tests.fuzz.prepared import PROFILE, RUN, SHAPES, SWEEP, TINY, Prepared, write_sweep

Kind = Callable[[Random, Path, Prepared], list[Any]]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Register a kind under the name of its function."""
    KINDS[function.__name__] = function
    return function


def _damaged_yaml(rng: Random, text: str) -> bytes:
    """Damage the values of a YAML file, or its text."""
    way = rng.random()
    if way < 0.6:
        values = damage_json(rng, YAML(typ="safe", pure=True).load(text))
        return json.dumps(values, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    if way < 0.9:
        return damage_bytes(rng, text.encode())
    return rng.choice(DOCUMENTS)


@kind
def sweep_file(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged sweep."""
    path = write_sweep(here)
    path.write_bytes(_damaged_yaml(rng, path.read_text()))
    if rng.random() < 0.05:
        replace_by_odd_node(rng, path)
    return ["plan", path]


@kind
def dataset_file(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged YAML of a dataset."""
    text = rng.choice(
        (
            SHAPES,
            "format: vqav2\nfiles:\n  val: {questions: q.json, annotations: a.json, images: i,"
            ' pattern: "{image_id}.png"}\n',
            "format: karpathy\nfile: k.json\nimages: im\n",
            "format: coco_captions\nfiles:\n  val: {annotations: a.json, images: im}\n"
            "downloads:\n  - {file: a.zip, url: 'http://127.0.0.1:9/a.zip', gives: [im]}\n",
        )
    )
    path = here / "d.yaml"
    path.write_bytes(_damaged_yaml(rng, text))
    return ["data", "check", path]


@kind
def profile(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged profile of a cluster."""
    path = here / "p.yaml"
    path.write_bytes(_damaged_yaml(rng, PROFILE))
    sweep = write_sweep(here)
    arguments = ["--on", "slurm", "--profile", path, "--dry-run", "--unverified"]
    return ["sweep", sweep, "--root", here / "r", *arguments]


@kind
def annotations(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged annotation file of a shipped dataset."""
    name = rng.choice(sorted(path.name for path in base.samples.iterdir()))
    folder = copy_tree(base.samples / name, here / name)
    files = [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]
    damage_file(rng, rng.choice(sorted(files)))
    return ["data", "check", name, "--path", folder, *_maybe(rng, "--json")]


@kind
def images(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged or odd image."""
    folder = copy_tree(base.samples / "vqav2", here / "vqav2")
    path = rng.choice(sorted(folder.rglob("*.jpg")))
    if rng.random() < 0.4:
        path.write_bytes(_odd_image(rng))
    if rng.random() < 0.7:
        damage_file(rng, path)
    return ["data", "check", "vqav2", "--path", folder, "--images"]


def _odd_image(rng: Random) -> bytes:
    mode, dtype = rng.choice(
        (("L", "uint8"), ("I;16", "uint16"), ("I", "int32"), ("F", "float32"), ("RGBA", "uint8"))
    )
    size = rng.choice(((1, 1), (3, 2), (1, 500)))
    channels = (4,) if mode == "RGBA" else ()
    pixels = np.random.default_rng(rng.randrange(2**32)).random((*size, *channels)) * 70_000
    file = io.BytesIO()
    Image.fromarray(pixels.astype(dtype)).save(file, format="TIFF")
    return file.getvalue()


@kind
def features(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged HDF5 file of image features."""
    name = rng.choice(("coco_clip_bart", "vqav2_clip_bart", "nlvr2_clip_bart"))
    folder = copy_tree(base.samples / name, here / name)
    damage_file(rng, rng.choice(sorted(folder.rglob("*.h5"))))
    return ["data", "check", name, "--path", folder, "--images"]


@kind
def archive(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged archive, or one with odd members."""
    ending = rng.choice(("zip", "tar", "tar.gz", "tar.xz"))
    path = here / f"a.{ending}"
    names = ["im/1.png", rng.choice(("../out", "/tmp/out", "im/../../x", "im/" + "y" * 300, "im"))]
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for each in names:
                zipped.writestr(each, rng.randbytes(300))
    else:
        _write_tar(rng, path, names, ending.partition(".")[2])
    if rng.random() < 0.8:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    (here / "d.yaml").write_text(
        "format: coco_captions\nfiles:\n  train: {annotations: c.json, images: im}\ndownloads:\n"
        f"  - {{file: {path.name}, url: 'http://127.0.0.1:9/{path.name}', gives: [im]}}\n"
    )
    return ["data", "download", here / "d.yaml", "--yes"]


def _write_tar(rng: Random, path: Path, names: list[str], packed: str) -> None:
    with tarfile.open(path, f"w:{packed}") as tar:
        for each in names:
            member = tarfile.TarInfo(each)
            member.size = 300
            member.type = rng.choice((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, b"3"))
            member.linkname = "nowhere"
            tar.addfile(member, io.BytesIO(rng.randbytes(300)))


@kind
def results(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged file of a result folder, read by any command that reads results."""
    sweep = write_sweep(here)
    root = copy_tree(base.root, here / "r")
    files = [path for path in root.rglob("*") if path.is_file() and "features" not in path.parts]
    if rng.random() < 0.3:  # a cell that is not done
        _forget_record(rng, root)
    else:
        damage_file(rng, rng.choice(sorted(files)))
    command = rng.choice(("status", "table", "table", "report", "diff", "keep", "logs", "export"))
    return _reading_command(rng, command, sweep, root, base)


def _forget_record(rng: Random, root: Path) -> None:
    cell = next((root / "cells").iterdir())
    (cell / "record.json").unlink()
    states = {
        "progress.json": {"phase": "train", "step": 1, "total": 2, "updated": 1.0, "pid": 1},
        "failure.json": {"cause": "out of memory", "message": "x", "traceback": ""},
        "tries.json": {"count": 1, "saved": 0, "log": "", "pid": 1},
    }
    name = rng.choice(sorted(states))
    (cell / name).write_text(json.dumps(damage_json(rng, states[name])))


def _reading_command(
    rng: Random, command: str, sweep: Path, root: Path, base: Prepared
) -> list[Any]:
    if command == "diff":
        return ["diff", root, base.root]
    if command == "logs":
        return ["logs", sweep, base.cell, "--root", root]
    if command == "export":
        return ["export-adapter", sweep, base.cell, "--root", root, "-o", root.parent / "out"]
    if command == "report":
        return ["report", sweep, "--root", root, "-o", root.parent / "page"]
    if command == "keep":
        out = root.parent / "kept"
        return ["keep", sweep, "--root", root, "--out", out, "--mixed-environments"]
    more: list[str] = []
    if command == "table":
        more = rng.choice(([], ["--details"], ["--tidy", "--json"], ["--format", "html"]))
    return [command, sweep, "--root", root, *more]


@kind
def evidence(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged file of evidence."""
    path = here / base.evidence.name
    shutil.copy(base.evidence, path)
    damage_file(rng, path)
    return ["diff", path, base.root]


@kind
def caches(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged feature cache or checkpoint, when the cell runs again."""
    sweep = write_sweep(here)
    root = copy_tree(base.root, here / "r")
    cell = root / "cells" / base.cell
    (cell / "record.json").unlink()
    if rng.random() < 0.6:
        files = [path for path in (root / "features").rglob("*") if path.is_file()]
        damage_file(rng, rng.choice(sorted(files)))
    else:
        torch.save({"step": 1, "state": hostile_value(rng)}, cell / "checkpoint.pt")
        if rng.random() < 0.7:
            damage_file(rng, cell / "checkpoint.pt")
    return ["sweep", sweep, "--root", root, *RUN]


@kind
def weight_folder(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged folder of weights."""
    folder = copy_tree(TINY / "roberta", here / "tower")
    path = rng.choice(sorted(each for each in folder.iterdir() if each.is_file()))
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(damage_json(rng, json.loads(path.read_text()))))
    else:
        damage_file(rng, path)
    return ["plan", write_sweep(here, json.dumps(str(folder)))]


@kind
def weight_file(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """A damaged .pth of BLIP, or one with other content."""
    path = here / "blip.pth"
    content = rng.choice(({"model": {}}, [1], {"model": [1]}, {"model": hostile_value(rng)}, {}))
    torch.save(content, path)
    if rng.random() < 0.7:
        damage_file(rng, path)
    weights = json.dumps(str(path))
    backbone = f"[{{name: blip, weights: {weights}}}]"
    sweep = SWEEP.replace("[{name: vit_roberta, text: TEXT, vision: tiny}]", backbone)
    return ["plan", write_sweep(here, sweep=sweep)]


@kind
def adapter_folder(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """An exported adapter that was damaged or edited."""
    folder = copy_tree(base.adapter, here / "a")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    damage_file(rng, rng.choice(files))
    config = folder / "config.json"
    if config.is_file() and rng.random() < 0.7:  # most damage is caught by the checksums
        try:
            values = json.loads(config.read_text())
            values["files"] = rng.choice(({}, {}, {"/dev/zero": "0"}, {"../x": "0"}))
            config.write_text(json.dumps(values))
        except (ValueError, TypeError, RecursionError):
            pass  # the file is damaged already
    return ["predict", "--adapter", folder, "--image", base.picture, "--question", "q"]


@kind
def requests(rng: Random, here: Path, base: Prepared) -> list[Any]:
    """A damaged list of questions for `predict`."""
    path = here / "q.jsonl"
    row = {"image": str(base.picture), "question": "what?"}
    lines = [row, damage_json(rng, row), row]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    if rng.random() < 0.5:
        damage_file(rng, path)
    return ["predict", "--adapter", base.adapter, "--from", path, *_maybe(rng, "--json")]


ARGUMENTS = (
    *("plan", "table", "status", "logs", "report", "params", "list", "data", "check", "diff"),
    *("retry", "cancel", "keep", "s.yaml", "quickstart", "--root", "--scale", "tiny", "--json"),
    *("-o", "--format", "html", "--rows", "--columns", "method", "--device", "cuda", "--threads"),
    *("--workers", "--help", "--images", "--path", "--split", "--tidy", "--details", "--cause"),
)


@kind
def arguments(rng: Random, here: Path, _base: Prepared) -> list[Any]:
    """Random arguments, half of them hostile texts. Commands that train are left out."""
    write_sweep(here)
    words: list[str] = [rng.choice(ARGUMENTS[:10])]
    for _ in range(rng.randrange(5)):
        word = rng.choice(ARGUMENTS)
        if rng.random() < 0.4:
            # A process cannot be given NUL bytes or halves of characters as arguments.
            word = str(hostile_value(rng)).replace("\0", "").encode(errors="ignore").decode()
        words.append(word)
    return words


def _maybe(rng: Random, option: str) -> list[str]:
    if rng.random() < 0.5:
        return [option]
    return []
