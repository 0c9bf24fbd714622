"""Seeded mutants of the code that makes numbers: does a test fail for each of them?

    python -m tests.mutation --mutants 200 --json mutants.json

A mutant is one small change of a source file: another operator, a constant plus one, a removed
statement. It is made in a copy of the repository. Then the few tests run that cover the changed
module (`targets.py`). A mutant that they accept has survived: either it changes no number, and
`EQUIVALENT` says why, or a test is missing.

Mutants leave out what no number depends on: docstrings, annotations, messages, and the conditions
under which an error is raised.
"""
