"""The mutants of a source file: every small change, as a replacement of text."""

from __future__ import annotations

import ast
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
NAMES = {
    "mean": "sum",
    "fmean": "sum",
    "sum": "max",
    "max": "min",
    "min": "max",
    "argmax": "argmin",
    "amax": "amin",
    "any": "all",
    "all": "any",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "sigmoid": "tanh",
    "zeros": "ones",
    "ones": "zeros",
    "floor": "ceil",
    "ceil": "floor",
    "exp": "expm1",
    "sqrt": "square",
}
REMOVED = {"detach", "contiguous", "clone", "float", "flatten", "strip", "lower", "sort"}
# Calls whose arguments are text for people, or only say how something is typed.
QUIET = {"cast", "print", "say", "warn", "log", "note", "info", "warning", "TypeVar", "Literal"}
# Calls whose first two arguments are not swapped: an error is certain, or nothing changes.
FIXED = {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "partial", "map", "filter"}
FIXED |= {"max", "min", "maximum", "minimum", "promote_types", "equal"}  # symmetric


@dataclass(frozen=True)
class Mutant:
    """One change of a file: `bytes[start:end]` becomes `text`."""

    path: str
    start: int
    end: int
    text: str
    number: int
    line: str
    change: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Identify the mutant across edits elsewhere in the file."""
        return self.path, self.line, self.change

    def apply(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def list_mutants(path: str, source: bytes) -> list[Mutant]:
    """Return the mutants of a file in the order of the text, each of which can be compiled."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    mutants: dict[tuple[int, int, str], Mutant] = {}
    for mutant in finder.found:
        mutants.setdefault((mutant.start, mutant.end, mutant.text), mutant)
    return sorted(mutants.values(), key=lambda mutant: (mutant.start, mutant.end))


class _Finder(ast.NodeVisitor):
    """Collect mutants; skip what no number depends on."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.found: list[Mutant] = []

    def add(self, node: ast.AST, new: ast.AST | str) -> None:
        """Note the replacement of a node."""
        start, end = self._span(node)
        text = new if isinstance(new, str) else f"({ast.unparse(new)})"
        old = " ".join(self.source[start:end].decode().split())
        shown = text.removeprefix("(").removesuffix(")") if text.startswith("(") else text
        number: int = node.lineno  # type: ignore[attr-defined]
        line = self.lines[number - 1].decode().strip()
        change = f"{old} -> {' '.join(shown.split())}"
        self.found.append(Mutant(self.path, start, end, text, number, line, change))

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = sum(map(len, self.lines[: node.lineno - 1])) + node.col_offset
        end = sum(map(len, self.lines[: node.end_lineno - 1])) + node.end_col_offset
        return start, end

    # What is skipped.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if _only_raises(node.body):
            for statement in node.orelse:
                self.visit(statement)
            return
        if isinstance(node.test, ast.Name | ast.Attribute | ast.Call):
            self.add(node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Skip a message."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip what is for the type checker."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip text."""

    # What is changed.

    def visit_BinOp(self, node: ast.BinOp) -> None:
        swapped = ARITHMETIC.get(type(node.op))
        if swapped and not (_is_text(node.left) or _is_text(node.right)):
            self.add(node, ast.BinOp(node.left, swapped(), node.right))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        swapped = ARITHMETIC.get(type(node.op))
        if swapped and not _is_text(node.value):
            self.add(node, ast.unparse(ast.AugAssign(node.target, swapped(), node.value)))
        self.add(node, "pass")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            operators = list(node.ops)
            operators[place] = COMPARISONS[type(operator)]()
            self.add(node, ast.Compare(node.left, operators, node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.add(node, ast.BoolOp(swapped, node.values))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add(node, ast.IfExp(node.test, node.orelse, node.body))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(node, node.operand)
        elif isinstance(node.op, ast.USub) and _is_whole(node.operand):
            assert isinstance(node.operand, ast.Constant)
            self.add(node, f"-{node.operand.value + 1}")  # dim=-1 -> dim=-2
            return
        elif isinstance(node.op, ast.USub):
            self.add(node, node.operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, repr(not node.value))
        elif isinstance(node.value, int):
            self.add(node, repr(node.value + 1))
        elif isinstance(node.value, float):
            self.add(node, repr(node.value * 2 or 0.1))
            if node.value:
                self.add(node, f"(-{node.value!r})")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and _name(node.value) not in (*QUIET, "__init__"):
            self.add(node, "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        if name in QUIET or name.endswith("Error"):
            return
        if name in NAMES:
            self.add(node.func, _renamed(node.func, NAMES[name]))
        if name in REMOVED and isinstance(node.func, ast.Attribute):
            self.add(node, node.func.value)
        if name == "sorted":
            self.add(node, ast.Call(ast.Name("list"), node.args[:1], []))
        self._change_arguments(node)
        self.generic_visit(node)

    def _change_arguments(self, node: ast.Call) -> None:
        for place, keyword in enumerate(node.keywords):
            fewer = node.keywords[:place] + node.keywords[place + 1 :]
            if keyword.arg != "device":  # the tests have only one
                self.add(node, ast.Call(node.func, node.args, fewer))
        if len(node.args) < 2 or _name(node) in FIXED or _alike(*node.args[:2]):
            return
        if all(isinstance(each, ast.Name | ast.Attribute | ast.Call) for each in node.args[:2]):
            swapped = [node.args[1], node.args[0], *node.args[2:]]
            self.add(node, ast.Call(node.func, swapped, node.keywords))


def _only_raises(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise)


def _alike(a: ast.expr, b: ast.expr) -> bool:
    return ast.dump(a) == ast.dump(b)


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    return isinstance(node, ast.JoinedStr)


def _is_whole(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _name(node: ast.Call) -> str:
    """Return the last part of the name of the called function."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _renamed(function: ast.expr, name: str) -> ast.expr:
    if isinstance(function, ast.Attribute):
        return ast.Attribute(function.value, name)
    return ast.Name(name)
