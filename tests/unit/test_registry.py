"""Registries are read without imports and agree with the imported classes.

Other packages join through entry points.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Literal, get_args

import pytest

from vlpeft.benchmark import tasks
from vlpeft.benchmark.backbones import BACKBONES
from vlpeft.benchmark.contract import METHODS
from vlpeft.benchmark.contract.sites import Need
from vlpeft.benchmark.core import registry
from vlpeft.benchmark.core.config import dump
from vlpeft.benchmark.core.errors import UserError
from vlpeft.benchmark.core.protocol import Protocol
from vlpeft.benchmark.core.registry import Registry
from vlpeft.benchmark.datasets import FORMATS
from vlpeft.benchmark.metrics import METRICS
from vlpeft.benchmark.plan.recipes import protocol_names
from vlpeft.benchmark.tasks import TASKS, tasks_for
from vlpeft.results.tables.listing import listing, listing_text

REGISTRIES = {
    "method": METHODS,
    "backbone": BACKBONES,
    "task": TASKS,
    "metric": METRICS,
    "format": FORMATS,
}
ENTRIES = [(kind, name) for kind, known in REGISTRIES.items() for name in known.entries]
HEAVY = ("torch", "transformers", "timm", "open_clip", "submitit")
COMMAND = (
    "import sys; from vlpeft.benchmark.cli.main import main\n"
    "try: main(sys.argv[1:])\n"
    "finally: print(*sorted(sys.modules), file=sys.stderr)"
)


def modules_of(*arguments: object, folder: Path | None = None) -> tuple[str, set[str]]:
    """Run the command in a fresh interpreter; return its output and the imported modules."""
    paths = (
        {"PYTHONPATH": os.pathsep.join(map(str, [folder, registry.REPOSITORY]))} if folder else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **paths},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "what", ["methods", "backbones", "tasks", "datasets", "metrics", "protocols", "sweeps"]
)
def test_listing_imports_nothing_heavy(what) -> None:
    out, modules = modules_of("list", what, "--json")
    assert json.loads(out)
    assert modules.isdisjoint(HEAVY)
    if what in ("methods", "backbones"):
        assert not [
            m
            for m in modules
            if m.startswith(("vlpeft.baselines.", "vlpeft.methods.", "vlpeft.benchmark.backbones."))
        ]


@pytest.mark.parametrize("arguments", [("--help",), ("sweep", "--help"), ("sweeep",)])
def test_help_imports_almost_nothing(arguments) -> None:
    out, modules = modules_of(*arguments)
    assert modules.isdisjoint((*HEAVY, "pandas", "pydantic", "numpy"))
    assert ("usage: vlpeft" in out) == ("--help" in arguments)


@pytest.mark.parametrize("command", ["status", "table"])
def test_reading_results_never_imports_torch(command, tmp_path) -> None:
    """The plan holds every kind of cell of the shipped sweeps, and none of them has run."""
    from vlpeft.benchmark.cells.cell import Plan
    from vlpeft.benchmark.core.config import dump
    from vlpeft.benchmark.core.files import to_json
    from vlpeft.benchmark.plan.grid import expand
    from vlpeft.benchmark.plan.plan_files import plan_file
    from vlpeft.benchmark.plan.sweep import SweepHandle

    file = plan_file(tmp_path, "quickstart")
    file.parent.mkdir()
    file.write_bytes(
        to_json(
            dump(
                Plan(
                    "quickstart",
                    "A title",
                    "",
                    SweepHandle("quickstart").fingerprint(),
                    tuple(expand(SweepHandle("quickstart"))),
                )
            )
        )
    )
    out, modules = modules_of(command, "quickstart", "--root", tmp_path)
    assert "A title" in out
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_the_read_entry_equals_the_imported_class(kind, name) -> None:
    """The decorator and fields in the source equal the attributes and fields of the class."""
    entry = REGISTRIES[kind].entry(name)
    cls = REGISTRIES[kind].load(name)
    assert (cls.__module__, cls.__name__, cls.name) == (entry.module, entry.attribute, name)
    for key, value in entry.options.items():
        assert getattr(cls, key) == value
    assert entry.summary
    assert entry.summary == " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    fields.pop(
        "root", None
    ) if kind == "format" else None  # every format has it, but it is not a setting of a cell
    assert set(entry.settings) == set(fields)
    for key, written in entry.settings.items():
        required = (
            fields[key].default is dataclasses.MISSING
            and fields[key].default_factory is dataclasses.MISSING
        )
        assert required == (written == "")
        if fields[key].default is not dataclasses.MISSING:
            assert eval(written, vars(sys.modules[cls.__module__])) == fields[key].default


def listed(hint) -> tuple:
    """Return the values of all Literals in a type."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(value for inner in typing.get_args(hint) for value in listed(inner))


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_allowed_values_are_those_of_the_types(kind, name) -> None:
    cls = REGISTRIES[kind].load(name)
    hints = typing.get_type_hints(cls, include_extras=True) if dataclasses.is_dataclass(cls) else {}
    settings = REGISTRIES[kind].entry(name).settings
    assert REGISTRIES[kind].entry(name).choices == {
        key: listed(hints[key]) for key in settings if listed(hints[key])
    }


