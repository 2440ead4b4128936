"""``python -m scripts.lecture``: every way serves, select's refusal is quoted, a lost delivery is found.

Small runs of real processes. What the figures come to is not looked at: the machine is shared.
"""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from scripts.bench.peers import python_peer
from scripts.bench.rounds import Rounds
from scripts.bench.row import Figures, Results
from scripts.bench.row import Options as BenchOptions
from scripts.common.descriptors import raise_descriptor_limit
from scripts.common.processes import LOOK_S
from scripts.lecture.cell import Model, Options, Outcome, all_models, pace, run
from scripts.lecture.models import Comparison, main, worker_counts
from scripts.lecture.report import growth_lines, workers_lines

OPTIONS = Options(seconds=0.2, asks_s=0.05, hold_s=0.3)
MODELS = {model.name: model for model in all_models()}
# The models of the command's test: two that refuse a crowd, and one that does not.
COMMAND_RUNS = ("blocking", "select", "poll")
# A test for each number of clients that a server is started for: one, a few, a crowd.
ONE_CLIENT = ("threads", "epoll", "mpchat poll")
TEN_CLIENTS = ("threads", "epoll", "mpchat epoll")
SELECT_SAYS = "filedescriptor out of range in select()"

# A server that relays one message after the other, but not the third one to the client that came second.
FORGETFUL = """
import select, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
clients, messages = [], 0
while True:
    for sock in select.select([listener, *clients], [], [])[0]:
        if sock is listener:
            clients.append(sock.accept()[0])
            continue
        data = sock.recv(4096)
        if not data:
            clients.remove(sock)
        elif len(data) == 2:
            sock.sendall(data)
        else:
            messages += 1
            for place, client in enumerate(clients):
                if (messages, place) != (3, 1):
                    client.sendall(data)
"""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process have as many descriptors as the command has, for the length of a test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_descriptor_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def command(*arguments: str) -> list[str]:
    """Return the command line of a small comparison."""
    return [sys.executable, "-m", "scripts.lecture", "--quick", "--seconds", "0.2", *arguments]


@pytest.mark.parametrize("name", ONE_CLIENT)
def test_a_model_serves_one_client(name: str) -> None:
    alone = run(MODELS[name], 1, OPTIONS)

    assert alone.faults == []
    assert len(alone.waits_s) == 3
    assert alone.us_per_answer > 0


@pytest.mark.parametrize("name", TEN_CLIENTS)
def test_a_model_tells_ten_clients(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    ten = run(MODELS[name], 10, OPTIONS)

    assert ten.faults == []
    assert ten.us_per_message > 0
    assert ten.refusal == ""
    # Nothing is left running, and no file is left.
    assert list(tmp_path.iterdir()) == []
    below = psutil.Process().children(recursive=True)
    # multiprocessing's resource tracker stays as long as this process.
    assert not [each for each in below if "resource_tracker" not in " ".join(each.cmdline())]


@pytest.mark.timeout(300)  # a thousand clients, on a machine that may be busy
@pytest.mark.usefixtures("many_descriptors")
def test_mpchat_refuses_a_crowd_that_select_cannot_watch() -> None:
    crowd = run(MODELS["mpchat select"], 1100, OPTIONS)

    assert crowd.faults == []
    assert "the server is full" in crowd.refusal


def test_one_at_a_time_means_that_the_second_waits_for_the_first() -> None:
    first, second, third = run(MODELS["blocking"], 1, OPTIONS).waits_s

    assert first < OPTIONS.hold_s <= second
    assert second + OPTIONS.hold_s <= third + 0.01


def test_a_server_that_does_not_start_is_a_fault(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such luck')")

    figures = run(Model("broken", "", python_peer("broken", str(script))), 10, OPTIONS)

    assert "no such luck" in figures.faults[0]
    comparison = Comparison([], [], OPTIONS, Rounds([], [], 1, BenchOptions()), [figures])
    assert comparison.faults == [f"broken, 10 clients: {figures.faults[0]}"]


def test_a_lost_delivery_is_a_fault(tmp_path: Path) -> None:
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL)

    options = replace(OPTIONS, stall_s=1.0)
    figures = run(Model("forgetful", "", python_peer("forgetful", str(script))), 10, options)

    assert figures.faults
    assert figures.us_per_message == 0


def test_a_client_that_has_no_answer_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bytes:
        raise TimeoutError

    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL)
    monkeypatch.setattr("scripts.lecture.cell.knock", never)

    options = replace(OPTIONS, stall_s=1.0)
    outcome = run(Model("select", "", python_peer("select", str(script)), limited=True), 10, options)

    assert outcome.refusal == ""
    assert outcome.faults[-1] == "client 1 had no answer within 10 s"
    assert len(outcome.faults) > 1


