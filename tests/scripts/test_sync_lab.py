"""``scripts.lecture sync``: the guards guard, missing guards show, the watchdog ends the deadlock."""

import pytest
from click.testing import CliRunner

from scripts.lecture import sync_lab
from scripts.lecture.__main__ import main


@pytest.mark.parametrize("way", sync_lab.GUARDED, ids=lambda way: way.__name__)
def test_a_guarded_counter_comes_out_as_zero(way: sync_lab.Way) -> None:
    rest, seconds = sync_lab.measure(way, 500)

    assert rest == 0
    assert seconds > 0


@pytest.mark.parametrize("way", sync_lab.UNGUARDED, ids=lambda way: way.__name__)
def test_an_unguarded_counter_loses_steps(way: sync_lab.Way) -> None:
    # Chance may spare one run where the two processes hardly meet; not this many.
    rests = (sync_lab.measure(way, 200_000)[0] for _ in range(10))

    assert any(rests)


def test_the_watchdog_finds_the_deadlock_and_the_other_process_goes_on() -> None:
    found = sync_lab.deadlock()

    assert found.board == [0, 1, 1, 0]
    assert "in philosopher" in found.stack
    assert found.survivor_exit == 0


@pytest.mark.parametrize("board", [[0, -1, 1, -1], [0, 1, 1, -1], [-1, -1, -1, -1], [0, 0, 1, 1]])
def test_waiting_alone_is_no_circle(board: list[int]) -> None:
    assert not sync_lab.in_a_circle(board)


def test_the_command_shows_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_lab, "UNGUARDED", [sync_lab.nothing])
    monkeypatch.setattr(sync_lab, "GUARDED", [sync_lab.own_cells])

    answer = CliRunner().invoke(main, ["sync", "--steps", "100"])

    assert answer.exit_code == 0, answer.output
    assert "own_cells" in answer.output
    assert "deadlock" in answer.output
