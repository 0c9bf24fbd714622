"""Arguments are never dropped, and only benchmark/core/libraries uses a library's internals."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = ("vlpeft", "benchmark", "baselines", "methods", "results", "slurm")
ROOM = Path("benchmark/core/libraries")
FILES = sorted(path.relative_to(ROOT) for name in OWN[1:] for path in (ROOT / name).rglob("*.py"))
LIBRARY_FILES = sorted((ROOT / ROOM).rglob("*.py"))
# A library has one module, or one package.
PACKAGES = sorted(path.parent.name for path in (ROOT / ROOM).glob("*/__init__.py"))
MODULES = sorted([path.stem for path in (ROOT / ROOM).glob("[!_]*.py")] + PACKAGES)

# Of these, other code imports only names of the package itself: submodules come and go.
WHOLE_ONLY = {"transformers", "huggingface_hub"}
# Other code imports nothing of these.
ROOM_ONLY = {"pycocoevalcap", "nltk", "open_clip", "timm", "submitit"}
# Extension points that their libraries document; `evaluate` loads modules as single files.
BASES = {"Module", "Function", "Parameter", "ModuleList", "Metric", "FlopCounterMode"}
# ruamel.yaml documents these two as what a program may replace.
BASES |= {"Composer", "SafeConstructor"}
# Public despite their names; and our own model, whose inner steps a bench measures.
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}
MEASURED = {Path("benchmark/bench/ranking.py"): "backbone"}
DOCUMENTED = {"transformers.modeling_outputs"}

Functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def root_of(module: str) -> str:
    return module.partition(".")[0]


def foreign(module: str) -> bool:
    root = root_of(module)
    return root not in OWN and root not in sys.stdlib_module_names


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name ("" for a whole module) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, module, each.name) for each in node.names)


def dropped_stars(tree: ast.AST) -> Iterator[str]:
    """Yield star parameters that a function accepts and then ignores."""
    for node in ast.walk(tree):
        if not isinstance(node, Functions):
            continue
        body = node.body if isinstance(node.body, list) else [node.body]
        used = {name.id for part in body for name in ast.walk(part) if isinstance(name, ast.Name)}
        for star in (node.args.vararg, node.args.kwarg):
            if star is not None and (star.arg not in used or star.arg.startswith("_")):
                yield f"line {star.lineno}: *{star.arg} takes arguments and drops them"


def private_imports(tree: ast.AST) -> Iterator[str]:
    for line, module, name in imports(tree):
        private = any(part.startswith("_") for part in f"{module}.{name}".split(".") if part)
        deep = root_of(module) in WHOLE_ONLY and "." in module and module not in DOCUMENTED
        if (
            foreign(module)
            and module != "__future__"
            and (private or deep or root_of(module) in ROOM_ONLY)
        ):
            yield f"line {line}: import of {module} {name}"


def private_attributes(tree: ast.AST, own: str = "") -> Iterator[str]:
    """Yield private attributes of anything except `self`, `cls` and names in `own`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", own)):
                yield f"line {node.lineno}: .{node.attr}"
        elif (
            isinstance(node, ast.Attribute)
            and node.attr == "__class__"
            and isinstance(node.ctx, ast.Store)
        ):
            yield f"line {node.lineno}: another class for an object"
        elif isinstance(node, ast.keyword) and is_private(node.arg or ""):
            yield f"line {node.value.lineno}: private argument {node.arg}"
        elif is_getattr(node) and is_private(str(ast.literal_eval(node.args[1]))):
            yield f"line {node.lineno}: getattr {node.args[1].value}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def is_getattr(node: ast.AST) -> bool:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return (
        called
        and node.func.id in ("getattr", "setattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
    )


