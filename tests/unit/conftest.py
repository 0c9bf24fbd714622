"""What several unit tests use."""

import pytest

from vlpeft.benchmark.cli.main import main


@pytest.fixture
def vlpeft(capsys):
    """The command as it is typed: words to exit code, what it printed, and its messages."""

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        return ended.value.code, *capsys.readouterr()

    return call
