"""What metrics cost: a scraped server beside one that is not, and the code of another tree."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import scraped
from scripts.bench.peers import mpchat_peer
from scripts.bench.row import BenchError

ROOT = Path(__file__).parents[2]
# The scripts are the same on each Python.
pytestmark = pytest.mark.one_python


def test_a_tree_runs_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "mpchat").mkdir()
    (tmp_path / "mpchat" / "__init__.py").touch()
    (tmp_path / "mpchat" / "__main__.py").write_text("print('the other one')")
    command = scraped.peer_of(tmp_path).command(tmp_path, 1, 1)
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "the other one\n"


def test_a_scraped_server_is_asked_and_the_ratios_are_shown() -> None:
    words = ("scraped", "--rounds", "1", "--seconds", "0.2", "--rows", "max-10")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mpchat-scraped / mpchat" in done.stdout
    assert "–" not in done.stdout.split("CPU per delivery")[1]


def test_the_scraper_gets_metrics_and_says_what_it_did_not_get(tmp_path: Path) -> None:
    with scraped.scraped_peer(mpchat_peer("one")).serving(tmp_path, 1) as server:
        assert b"mpchat_accepts_total" in scraped.scrape(server)
    with pytest.raises(BenchError, match="the metrics did not come"):
        scraped.scrape(server)
