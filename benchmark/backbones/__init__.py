"""Backbones by name. Importing this package imports no model."""

from typing import Any

from benchmark.registry import Registry

BACKBONES: Registry[Any] = Registry("backbone", "benchmark/backbones")
