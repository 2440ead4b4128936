"""A plain chat in the test's process: an interpreter of its own takes 0.3 s of CPU to load."""

import io
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from support.waiting import PATIENCE


def chatted(said: bytes, chat: Callable[[], object]) -> tuple[int, str, str]:
    """Run ``chat`` with ``said`` as its standard input; return its exit code, output and errors."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(said)
        stdin.seek(0)
        with patch.object(sys, "stdin", stdin), redirect_stdout(out), redirect_stderr(err):
            try:
                code = chat()
            except SystemExit as end:
                code = end.code
            for thread in threading.enumerate():
                if thread.name == "mpchat-stdin":  # it reads the descriptor, which is closed below
                    thread.join(PATIENCE)
                    assert not thread.is_alive(), "the thread that reads the input goes on"
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    assert code is None or isinstance(code, int)
    return int(code or 0), out.buffer.getvalue().decode(), err.getvalue()
