"""Read YAML as plain values: text, numbers, true, false, null, lists and mappings.

A file may come from anybody, so its size, its depth and what its anchors expand to are bounded. 460
bytes of anchors that contain each other would otherwise take gigabytes.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

DEEPEST = 100  # levels of nesting
MOST_VALUES = 100_000  # with each anchor counted wherever it is used
LARGEST_BITS = 64  # of a whole number
SHOWN_CHARACTERS = 40  # of a value, in a message
TAG = "tag:yaml.org,2002:"
PLAIN = {f"{TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
WORDS = {
    "but found another document": "a second document begins here; keep one, and remove the `---`",
}
# Halves of characters cannot be written to a file; NUL ends a path in the operating system.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML 1.2 document.

    Raises:
        ValueError: The text is not such a document, or has a value that is not plain. The message
            is one line; it starts with the line's number and a colon if that is known.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _PlainComposer, _PlainConstructor
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}: " if mark else ""
        problem = WORDS.get(error.problem, error.problem or error.context)
        raise ValueError(f"{place}{_one_line(problem)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{line}: the character U+{ord(text[error.position]):04X} is not allowed; "
            "save the file as UTF-8 text without control characters"
        ) from error
    except Exception as error:  # chr() of a number behind Unicode, for instance
        raise ValueError(_one_line(error)) from error


class _PlainComposer(Composer):
    """Compose nodes of plain values, within the bounds."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # an anchor may be given again; the last one counts
        self.nested = 0  # levels, at the current node
        self.values = 0  # so far, with each anchor counted wherever it is used
        self.sizes: dict[int, int] = {}  # the number of values in each node

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node and all in it, or return that of an alias."""
        mark = self.parser.peek_event().start_mark
        if self.nested >= DEEPEST:
            raise ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        before = self.values
        self.values += 1
        self.nested += 1
        node = super().compose_node(parent, index)
        self.nested -= 1  # an error ends the whole document, so it need not be counted back
        if id(node) in self.sizes:  # an alias
            self.values = before + self.sizes[id(node)]
        elif node.end_mark is None:
            raise ComposerError(None, None, "an anchor contains itself; write plain values", mark)
        self.sizes[id(node)] = self.values - before
        if self.values > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, counting anchors wherever they are used"
            raise ComposerError(None, None, problem, mark)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        """Compose a text, a number, true, false or null."""
        node = super().compose_scalar_node(anchor)
        _check_tag(node)
        if NO_TEXT.search(node.value):
            problem = f"{node.value[:SHOWN_CHARACTERS]!a} holds what is not a character; remove it"
            raise ComposerError(None, None, problem, node.start_mark)
        return node

    def compose_sequence_node(self, anchor: Any) -> Any:
        """Compose a list."""
        node = super().compose_sequence_node(anchor)
        _check_tag(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping, whose keys are scalars, each once."""
        node = super().compose_mapping_node(anchor)
        _check_tag(node)
        first: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                problem = "a list or a mapping is a key; write text as the key"
                raise ComposerError(None, None, problem, key.start_mark)
            if key.tag == f"{TAG}merge":
                continue
            if key.value in first:
                _refuse_duplicate((key, value), first[key.value])
            first[key.value] = key, value
        return node


class _PlainConstructor(SafeConstructor):
    """Construct values; what a tag or a form cannot mean is an error with its line."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            value = super().construct_object(node, deep)
        except YAMLError:
            raise
        except Exception as error:  # int(), float() and others raise errors of many kinds
            kind = node.tag.removeprefix(TAG)
            problem = f"{_show(node)} is not a value of !!{kind}; write plain text or numbers"
            raise ConstructorError(None, None, problem, node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            problem = f"{_show(node)} is too large a number; quote it if it is meant as text"
            raise ConstructorError(None, None, problem, node.start_mark)
        return value


def _check_tag(node: Any) -> None:
    """Raise ComposerError for a node that is not a plain value."""
    if node.tag in PLAIN:
        return
    problem = f"the tag {_short_tag(node.tag)} is not for plain values; remove it"
    if node.tag == f"{TAG}timestamp":
        problem = f"{_show(node)} is read as a date; quote the value if it is meant as text"
    raise ComposerError(None, None, problem, node.start_mark)


def _short_tag(tag: str) -> str:
    """Return a tag as it is written in a file."""
    if tag.startswith(TAG):
        return f"!!{tag.removeprefix(TAG)}"
    return tag


def _refuse_duplicate(second: tuple[Node, Node], first: tuple[Node, Node]) -> None:
    """Raise ComposerError for a key that appears twice."""
    name = second[0].value
    places = " and ".join(
        f"{_show(value)} in line {key.start_mark.line + 1}" for key, value in (first, second)
    )
    problem = f"found duplicate key '{name[:SHOWN_CHARACTERS]}': {places}; remove one"
    raise ComposerError(None, None, problem, second[0].start_mark)


def _show(node: Node) -> str:
    """Return a short description of a value."""
    if isinstance(node, SequenceNode):
        return "a list"
    if isinstance(node, MappingNode):
        return "a mapping"
    text = " ".join(node.value.split())
    if len(text) > SHOWN_CHARACTERS:
        return f"{text[:SHOWN_CHARACTERS]}..."
    return text


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())
