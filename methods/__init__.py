"""The papers' own methods, one file each."""
