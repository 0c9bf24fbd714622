"""What methods and backbones promise each other."""

from __future__ import annotations

from typing import Any

from vlpeft.benchmark.core.registry import Registry

# Entries are classes derived from `Method`, which imports torch. This module does not.
METHODS: Registry[Any] = Registry("method", "vlpeft/baselines", "vlpeft/methods")
