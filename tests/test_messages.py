"""Parts of messages that several modules share."""

import pytest

from c2fvl.messages import listed, nearest_names


@pytest.mark.parametrize(
    ("items", "text"),
    [("", "none"), ("A", "A"), ("AB", "A, B"), ("ABC", "A, B and 1 more"), ("ABCDE", "A, B and 3 more")],
)
def test_long_lists_are_cut(items, text):
    assert listed([*items], 2) == text


def test_a_list_of_lines():
    assert listed([*"ABC"], 2, separator="\n") == "A\nB\nand 1 more"


def test_the_nearest_names_or_all():
    assert nearest_names("unett", ["unet", "lvit"]) == "; did you mean unet?"
    assert nearest_names("x", ["unet", "lvit"]) == "; known are unet, lvit."
