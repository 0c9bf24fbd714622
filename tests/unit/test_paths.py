"""Texts that leave this machine name no folders of it."""

import pytest

from vlpeft.benchmark.core.paths import hide_folders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /home/me/data/x.json: gone", "cannot read x.json: gone"),
        ("('/data/me/w')", "('w')"),
        ("~/me/x.yaml; try again", "x.yaml; try again"),
        ("see https://a.b/c/d", "see https://a.b/c/d"),
        ("vqa/shapes, 1/2 and a/b", "vqa/shapes, 1/2 and a/b"),
        ("</b>", "</b>"),
        ("nothing", "nothing"),
    ],
)
def test_absolute_paths_keep_their_last_name(text, expected) -> None:
    assert hide_folders(text) == expected


def test_a_known_folder_may_have_spaces() -> None:
    assert hide_folders("no /my data/im/1.png", "/my data", "", "/") == "no im/1.png"
