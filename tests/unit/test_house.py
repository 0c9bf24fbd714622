"""The rooms of the code, and which room may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

from vlpeft.benchmark.core.registry import REPOSITORY

FLOORS = (  # a room imports from lower floors only
    "core",
    "libraries",
    "contract metrics datasets",
    "backbones tasks cells baselines",
    "run methods",
    "plan export pretraining verify",
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


<<<<<<< HEAD
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
=======
def room(path: str) -> str:
    """Return the room of a path, such as `run` for benchmark/run/loop.py."""
    return path.removeprefix("benchmark/").split("/")[0]


def file_of(module: str) -> str | None:
    """Return the file of one of our modules."""
    stem = module.removeprefix("vlpeft.").replace(".", "/")
    return next((name for name in (f"{stem}.py", f"{stem}/__init__.py") if name in FILES), None)


def imports(path: str) -> Iterator[tuple[int, str]]:
    """Yield line and file of each of our modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(FILES[path].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [file_of(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [
                file_of(f"{node.module}.{alias.name}") or file_of(str(node.module))
                for alias in node.names
            ]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name is not None)
>>>>>>> h_tests


def test_arrows_go_down() -> None:
    arrows = {(a, b) for a in MODULES for b in imports(a) if b in MODULES and room(a) != room(b)}
    between = {(room(a), room(b)) for a, b in arrows}
    assert [each for each in between if each in NEVER or FLOOR[each[0]] <= FLOOR[each[1]]] == []


def test_the_picture_shows_these_rooms() -> None:
    """Redraw it with `python -m docs.images.rooms`."""
    from docs.images import rooms

    assert set(rooms.ROOMS) == set(FLOOR)
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw()


def test_no_circles() -> None:
    TopologicalSorter({module: set(imports(module)) for module in MODULES}).prepare()


def test_each_module_has_one_name() -> None:
<<<<<<< HEAD
    """Imported as `results`, a module exists twice, and a user's results.py could shadow it."""
    names = {name.partition(".")[0] for module in MODULES for name in imports(module)}
    assert names.isdisjoint({"benchmark", "baselines", "methods", "results", "slurm"})
=======
    """Under a second name, `results`, a module would exist twice and could be a user's own file."""
    everything = [*FILES.values(), *(REPOSITORY / "tests").rglob("*.py")]
    lines = [
        line.strip()
        for file in everything
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in lines if line.startswith(OLD)] == []
>>>>>>> h_tests