def test_worker_counts_lie_around_the_cores() -> None:
    assert worker_counts(2, quick=False) == [1, 2, 3, 4]
    assert worker_counts(64, quick=False) == [1, 2, 4, 8, 16, 32, 63, 64, 66]
    assert worker_counts(64, quick=True) == [1, 2]


def test_the_pace_keeps_within_its_bounds() -> None:
    assert [pace(clients) for clients in (1, 1000, 10_000)] == [50, 20, 5]


def test_sentences_say_what_the_figures_say() -> None:
    cells = [
        Outcome("poll", clients, Figures("poll", "poll"), us_per_answer=cost)
        for clients, cost in ((1, 10.0), (1000, 150.0))
    ]
    names = ["mpchat-w1", "mpchat-w2", "mpchat-w3"]
    runs = Results(
        (("flood", name), [Figures("flood", name, deliveries_per_s=pace)])
        for name, pace in zip(names, (1e6, 2e6, 2.1e6), strict=True)
    )

    assert growth_lines(cells) == ["poll: an answer with 1,000 watched costs 15.0 times what it costs with 1"]
    assert workers_lines(names, runs, cores=8)[0].startswith("mpchat-w2 pays off")


@pytest.mark.timeout(300)  # a thousand clients of two servers, on a machine that may be busy
def test_the_command_writes_tables_json_and_a_picture(tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "models.png"
    drawn = ("--plot", str(picture)) if find_spec("matplotlib") else ()

    models = ("--models", ",".join(COMMAND_RUNS), "--workers", "2")
    arguments = command(*models, "--json", str(figures), *drawn)
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=290)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    written = json.loads(figures.read_text())
    assert {cell["model"] for cell in written["cells"]} == set(COMMAND_RUNS)
    assert {each["server"] for each in written["workers"]} == {"mpchat-w2"}
    refusals = {cell["model"]: cell["refusal"] for cell in written["cells"] if cell["refusal"]}
    assert SELECT_SAYS in refusals["select"]
    assert set(refusals) == {"blocking", "select"}
    assert SELECT_SAYS in " ".join(answer.stdout.split())
    assert not drawn or picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.lecture.models.find_spec", lambda name: None)

    answer = CliRunner().invoke(main, ["--plot", "models.png"])

    assert answer.exit_code == 2
    assert "needs matplotlib" in answer.output


def test_the_command_names_what_it_does_not_know() -> None:
    answer = CliRunner().invoke(main, ["--quick", "--models", "fibers"])

    assert answer.exit_code == 2
    assert "fibers" in answer.output


def test_ctrl_c_stops_what_was_started() -> None:
    arguments = command("--models", "epoll", "--sizes", "10", "--seconds", "30")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        family = psutil.Process(process.pid)
        while len(below := family.children(recursive=True)) < 2:  # the server, and the one client
            assert process.poll() is None, "it ended before it had started all processes"
            time.sleep(LOOK_S)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert psutil.wait_procs(below, timeout=5)[1] == []
