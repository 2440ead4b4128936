"""``scripts.lecture sync``: the guards guard, missing guards show, the watchdog ends the deadlock."""

import subprocess
import sys

import pytest

from scripts.lecture import sync_lab


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


def test_the_command_shows_it_all() -> None:
    command = [sys.executable, "-m", "scripts.lecture", "sync", "--steps", "100"]

    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert answer.returncode == 0, answer.stderr
    assert "own_cells" in answer.stdout
    assert "deadlock" in answer.stdout
