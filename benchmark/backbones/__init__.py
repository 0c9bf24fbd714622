"""Backbones by name. Importing this package imports no model."""

from benchmark.registry import Registry

BACKBONES = Registry[object]("backbone", "benchmark/backbones")
