"""Metrics as modules of the library `evaluate`, which can load each file by its path, offline."""
