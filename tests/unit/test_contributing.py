"""The snippets of CONTRIBUTING.md work as they stand, for a method that lives in another package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


def snippets() -> dict[str, str]:
    """Title -> text of the fenced blocks that carry a title."""
    return dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL))


def write_data(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for split, numbers in {"train": range(6), "test": range(6, 12)}.items():
        questions, answers = [], []
        for i in numbers:
            Image.fromarray(np.full((64, 64, 3), 20 * i, np.uint8)).save(folder / "images" / f"{i}.png")
            questions.append({"question_id": i, "image_id": i, "question": "is it dark?"})
            answers.append({"question_id": i, "image_id": i, "answers": [{"answer": "no" if i % 2 else "yes"}] * 10})
        (folder / f"{split}_questions.json").write_text(json.dumps({"questions": questions}))
        (folder / f"{split}_answers.json").write_text(json.dumps({"annotations": answers}))


def test_the_snippets_plan_and_run(tmp_path: Path) -> None:
    found = snippets()
    for title, text in found.items():
        (tmp_path / title).write_text(text)
    write_data(tmp_path / "data")
    about = tmp_path / "scales-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: scales\nVersion: 0.1\n")
    point = re.search(r"```toml\n\[project\.entry-points\.\"(.+?)\"\]\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert point is not None
    (about / "entry_points.txt").write_text(f"[{point[1]}]\n{point[2].replace(chr(34), '')}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmark.cli", "sweep", "scales.yaml", "--on", "inline", "--root", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "out/sweeps/scales.json").read_text())
    trained = {cell["row"]: cell["trainable"] - cell["head"] for cell in plan["cells"]}
    assert trained["sublayer_scale"] == 3 * 2 * 128  # layers x sub-layers x width
    assert trained["sublayer_scale (one=True)"] == 3 * 2
    assert len(list((tmp_path / "out").glob("cells/*/record.json"))) == 3 * 2 * 2
