"""The stress test of hostile clients must be able to fail. How long things take is not tested here."""

import re
import time
from multiprocessing import Pipe

import pytest
from click.testing import CliRunner
from support.manual import page
from support.stress import broken, stress, temporary  # noqa: F401  (a fixture)

from scripts.common.latency import Latency
from scripts.stress.command import main
from scripts.stress.hostile.innocents import Innocent, Innocents, InnocentsPlan
from scripts.stress.hostile.kinds import KINDS
from scripts.stress.hostile.scenario import Attack

SHORT = ("--seconds", "0.5", "--connections", "2", "--workers", "1", "--slack", "100")


def latency(*milliseconds: float) -> Latency:
    measured = Latency()
    for each in milliseconds:
        measured.record(int(each * 1e6))
    return measured


def test_an_attack_is_judged_by_delay_restarts_and_status() -> None:
    assert Attack("x", 0.05, hurt=latency(*[10] * 100)).reasons(1.0) == []
    slow = Attack("x", 0.05, hurt=latency(*[60] * 100))
    assert slow.reasons(1.0) == ["x: p99 of the innocent is 60 ms, 50 allowed"]
    assert slow.reasons(2.0) == []
    assert Attack("x", 0.05).reasons(1.0) == ["x: no innocent client was served"]
    bad = Attack("x", 0.05, hurt=latency(1), restarted=2, status=1.5)
    assert bad.reasons(1.0) == ["x: 2 workers were restarted", "x: the status took 1.5 s"]


def test_an_attack_is_judged_by_how_long_it_takes_to_sign_in_meanwhile() -> None:
    signing = {"password": latency(10, 2900), "jwt": latency(10, 900)}
    attack = Attack("x", 0.05, "closed", hurt=latency(1), sign_ins=signing)
    assert attack.reasons(1.0) == []
    assert attack.facts()["sign-in by jwt"] == "10 ms, at most 900 ms"
    signing |= {"password": latency(10, 4000), "jwt": Latency()}
    assert attack.reasons(1.0) == [
        "x: to sign in by password took 4.0 s",
        "x: no innocent client signed in by jwt",
    ]
    attack.let_in = 1
    assert "x: 1 hostile clients were let in" in attack.reasons(1.0)


@pytest.mark.parametrize("comes_back", [True, False], ids=["a stall that ends", "a stall to the end"])
def test_a_stall_of_everybody_is_not_one_trip_of_each(*, comes_back: bool) -> None:
    near, far = Pipe()
    with near, far:
        plan = InnocentsPlan(name="innocents", number=0, address=("", 0), run="r", connections=4)
        innocents = Innocents(plan, near)
        innocents.phase = "attack"
        stalled = [Innocent(f"{number}", "quiet") for number in range(4)]
        innocents.connections += stalled
        innocents.latency["attack"] = latency(*[3.0] * 520)
        for each in stalled:
            each.waits, each.sent_at = True, time.monotonic_ns() - int(0.9e9)
            if comes_back:
                innocents._came_back(each)
        innocents.command("phase", "")
        for each in stalled:
            each.sock.close()
        innocents.selector.close()
    (reason,) = Attack("x", 0.05, hurt=innocents.latency["attack"]).reasons(1.0)
    assert reason.startswith("x: p99 of the innocent is 8")


def test_the_manual_lists_the_kinds_that_attack_the_sign_in() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|.*\| (\w+) \|$", page("promises"), re.MULTILINE)
    assert listed == [(name, kind.auth) for name, kind in KINDS.items() if kind.auth != "open"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sends_something_again_and_again(kind: str) -> None:
    assert KINDS[kind].again(1)
    assert KINDS[kind].again(1) == KINDS[kind].again(1)


@pytest.mark.usefixtures("temporary")
def test_kinds_attack_in_turn_and_the_innocent_are_served() -> None:
    code, verdict = stress("hostile", *SHORT, "--kinds", "one byte", "--reading", "both")
    assert (code, verdict["reasons"]) == (0, [])
    assert list(verdict["faults"]) == ["one byte, reading", "one byte, not reading"]
    assert verdict["counts"]["deliveries"] > 100


@pytest.mark.usefixtures("temporary")
def test_guessers_attack_in_turn_and_the_innocent_sign_in_meanwhile() -> None:
    kinds = [name for name, kind in KINDS.items() if kind.auth != "open"]
    code, verdict = stress("hostile", *SHORT, "--kinds", ",".join(kinds), "--reading", "yes")
    assert (code, verdict["reasons"]) == (0, [])
    assert list(verdict["faults"]) == [f"{kind}, reading" for kind in kinds]
    del verdict["faults"]["password guesses of many, reading"]  # each takes 0.2 s of CPU that is left over
    assert all(float(each["errors"].split()[0]) > 0 for each in verdict["faults"].values())
    assert verdict["counts"]["checked"] > 10


@pytest.mark.usefixtures("temporary")
def test_a_worker_that_an_attack_ends_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = """
        def install(worker, slot):
            reading, take = part_of_worker("reading.Reading._take")
            def fragile(self, connection, data):
                if data.startswith(bytes(100)):
                    os._exit(7)
                return take(self, connection, data)
            reading._take = fragile
    """
    broken(tmp_path_factory, monkeypatch, fault)
    code, verdict = stress("hostile", *SHORT, "--kinds", "empty frames", "--reading", "yes")
    assert code == 1
    assert any("restarted" in each or "without cause" in each for each in verdict["reasons"])


@pytest.mark.parametrize("option", ["--kill-workers", "--reload", "--disconnect-storm"])
def test_a_fault_that_the_scenario_does_not_have_is_wrong_usage(option: str) -> None:
    answer = CliRunner().invoke(main, ["hostile", option])
    assert answer.exit_code == 2
    assert "No such option" in answer.output


def test_a_kind_that_is_not_there_is_wrong_usage() -> None:
    answer = CliRunner().invoke(main, ["hostile", "--kinds", "friendly"])
    assert answer.exit_code == 2
    assert "friendly is no kind: empty frames," in answer.output
