"""The model card of an exported adapter: what it is, its scores, its use and its provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.cells.provenance import describe_scored
from vlpeft.benchmark.export.folder import IN_FOLDER, AdapterFolder
from vlpeft.benchmark.metrics import other_units
from vlpeft.benchmark.tasks import TASKS

DRAWN = ("shapes", "easy_vqa")  # formats of drawn pictures
CONTENTS = {  # format -> first sentence of the card
    "vlpeft": "The trained weights, without the base weights they belong to.",
    "peft": "The low-rank updates in the format of Hugging Face peft, without the base weights they"
    " belong to.",
    "merged": "The full weights of the language model, with the trained weights folded in. A task"
    " head, if there is one, is in a separate file.",
}


def card(adapter: AdapterFolder, python: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    """Return the text of README.md, which begins with metadata for the Hugging Face hub.

    The card states no licence, because that is up to the owner of the adapter.

    Args:
        adapter: The exported adapter.
        python: Lines of code that make peft's `base`, for a folder in peft's format.
        notes: Sentences to add to the section about its use.
    """
    cell = adapter.cell
    tasks = [part.task for part in cell.parts]
    pipeline = None
    if len(tasks) == 1:
        pipeline = TASKS.load(tasks[0]).pipeline
    library = "vlpeft"
    if adapter.format == "peft":
        library = "peft"
    hub_ids = [source.partition("@")[0] for source in adapter.base.values() if "@" in source]
    data = ModelCardData(
        base_model=hub_ids or None,
        library_name=library,
        pipeline_tag=pipeline,
        tags=["vlpeft", adapter.method, cell.backbone.name, *dict.fromkeys(tasks)],
    )
    lines = ("---", data.to_yaml(), "---", "", *_body(adapter, python, notes))
    return "\n".join(lines) + "\n"


def _body(adapter: AdapterFolder, python: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    cell = adapter.cell
    names = ", ".join(part.name for part in cell.parts)
    yield f"# {adapter.method} on {cell.backbone.name}: {names}\n"
    yield f"{CONTENTS[adapter.format]} Made with vlpeft and `{adapter.method}`."
    for warning in _warnings(adapter):
        yield f"\n**{warning}**"
    yield from _scores(adapter)
    yield "\n## Use\n"
    if adapter.format == "peft":
        yield from _use_with_peft(adapter, python)
    else:
        yield from _use_with_vlpeft(adapter)
    for note in notes:
        yield f"\n{note}"
    yield "\n## Trained\n"
    yield from _training(adapter)
    yield "\n## Provenance\n"
    yield from _provenance(adapter)


def _warnings(adapter: AdapterFolder) -> Iterator[str]:
    cell = adapter.cell
    if "tiny" in adapter.base.values():
        yield (
            "Tiny towers, shipped with vlpeft: this adapter is a test of the software"
            " and not useful for anything else."
        )
    drawn = [part.dataset.name for part in cell.parts if part.dataset.format in DRAWN]
    if drawn:
        yield f"Drawn pictures ({', '.join(drawn)}): the scores say nothing about photographs."
    if any(part.protocol.images == "zeroed" for part in cell.parts):
        yield (
            "Blind: it was trained and tested with a black image in place of each,"
            " and answers without looking."
        )


def _scores(adapter: AdapterFolder) -> Iterator[str]:
    cell, (same, tried) = adapter.cell, adapter.reproduced
    yield "\n## Scores\n\n| task | metric | value | split |\n| --- | --- | ---: | --- |"
    names: list[str] = []
    for index, part in enumerate(cell.parts):
        prefix = cell.metric_prefix(index)
        yield from _score_rows(adapter, part, prefix)
        names += [name.removeprefix(prefix) for name in adapter.metrics]
    listed = ""
    if others := other_units(names):
        listed = f" ({', '.join(others)})"
    checked = describe_check(same, tried)
    yield f"\nOne run, seed {cell.seed}; in per cent{listed}. At export {checked}."
    for scored in describe_scored(adapter.provenance):
        yield f"Scored on part of a split: {scored}."


def describe_check(same: int, tried: int) -> str:
    """Say how the exported model was compared with its run."""
    if not tried:
        return "the data was not there, so nothing was compared with the run"
    return f"{same} of {tried} test examples were answered as in the run"


def _score_rows(adapter: AdapterFolder, part: Part, prefix: str) -> Iterator[str]:
    for name, value in adapter.metrics.items():
        metric = name.removeprefix(prefix)
        # Breakdowns by kind of question ("accuracy/color") are in config.json only.
        if not name.startswith(prefix) or "/" in metric:
            continue
        yield f"| {part.name} | {metric} | {_shown(value)} | {part.protocol.eval_split} |"


def _shown(value: float | dict[str, str]) -> str:
    if isinstance(value, dict):
        return f"absent: {value['absent']}"
    return f"{value:.2f}"


def _use_with_vlpeft(adapter: AdapterFolder) -> Iterator[str]:
    parts = adapter.cell.parts
    arguments = ["--image IMAGE"]
    tasks = [TASKS.load(part.task) for part in parts]
    if any(task.images == 2 for task in tasks):
        arguments = ["--image LEFT --image RIGHT"]
    if any(task.asks for task in tasks):
        arguments.append('--question "..."')
    if adapter.cell.also:
        arguments.append(f"--task {parts[0].name}")
    command = f"vlpeft predict --adapter FOLDER {' '.join(arguments)}"
    yield f"With vlpeft installed:\n\n```bash\n{command}\n```"
    if adapter.format != "merged":
        return
    towers = [key for key, value in adapter.weights.items() if value.startswith(IN_FOLDER)]
    folders = ", ".join(f"`{key}: FOLDER/{key}`" for key in towers)
    yield (
        f"\nIn a sweep of vlpeft the towers are {folders};"
        " other code loads these folders with transformers."
    )


def _use_with_peft(adapter: AdapterFolder, python: Sequence[str]) -> Iterator[str]:
    """Yield code that loads the adapter if it is run in the adapter's folder."""
    load = 'model = PeftModel.from_pretrained(base, ".")  # the folder of this file'
    yield "\n".join(("```python", "from peft import PeftModel", *python, load, "```"))
    yield (
        "\n`base` is the model of transformers that vlpeft's"
        f" `{adapter.cell.backbone.name}` is made of: {_weight_names(adapter)}."
    )
    yield "peft does not know how the image reaches the model: see the class of the backbone."


