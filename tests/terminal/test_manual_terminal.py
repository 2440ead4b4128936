"""``mpchat manual`` on a terminal: a page in a pager, as wide as the terminal."""

import pytest
from support.harness import MPCHAT
from support.programs import require
from support.screens import Screen

PAGER = ["env", "-u", "LESS", "PAGER=less", *MPCHAT]


@pytest.mark.parametrize("columns", [40, 80])
def test_a_page_is_shown_in_a_pager_and_q_leaves_it(columns: int) -> None:
    require("less")
    with Screen([*PAGER, "manual", "wire"], columns=columns) as screen:
        screen.shows("Frames, messages, errors")
        screen.shows("00 13")
        assert "# Wire" not in screen.text
        assert max(map(len, screen.lines)) <= columns
        screen.press("Space")
        screen.press("q")
        assert screen.exit_code() == 0


def test_the_list_of_subjects_needs_no_pager() -> None:
    with Screen([*PAGER, "manual"]) as screen:
        assert screen.exit_code() == 0
        screen.shows("changelog")
