"""Tests that need a CUDA GPU: `tox run -e gpu`."""
