"""Mutants that change no number, with the reason. The key is (file, line of source, change)."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
