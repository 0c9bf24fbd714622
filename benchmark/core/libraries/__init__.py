"""One module or package per library whose private or unstable parts vlpeft uses.

It has the name of its library, so a new version of the library means an edit in one place. It names
in `TRIED` the versions that it was tested with. From vlpeft it imports only `changes` and
`vlpeft.benchmark.core.errors`.
"""
