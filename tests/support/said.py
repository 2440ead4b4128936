"""What a command said: one line of complaint, or only what was asked for; and its exit code."""

import subprocess

# The exit codes of the manual's table.
OK, FAILED, USAGE, NOT_RUNNING, ALREADY, NOT_STARTED, TIMED_OUT = range(7)


def one_line(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The command ended with ``code``, said one line on standard error and nothing else."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("mpchat: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def said(done: "subprocess.CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (OK, "")
    return done.stdout