def test_settings_in_a_list() -> None:
    row = next(row for row in listing("methods") if row["name"] == "routing_lora")
    assert (row["settings"]["alpha"], row["settings"]["targets"], row["required"]) == (
        16.0,
        ("query", "value"),
        [],
    )
    text = listing_text([row])
    assert "function: add|mul|mul_expand|project = add" in text
    assert "targets: [query|key|value|output|up|down] = [query, value]" in text
    assert "also_train: [norms|all_norms|biases|target_biases] = []" in text
    assert "mlp = null" in listing_text(
        [row for row in listing("methods") if row["name"] == "prefix_tuning"]
    )


def test_protocols_are_listed_with_the_keys_of_all() -> None:
    *shipped, keys = listing("protocols")
    assert [row["name"] for row in shipped] == list(protocol_names())
    assert all(row["summary"] for row in shipped)
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in keys["settings"].items()
    }
    assert values == {**dump(Protocol(lr=1.0, steps=1)), "lr": None, "steps": None}
    assert keys["required"] == ["lr"]
    assert keys["choices"]["schedule"] == ["linear", "cosine", "constant"]
    assert "lr (required), name = custom" in listing_text([keys])
    assert 'prompt = "{text}"' in listing_text([keys])


@pytest.mark.parametrize("kind", REGISTRIES)
def test_names_can_be_typed(kind) -> None:
    names = list(REGISTRIES[kind].entries)
    assert names == sorted(names)
    assert names
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


@pytest.mark.parametrize("name", METHODS.entries)
def test_methods_name_their_source(name) -> None:
    options = METHODS.entry(name).options
    assert set(options) == {"paper", "needs"}
    assert re.search(r"\d{4}", options["paper"])
    assert set(options["needs"]) <= set(get_args(Need))


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"^unknown method 'loar'; did you mean 'lora'\?$"):
        METHODS.load("loar")
    with pytest.raises(
        UserError, match=r"^unknown task 'zzzzzz'; known: captioning, entailment, nlvr2, vqa"
    ):
        TASKS.entry("zzzzzz")


ENTRY = (
    '@register("{name}", paper="Nobody 1999", needs=())\n'
    "@dataclass(frozen=True)\n"
    'class {cls}({base}):\n    """A {name}."""\n\n'
)


def source(
    path: Path, name: str, cls: str, base: str = "Method", body: str = "    size: int = 8\n"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "import nothing_that_exists\n\n" + ENTRY.format(name=name, cls=cls, base=base) + body
    )


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(registry, "REPOSITORY", tmp_path)
    return tmp_path


