"""One module for each library whose private or unstable parts vlpeft uses.

A module here has its library's name, so a new version of the library means an edit in one file.
Each module names in `TRIED` the versions that it was tested with.
Modules here import their library, `changes` and `vlpeft.benchmark.core.errors`, and nothing else of vlpeft.
"""