def overrides(tree: ast.AST) -> Iterator[str]:
    """Yield classes that derive from a library's class that is not meant for it."""
    names = {
        name for _, module, name in imports(tree) if foreign(module) and module != "__future__"
    }
    names |= {module for _, module, name in imports(tree) if foreign(module) and not name}
    for node in ast.walk(tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            last = ast.unparse(base).split("[")[0].split(".")
            if last[0] in names and last[-1] not in BASES:
                yield f"line {node.lineno}: class below {ast.unparse(base)}"


def violations(tree: ast.AST, path: Path) -> list[str]:
    found = list(dropped_stars(tree))
    if not path.is_relative_to(ROOM):
        found += [
            *private_imports(tree),
            *private_attributes(tree, MEASURED.get(path, "")),
            *overrides(tree),
        ]
    return [f"{path}: {each}" for each in found]


def test_no_argument_is_dropped_and_internals_are_used_in_one_place() -> None:
    found = [
        each for path in FILES for each in violations(ast.parse((ROOT / path).read_text()), path)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "planted",
    [
        "def attend(query, **_rest): return query",
        "def attend(query, **rest): return query",
        "class A:\n    def f(self, *args): return 1",
        "report = lambda *_: None",
        "def f(*_args): return _args",
        "from torch._dynamo import exc",
        "import torch._functorch.config",
        "from transformers.models.blip.modeling_blip_text import BlipTextModel",
        "from transformers import _x",
        "import submitit",
        "def f(executor): return executor._executor",
        "class A:\n    def f(self): return self.executor._text()",
        "def f(module): module.__class__ = int",
        "def f(file): return file('a', _raise=False)",
        "def f(job): return getattr(job, '_done')",
        "from transformers import ViTModel\nclass Mine(ViTModel): pass",
        "import rich.progress\nfrom rich.progress import Column\nclass Mine(Column): pass",
    ],
)
def test_a_planted_violation_is_found(planted: str) -> None:
    assert violations(ast.parse(planted), Path("slurm/planted.py"))


def test_used_arguments_are_not_a_violation() -> None:
    fine = (
        "import torch\nfrom torch import nn\nclass A(nn.Module):\n"
        "    def f(self, *x, **y): return torch.cat(*x, **y, dim=self._d)"
    )
    assert not violations(ast.parse(fine), Path("slurm/fine.py"))


@pytest.mark.parametrize(
    "path", LIBRARY_FILES, ids=lambda path: path.relative_to(ROOT / ROOM).as_posix()
)
def test_the_room_imports_no_other_room(path: Path) -> None:
    allowed = {"vlpeft.benchmark.core.errors", "vlpeft.benchmark.core.libraries.changes"}
    if path.parent.name in PACKAGES:
        package = f"vlpeft.benchmark.core.libraries.{path.parent.name}"
        allowed |= {f"{package}.{each.stem}" for each in path.parent.glob("[!_]*.py")}
    for line, module, _ in imports(ast.parse(path.read_text())):
        assert not module.startswith("."), (
            f"{path}:{line} could import a module of this folder in place of a library"
        )
        assert root_of(module) not in OWN or module in allowed, f"{path}:{line} imports {module}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "changes"])
def test_each_module_names_its_tried_versions_and_hides_no_library(name: str) -> None:
    ours = import_module(f"vlpeft.benchmark.core.libraries.{name}")
    assert ours.TRIED
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in ours.TRIED)
    assert ours.LIBRARY in {each for names in packages_distributions().values() for each in names}
    assert import_module(name).__name__ == name
    assert Path(import_module(name).__file__ or "").parent != ROOT / ROOM


def test_the_tried_versions_are_those_of_the_constraints() -> None:
    pinned = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    for name in MODULES:
        module = import_module(f"vlpeft.benchmark.core.libraries.{name}")
        if name != "changes":
            assert pinned[module.LIBRARY.replace("_", "-")] in module.TRIED, (
                f"try {name} with the pinned version, then add it to TRIED"
            )


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] + [
        each for group in project["optional-dependencies"].values() for each in group
    ]
    return {normal(re.match(r"[\w.-]+", text)[0]) for text in texts}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_library_is_declared() -> None:
    known = packages_distributions()
    modules = {
        module
        for path in FILES
        for _, module, _ in imports(ast.parse((ROOT / path).read_text()))
        if foreign(module)
    }
    assert {"torch", "PIL", "ruamel.yaml"} <= modules, "the walk finds imports"
    for module in sorted(modules - {"__future__"}):
        names = {normal(name) for name in known.get(root_of(module), [root_of(module)])}
        assert names & declared(), (
            f"{module} is imported, and pyproject.toml does not declare {names}"
        )


def test_light_modules_of_the_room_import_no_torch() -> None:
    light = ["pycocoevalcap", "nltk", "evaluate", "easy_vqa", "rich", "submitit", "huggingface_hub"]
    code = (
        "import sys\nfrom importlib import import_module\n"
        "for name in sys.argv[1:]: import_module(f'vlpeft.benchmark.core.libraries.{name}')\n"
    )
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, *light], check=True, cwd=ROOT)