def test_adding_a_file_is_enough(repository) -> None:
    source(
        repository / "plugins" / "one.py",
        "one",
        "One",
        body="    size: int = 8\n    names: tuple[str, ...] = ('a',)\n    must: str\n",
    )
    entry = Registry("thing", "plugins").entry("one")  # its module cannot even be imported
    assert (entry.module, entry.attribute, entry.summary) == ("plugins.one", "One", "A one.")
    assert entry.options == {"paper": "Nobody 1999", "needs": ()}
    assert entry.settings == {"size": "8", "names": "('a',)", "must": ""}


PAIRS = {
    "blip": ("vqa", "captioning", "entailment"),
    "clip_bart": ("vqa", "captioning", "entailment", "nlvr2"),
    "vit_gpt2": ("captioning",),
    "vit_roberta": ("vqa", "entailment", "nlvr2"),
}


@pytest.mark.parametrize("backbone", BACKBONES.entries)
def test_tasks_follow_from_abilities(backbone) -> None:
    assert tasks_for(BACKBONES.entry(backbone).options["abilities"]) == PAIRS[backbone]


@pytest.mark.parametrize(
    ("needs", "able"),
    [
        (("choose",), {"blip", "clip_bart", "vit_roberta"}),
        (("write",), {"blip", "clip_bart", "vit_gpt2"}),
        (("choose", "write"), {"blip", "clip_bart"}),
        (("write", "pair"), {"clip_bart"}),
    ],
)
def test_a_new_task_edits_no_backbone(repository, monkeypatch, needs, able) -> None:
    """One new file is enough, for the list and for the pairs. Its module is never imported."""
    folder = repository / "vlpeft" / "benchmark" / "tasks"
    shutil.copytree(Path(tasks.__file__).parent, folder)
    source(folder / "brand_new.py", "brand_new", "BrandNew", "Task")
    path = folder / "brand_new.py"
    path.write_text(path.read_text().replace("needs=()", f"needs={needs!r}"))
    monkeypatch.setattr(tasks, "TASKS", Registry("task", "vlpeft/benchmark/tasks"))
    rows = {row["name"]: row["tasks"] for row in listing("backbones")}
    assert {name for name, known in rows.items() if "brand_new" in known} == able
    for name, known in rows.items():
        assert tuple(task for task in known if task != "brand_new") == PAIRS[name]


def test_abilities_stay_out_of_the_lists() -> None:
    """A list shows the pairs instead, as `tasks` of a backbone."""
    assert not any("abilities" in row for row in listing("backbones"))
    assert not any("needs" in row for row in listing("tasks"))


def test_unknown_abilities() -> None:
    with pytest.raises(
        UserError, match=r"^abilities of a backbone: unknown ability 'chose'; did you mean 'choose'"
    ):
        tasks_for(("chose",))


