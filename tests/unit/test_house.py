"""The rooms of the code, and which room may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

from vlpeft.benchmark.core.registry import REPOSITORY

FLOORS = (  # a room imports from lower floors only
    "core",
    "contract metrics datasets",
    "backbones tasks cells baselines",
    "run methods",
    "plan export pretraining",
    "launch results",
    "slurm bench",
    "cli",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
NEVER = {("slurm", "results"), ("bench", "results")}
NEVER |= {("methods", "backbones"), ("baselines", "backbones")}
FILES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", "."): path
    for package in ("benchmark", "baselines", "methods", "results", "slurm")
    for path in (REPOSITORY / "vlpeft" / package).rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def room(module: str) -> str:
    """vlpeft.benchmark.run.loop is in `run`, vlpeft.results.tables.table in `results`."""
    return module.removeprefix("vlpeft.").removeprefix("benchmark.").split(".")[0]


def imports(module: str) -> Iterator[str]:
    """Every module of ours that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            parent = getattr(node, "module", "")
            for name in (alias.name for alias in node.names):
                yield f"{parent}.{name}" if f"{parent}.{name}" in MODULES else parent or name


def test_arrows_go_down() -> None:
    arrows = {(a, b) for a in MODULES for b in imports(a) if b in MODULES and room(a) != room(b)}
    between = {(room(a), room(b)) for a, b in arrows}
    assert [each for each in between if each in NEVER or FLOOR[each[0]] <= FLOOR[each[1]]] == []


def test_the_core_does_not_wait_for_torch() -> None:
    """Only `core/libraries` imports it, and the rest of the core never imports that."""
    libraries = "vlpeft.benchmark.core.libraries"
    rest = [name for name in MODULES if room(name) == "core" and not name.startswith(libraries)]
    assert [a for a in rest for b in imports(a) if b.startswith((libraries, "torch"))] == []


def test_the_picture_shows_these_rooms() -> None:
    """Redraw it with `python -m docs.images.rooms`."""
    from docs.images import rooms

    assert set(rooms.ROOMS) == set(FLOOR)
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw()


def test_files_and_functions_are_short() -> None:
    """At most 350 lines a file, and 40 a function, its signature and docstring aside."""
    long = [name for name, path in MODULES.items() if path.read_text().count("\n") > 350]
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1:2] if ast.get_docstring(node) else node.body[:1]
                lines = node.body[-1].end_lineno - first[0].lineno + 1 if first else 0
                long += [f"{name}.{node.name}"] * (lines > 40)
    assert long == []


def test_no_circles() -> None:
    TopologicalSorter({module: set(imports(module)) for module in MODULES}).prepare()


def test_each_module_has_one_name() -> None:
    """Imported as `results`, a module exists twice, and a user's results.py could shadow it."""
    names = {name.partition(".")[0] for module in MODULES for name in imports(module)}
    assert names.isdisjoint({"benchmark", "baselines", "methods", "results", "slurm"})
