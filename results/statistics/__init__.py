"""Paired tests, and which differences are more than noise."""
