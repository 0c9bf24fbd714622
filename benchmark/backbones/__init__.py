"""Backbones by name. Importing this package imports no model."""

from typing import Any

from vlpeft.benchmark.core.registry import Registry

BACKBONES: Registry[Any] = Registry("backbone", "vlpeft/benchmark/backbones")
