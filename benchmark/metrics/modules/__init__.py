"""Metrics in the form of the library `evaluate`: each file can also be loaded by its path, without the hub."""