def test_settings_of_a_base_class_are_listed(repository) -> None:
    source(repository / "plugins" / "one.py", "one", "One")
    source(repository / "plugins" / "two.py", "two", "Two", "One", body="    more: float = 1.0\n")
    path = repository / "plugins" / "two.py"
    path.write_text("from plugins.one import One\n" + path.read_text())
    assert Registry("thing", "plugins").entry("two").settings == {"size": "8", "more": "1.0"}


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ("class Broken(:\n", "methods/broken.py:1", "SyntaxError: invalid syntax"),
        (
            "class Broken:\n    x = 1\n   y = 2\n",
            "methods/broken.py:3",
            "IndentationError: unindent",
        ),
        ("\0", "methods/broken.py", "source code string cannot contain null bytes"),
        (
            "@register(NAME)\nclass Broken: ...\n",
            "methods/broken.py:1",
            "register(NAME): write a name and literals",
        ),
        (
            "@register()\nclass Broken: ...\n",
            "methods/broken.py:1",
            "register(): write a name and literals",
        ),
    ],
)
def test_a_file_that_cannot_be_read(repository, written, place, said) -> None:
    (repository / "methods").mkdir()
    (repository / "methods" / "broken.py").write_text(written)
    with pytest.raises(UserError) as caught:
        _ = Registry("method", "methods").entries
    assert f"{place}: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "place", "said"),
    [
        ("x = 1\ny = nowhere\n", "unlucky_method.py:2", "NameError: name 'nowhere' is not defined"),
        (
            "import nowhere_at_all\n",
            "unlucky_method.py:1",
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("import unlucky_helper\n", "unlucky_helper.py:1", "SyntaxError: invalid syntax"),
        (
            "x = 1\n",
            "unlucky_method.py",
            "AttributeError: module 'unlucky_method' has no attribute 'Unlucky'",
        ),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, monkeypatch, body, place, said) -> None:
    (tmp_path / "unlucky_method.py").write_text(body)
    (tmp_path / "unlucky_helper.py").write_text("def :\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unlucky_method", raising=False)
    with pytest.raises(UserError) as caught:
        registry.RegistryEntry("unlucky", "unlucky_method", "Unlucky", "", {}, {}).load()
    assert f"{place}: {said}" in str(caught.value)
    assert str(caught.value).endswith("; fix or remove that file")


def test_a_name_taken_twice(repository) -> None:
    source(repository / "plugins" / "a.py", "one", "One")
    source(repository / "others" / "b.py", "one", "Another")
    with pytest.raises(
        UserError, match=r"^thing 'one' is registered in plugins\.a and in others\.b$"
    ):
        _ = Registry("thing", "plugins", "others").entries


METHOD = '''
from dataclasses import dataclass

from vlpeft.benchmark.core.config import Positive
from vlpeft.benchmark.contract.method import Method
from vlpeft.benchmark.contract.parameters import unfreeze
from vlpeft.benchmark.core.registry import register


@register("foreign_norms", paper="Nobody 1999", needs=("sublayers",))
@dataclass(frozen=True)
class ForeignNorms(Method):
    """Train the norms of every n-th site."""

    every: Positive = 1

    def inject(self, backbone):
        for site in backbone.sites[:: self.every]:
            unfreeze(site.norm.parameters())

    def trainable(self, backbone):
        norms = [site.norm for site in backbone.sites[:: self.every]]
        return sum(p.numel() for norm in norms for p in norm.parameters())
'''
SWEEP = """
protocol: {lr: 1e-3, steps: 2, batch_size: 4, train_limit: 8, eval_limit: 4}
tasks: [{task: vqa, dataset: small.yaml}]
backbones: [{name: vit_roberta, text: tiny, vision: tiny}]
methods: [{name: foreign_norms, every: 2}]
"""


def test_a_method_of_another_package(tmp_path) -> None:
    """It is listed, planned and run in fresh processes that find the package on their path."""
    site = tmp_path / "site"
    about = site / "foreign_package-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "foreign_module.py").write_text(METHOD)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[vlpeft.methods]\nforeign_norms = foreign_module:ForeignNorms\n"
    )
    (tmp_path / "small.yaml").write_text(
        "format: shapes\nroot: ''\ntrain_scenes: 24\nval_scenes: 4\ntest_scenes: 8\n"
    )
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)

    out, modules = modules_of("list", "methods", "--json", folder=site)
    (row,) = (row for row in json.loads(out) if row["name"] == "foreign_norms")
    assert row["summary"].endswith(" (from the package foreign-package)")
    assert row["settings"]
    assert "foreign_module" not in modules

    arguments = (
        "--root",
        tmp_path / "root",
        "--on",
        "local",
        "--workers",
        1,
        "--device",
        "cpu",
        "--threads",
        1,
    )
    out, _ = modules_of(
        "sweep", sweep, *arguments, folder=site
    )  # plans here, runs in a worker process
    assert "foreign_norms" in out
    (record,) = (
        json.loads(path.read_text()) for path in (tmp_path / "root").glob("cells/*/record.json")
    )
    assert record["cell"]["method"] == {"name": "foreign_norms", "settings": {"every": 2}}
    assert record["cost"]["trainable"] > record["cost"]["head"]
    assert row["name"] not in METHODS.entries  # nothing remains
