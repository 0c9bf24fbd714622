"""The rooms of the code, and which room may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

from vlpeft.benchmark.cells.code import PACKAGES
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
NEVER = {
    ("slurm", "results"),
    ("bench", "results"),
    ("methods", "backbones"),
    ("baselines", "backbones"),
}
VLPEFT = REPOSITORY / "vlpeft"
FILES = {
    path.relative_to(VLPEFT).as_posix(): path
    for name in PACKAGES[1:]
    for path in (VLPEFT / name).rglob("*.py")
}
OLD = tuple(
    f"{word} {name}{end}"
    for word in ("from", "import")
    for name in PACKAGES[1:]
    for end in (".", " ")
)


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


def test_arrows_go_down() -> None:
    arrows = [
        (f"{path}:{line}", room(path), room(name))
        for path in sorted(FILES)
        for line, name in imports(path)
    ]
    between = [(where, a, b) for where, a, b in arrows if a != b]
    assert [each for each in between if each[1:] in NEVER or FLOOR[each[1]] <= FLOOR[each[2]]] == []


def test_the_picture_shows_these_rooms() -> None:
    """Redraw it with `python -m docs.images.rooms`."""
    from docs.images import rooms

    assert set(rooms.ROOMS) == set(FLOOR)
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw()


def test_no_circles() -> None:
    TopologicalSorter(
        {path: {name for _, name in imports(path)} for path in FILES}
    ).prepare()  # raises CycleError


def test_each_module_has_one_name() -> None:
    """Under a second name, `results`, a module would exist twice and could be a user's own file."""
    everything = [*FILES.values(), *(REPOSITORY / "tests").rglob("*.py")]
    lines = [
        line.strip()
        for file in everything
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert [line for line in lines if line.startswith(OLD)] == []
