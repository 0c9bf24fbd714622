"""Seeded hostile input: damaged files, odd values and odd arguments for every command.

`test_fuzz.py` tries a few hundred inputs with each run of the tests. The long form is

    python -m tests.fuzz --inputs 100000

An input must end with an exit code and at most one line of error: without a traceback, without a
hang, within bounded memory, and without a temporary file that is left behind.
"""
