"""Sweeps to cells: read, expanded and checked before anything runs."""
