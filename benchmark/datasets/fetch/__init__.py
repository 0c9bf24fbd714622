"""`vlpeft data`: check a dataset's files, and fetch them."""
