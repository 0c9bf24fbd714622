"""The model card of an exported adapter: what it is, what it scored, how to use it, where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from vlpeft.benchmark.cells.cell import Part
from vlpeft.benchmark.export.folder import AdapterFolder

PIPELINES = {"vqa": "visual-question-answering", "captioning": "image-to-text"}
DRAWN = ("shapes", "easy_vqa")  # formats of drawn pictures
WHAT = {
    "vlpeft": "What was trained, without the base weights it belongs to.",
    "peft": "The low-rank updates in the format of Hugging Face peft, without the base weights they belong to.",
    "merged": "The full weights of the language model with what was trained folded in; the task head, if there is one, beside.",
}


def card(adapter: AdapterFolder, python: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
    """README.md, with the metadata that the Hugging Face hub reads in front. The licence is not ours to state and left out.

    python: lines that make peft's `base`, for a folder in its format.
    """
    cell = adapter.cell
    tasks = [part.task for part in cell.parts]
    data = ModelCardData(
        base_model=[source.partition("@")[0] for source in adapter.base.values() if "@" in source]
        or None,
        library_name="peft" if adapter.format == "peft" else "vlpeft",
        pipeline_tag=PIPELINES.get(tasks[0]) if len(tasks) == 1 else None,
        tags=["vlpeft", adapter.method, cell.backbone.name, *dict.fromkeys(tasks)],
    )
    parts = ("---", data.to_yaml(), "---", "", *_body(adapter, python, notes))
    return "\n".join(parts) + "\n"


def _body(adapter: AdapterFolder, python: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    cell, (same, tried) = adapter.cell, adapter.reproduced
    yield f"# {adapter.method} on {cell.backbone.name}: {', '.join(part.name for part in cell.parts)}\n"
    yield f"{WHAT[adapter.format]} Made with vlpeft and `{adapter.method}`."
    for warning in _warnings(adapter):
        yield f"\n**{warning}**"
    yield "\n## Scores\n\n| task | metric | value | split |\n| --- | --- | ---: | --- |"
    for index, part in enumerate(cell.parts):
        yield from _scores(adapter, part, cell.metric_prefix(index))
    cider = " (CIDEr x 100)" if any("CIDEr" in name for name in adapter.metrics) else ""
    yield f"\nOne run, seed {cell.seed}; in per cent{cider}. At export {same} of {tried} test examples were answered as in the run."
    yield "\n## Use\n"
    yield from _peft(adapter, python) if adapter.format == "peft" else _use(adapter)
    yield from (f"\n{note}" for note in notes)
    yield "\n## Trained\n"
    yield from _trained(adapter)
    yield "\n## Provenance\n"
    yield from _provenance(adapter)


def _warnings(adapter: AdapterFolder) -> Iterator[str]:
    cell = adapter.cell
    if "tiny" in adapter.base.values():
        yield "Tiny towers, those shipped with vlpeft: this shows the machinery and is good for nothing else."
    drawn = [part.dataset.name for part in cell.parts if part.dataset.format in DRAWN]
    if drawn:
        yield f"Drawn pictures ({', '.join(drawn)}): the scores say nothing about photographs."
    if any(part.protocol.images == "zeroed" for part in cell.parts):
        yield "Blind: it was trained and tested with a black image in place of each, and answers without looking."


def _scores(adapter: AdapterFolder, part: Part, prefix: str) -> Iterator[str]:
    for name, value in adapter.metrics.items():
        metric = name.removeprefix(prefix)
        if (
            not name.startswith(prefix) or "/" in metric
        ):  # breakdowns by kind of question stay in config.json
            continue
        shown = f"{value:.2f}" if isinstance(value, float | int) else f"absent: {value['absent']}"
        yield f"| {part.name} | {metric} | {shown} | {part.protocol.eval_split} |"


def _use(adapter: AdapterFolder) -> Iterator[str]:
    images = (
        "--image LEFT --image RIGHT"
        if any(part.task == "nlvr2" for part in adapter.cell.parts)
        else "--image IMAGE"
    )
    asks = (
        "" if all(part.task == "captioning" for part in adapter.cell.parts) else ' --question "..."'
    )
    task = f" --task {adapter.cell.parts[0].name}" if adapter.cell.also else ""
    yield f"Where vlpeft is installed:\n\n```bash\nvlpeft predict --adapter FOLDER {images}{asks}{task}\n```"
    if adapter.format == "merged":
        folders = ", ".join(
            f"`{key}: FOLDER/{key}`"
            for key, value in adapter.weights.items()
            if value.startswith("./")
        )
        yield f"\nIn a sweep of vlpeft the towers are {folders}; other code loads these folders with transformers."


def _peft(adapter: AdapterFolder, python: Sequence[str]) -> Iterator[str]:
    """What loads it, as it can be run in the folder."""
    load = 'model = PeftModel.from_pretrained(base, ".")  # the folder of this file'
    yield "\n".join(("```python", "from peft import PeftModel", *python, load, "```"))
    yield f"\n`base` is the model of transformers that vlpeft's `{adapter.cell.backbone.name}` is built of: {_weights(adapter)}."
    yield "How the image reaches it peft does not know: see the class of the backbone."


def _weights(adapter: AdapterFolder) -> str:
    """The base weights; a folder of the maker's machine by its last name alone."""
    return ", ".join(
        f"{key} `{Path(value).name if Path(value).is_absolute() else value}`"
        for key, value in adapter.base.items()
    )


def _trained(adapter: AdapterFolder) -> Iterator[str]:
    cell, counts = adapter.cell, {key: int(value) for key, value in adapter.trained.items()}
    share = 100 * counts["trainable"] / counts["total"]
    yield f"- {counts['trainable']:,} of {counts['total']:,} parameters ({share:.2f} %), {counts['head']:,} of them a task head, in"
    batch = f"up to {cell.protocol.batch_size:,} examples each"
    yield f"  {counts['steps']:,} steps, {batch}, learning rate {cell.protocol.lr:g}, protocol {cell.protocol.name}"
    yield f"- base: {_weights(adapter)}; prompt `{cell.protocol.prompt}`, seed {cell.seed}"
    for part in cell.parts:
        limit = f" (the first {part.protocol.train_limit})" if part.protocol.train_limit else ""
        yield f"- {part.name}: split {part.protocol.train_split}{limit}"
    if adapter.plugin:
        yield f"- the method comes from another package, which must be installed: module `{adapter.plugin}`"


def _provenance(adapter: AdapterFolder) -> Iterator[str]:
    about = adapter.provenance
    packages = ", ".join(
        f"{name} {version}" for name, version in sorted(about.get("packages", {}).items())
    )
    git = about.get("git") or {}
    code = (
        f"commit {git['sha'][:12]}{' with local changes' if git['dirty'] else ''}, " if git else ""
    )
    yield f"- cell `{adapter.id}`, finished {about.get('finished', 'at an unknown time')}, data {about.get('data', 'unknown')}"
    yield f"- {code}Python {about.get('python', 'unknown')}, {packages}, on {about.get('device', 'an unknown device')}"
    yield "- every setting: config.json; licence: not stated, and those of the base weights and the data hold"
