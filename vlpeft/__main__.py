"""`python -m vlpeft`: the `vlpeft` command."""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - a user's own files may have the name of any module
        del sys.path[0]
    from vlpeft.benchmark.cli.main import main

    main()
