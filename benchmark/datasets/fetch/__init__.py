"""`vlpeft data`: download the files of a dataset, and check them."""
