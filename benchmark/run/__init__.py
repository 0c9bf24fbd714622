"""Run one cell: from its settings to its record."""