def _weight_names(adapter: AdapterFolder) -> str:
    """Return the base weights; a folder of this machine appears with its last name only."""
    names = []
    for key, value in adapter.base.items():
        name = value
        if Path(value).is_absolute():
            name = Path(value).name
        names.append(f"{key} `{name}`")
    return ", ".join(names)


def _training(adapter: AdapterFolder) -> Iterator[str]:
    cell, counts = adapter.cell, {key: int(value) for key, value in adapter.trained.items()}
    share = 100 * counts["trainable"] / counts["total"]
    yield (
        f"- {counts['trainable']:,} of {counts['total']:,} parameters ({share:.2f} %),"
        f" {counts['head']:,} of them a task head, in"
    )
    batch = f"up to {cell.protocol.batch_size:,} examples each"
    yield (
        f"  {counts['steps']:,} steps, {batch}, learning rate {cell.protocol.lr:g},"
        f" protocol {cell.protocol.name}"
    )
    yield f"- base: {_weight_names(adapter)}; prompt `{cell.protocol.prompt}`, seed {cell.seed}"
    for part in cell.parts:
        limit = ""
        if part.protocol.train_limit:
            limit = f" (the first {part.protocol.train_limit})"
        yield f"- {part.name}: split {part.protocol.train_split}{limit}"
    if adapter.plugin:
        yield (
            "- the method comes from another package, which must be installed:"
            f" module `{adapter.plugin}`"
        )


def _provenance(adapter: AdapterFolder) -> Iterator[str]:
    about = adapter.provenance
    versions = sorted(about.get("packages", {}).items())
    packages = ", ".join(f"{name} {version}" for name, version in versions)
    yield (
        f"- cell `{adapter.id}`, finished {about.get('finished', 'at an unknown time')},"
        f" data {about.get('data', 'unknown')}"
    )
    yield (
        f"- {_commit(adapter)}Python {about.get('python', 'unknown')}, {packages},"
        f" on {about.get('device', 'an unknown device')}"
    )
    yield (
        "- every setting: config.json; licence: not stated,"
        " the licences of the base weights and the data apply"
    )


def _commit(adapter: AdapterFolder) -> str:
    git = adapter.provenance.get("git")
    if not git:
        return ""
    changes = ""
    if git["dirty"]:
        changes = " with local changes"
    return f"commit {git['sha'][:12]}{changes}, "
