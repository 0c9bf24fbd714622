"""Ways to damage values, texts, bytes and files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

# JSON and YAML values that somebody has written, or could.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308),
    *(1e-320, "", " ", "null", "true", "1e-3", "0x10", "~", "..", "../../etc", "/etc/passwd"),
    *("/dev/zero", "/dev/stdin", "\x1b[31mred", "a\nvlpeft: error: all is well", "\x07", "\u202e"),
    *("\ud83d", "\ufeff", "é", "e\u0301", "x" * 300, "x" * 5000, "{image_id:9999999999}", "{x"),
    *("{0}", "%s%s%n", "$(id)", "`id`", "<script>alert(1)</script>", "\\", "\x00", "nan", "-inf"),
    *([], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}}, ["a"] * 1000, list(range(50))),
)
# Whole documents; those that are YAML only come last.
DOCUMENTS: tuple[bytes, ...] = (
    *(b"", b" ", b"\n", b"null", b"[]", b"{}", b"0", b'"text"', b"nan", b"\x00" * 64, b"\xff\xfe"),
    *("é".encode("latin-1"), "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b"[" * 100_000, b"{" * 5000),
    *(b'{"a":' * 20_000, b"9" * 5000, b'{"a": 1, "a": 2}', b"-" * 1000, b"\x7fELF", b"PK\x03\x04"),
    *(b"a: &a [*a]", b"a: *b", b"? [a]\n: 1", b"!!python/object:os.system {}", b"a: !!int x"),
    *(b"a: 2024-13-45", b"a: !!binary x", b"<<: 1", b"\t", b"a: b: c", b"%YAML 9.9\n---\n", b"&"),
    b"a: &a ["
    + b"x," * 9
    + b"]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b"*%c," % (97 + i) * 9) for i in range(9)),
)


def hostile_value(rng: Random) -> Any:
    """Return a value that a file should not hold at a random place."""
    return deepcopy(rng.choice(VALUES))  # it may be damaged further


def damage_json(rng: Random, values: Any) -> Any:
    """Return JSON values with one to three nodes replaced, removed, renamed or added."""
    copy = json.loads(json.dumps(values))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        copy = _damage_node(rng, copy, depth=0)
    return copy


def _damage_node(rng: Random, node: Any, depth: int) -> Any:
    # Go down most of the time: whole documents are tried elsewhere.
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(list(node))
        return _damage_mapping(rng, node, key, depth)
    if isinstance(node, list) and node and rng.random() < 0.9:
        index = rng.randrange(len(node))
        return _damage_list(rng, node, index, depth)
    return hostile_value(rng)


def _damage_mapping(rng: Random, node: dict[str, Any], key: str, depth: int) -> dict[str, Any]:
    way = rng.random()
    if way < 0.07:
        del node[key]
    elif way < 0.12:
        node[f"{key}{rng.choice(('x', ' ', chr(27), ''))}"] = node.pop(key)
    elif way < 0.17:
        node[str(hostile_value(rng))] = hostile_value(rng)
    else:
        node[key] = _damage_node(rng, node[key], depth + 1)
    return node


def _damage_list(rng: Random, node: list[Any], index: int, depth: int) -> list[Any]:
    way = rng.random()
    if way < 0.07:
        del node[index]
    elif way < 0.15:
        node.append(node[index])  # a duplicate
    else:
        node[index] = _damage_node(rng, node[index], depth + 1)
    return node


def damage_bytes(rng: Random, data: bytes) -> bytes:
    """Return bytes that were cut, overwritten, repeated, or replaced by another document."""
    return rng.choice(BYTE_DAMAGE)(rng, data)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _overwrite(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    # Headers are at the beginning, so most damage goes there.
    end = len(data) if rng.random() < 0.3 else min(len(data), 600)
    for _ in range(rng.choice((1, 3, 10, 50))):
        if end:
            changed[rng.randrange(end)] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(changed)


def _blank(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + bytes(len(data) - start)


def _repeat(rng: Random, data: bytes) -> bytes:
    return data + data[: rng.randrange(len(data) + 1)]


def _insert(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(DOCUMENTS)[:2000] + data[start:]


def _document(rng: Random, _data: bytes) -> bytes:
    return rng.choice(DOCUMENTS)


BYTE_DAMAGE: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_cut, _overwrite, _overwrite, _overwrite, _blank, _repeat, _insert, _document),
)


def damage_file(rng: Random, path: Path) -> None:
    """Damage one file: mostly its content, at times what kind of node it is."""
    if rng.random() < 0.12:
        replace_by_odd_node(rng, path)
        return
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.6:
        path.write_bytes(_damaged_lines(rng, data))
        return
    path.write_bytes(damage_bytes(rng, data))


def _damaged_lines(rng: Random, data: bytes) -> bytes:
    """Damage one line of JSON lines, or the whole of a JSON document, keeping it JSON."""
    try:
        return json.dumps(damage_json(rng, json.loads(data))).encode()
    except ValueError:
        lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    try:
        lines[number] = json.dumps(damage_json(rng, json.loads(lines[number]))).encode() + b"\n"
    except ValueError:
        lines[number] = damage_bytes(rng, lines[number])
    return b"".join(lines)


def replace_by_odd_node(rng: Random, path: Path) -> None:
    """Put a folder, a FIFO or a link where a file is expected, or nothing."""
    path.unlink()
    rng.choice(ODD_NODES)(path)


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ODD_NODES: tuple[Callable[[Path], None], ...] = (
    *(Path.mkdir, os.mkfifo, lambda _path: None),
    *(_link_to("nowhere"), _link_to("/dev/null"), _link_to("/dev/zero"), _link_to("/")),
    lambda path: path.symlink_to(path.name),  # to itself
)


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a prepared folder, links included."""
    shutil.copytree(source, target, symlinks=True)
    return target
