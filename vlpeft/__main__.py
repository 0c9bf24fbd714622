"""`python -m vlpeft`: the `vlpeft` command."""

import os
import sys


def working_folder() -> str:
    """Return the current folder; end with a message if it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not imported before the path is safe
    except FileNotFoundError:
        print(
            "vlpeft: error: the current folder was deleted; change to another folder",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    # A user's own files may have the name of any module.
    if sys.path[0] in ("", working_folder()):
        del sys.path[0]
    from vlpeft.benchmark.cli.main import program

    program()
