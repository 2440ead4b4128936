"""``mpchat status`` names the clients that were cut off last."""

import pytest
from support.status_facts import drawn, server_facts

from mpchat.cli.display import CUT_OFF_SHOWN, status_picture
from mpchat.control.answers import CutOff


def shown(*cut_off: CutOff) -> str:
    return drawn(status_picture(server_facts(cut_off=list(cut_off)), 80), 80)


def test_the_last_are_shown_with_the_reason_the_latest_first() -> None:
    clients = [
        CutOff(address=f"127.0.0.1:500{each}", name="앨리스" * (each % 2), reason="slow consumer", at=each)
        for each in range(8)
    ]
    lines = [each for each in shown(*clients).splitlines() if "slow consumer" in each]
    assert len(lines) == CUT_OFF_SHOWN
    assert "slow consumer: 앨리스 at 127.0.0.1:5007" in lines[0]
    assert lines[1].endswith("slow consumer: 127.0.0.1:5006")


def test_without_any_there_is_no_such_line() -> None:
    assert "cut off" not in shown()


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eevil"])
def test_a_hostile_name_is_escaped(name: str) -> None:
    text = shown(CutOff(address="127.0.0.1:5000", name=name, reason="idle", at=1.0))
    assert all(line.isprintable() for line in text.splitlines())
    assert name not in text
