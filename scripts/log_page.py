# ruff: noqa: E501 (a row of a table is one line)
"""The manual's page on logs: its text, and the table of events made from the code."""

import re

from mpchat.ipc.log_events import EVENTS
from mpchat.ipc.log_repeats import BURST, BURST_SECONDS
from mpchat.ipc.standard_stream import WAITING
from scripts.log_calls import log_calls

TEXT = """\
# Logs

Where the log goes, its two formats, the audit trail, and every event.

## Read the log

`mpchat log` shows the last lines of the running server's log, or of the last one's. `mpchat log -f` goes on with new lines, also after the
log was rotated. `-n N` shows more lines, `--level warning` only what is worse than usual, `--audit` only what operators did. `--json` prints
JSON objects, whatever the log's format is. Text is shown also where the log is JSON.

A server in the background logs to `server.log` in its own folder, or to `log_file`. A server in the foreground logs to standard error, unless
`log_file` is set. `log_level` and `log_format` say what is logged and how. A running server follows the three settings after `mpchat reload`.

To rotate the log, move the file away and send SIGUSR1 to the supervisor. For logrotate:

```
/var/log/mpchat.log {{
    weekly
    rotate 8
    postrotate
        pkill -USR1 -o -f 'mpchat.supervisor default' || true
    endscript
}}
```

## Text and JSON

With `log_format` text, a line is for people:

```
2026-11-29 09:30:15.123 WARNING worker 1[4242]: refused, wrong jwt: alice, 192.0.2.7:50312
```

With `log_format` json, it is one object in ASCII, here on several lines:

```json
{{
  "time": "2026-11-29T09:30:15.123+09:00",
  "level": "warning",
  "process": "worker 1[4242]",
  "event": "proof_refused",
  "text": "refused, wrong jwt: alice, 192.0.2.7:50312",
  "kind": "jwt",
  "name": "alice",
  "address": "192.0.2.7:50312"
}}
```

| field | value |
|---|---|
| `time` | when, with the zone and milliseconds |
| `level` | `debug`, `info`, `warning` or `error` |
| `process` | the process and its pid |
| `event` | the event's name, which stays the same; the texts may change |
| `text` | the line for people |
| `repeated` | so many lines of this kind before it were not written |
| `stack` | the stack of an error, or that of a process which SIGUSR2 asks for, with line ends |

The other fields are those of the event, in the table below. A line that is printed to standard error, such as a traceback that nobody expected or
the warning of a library, is an object with the event `output`. Three things are not JSON. A crash in native code writes its stacks as
text. A process that cannot even load its code writes a traceback. A full disk can leave the first half of a line.

Text from clients is escaped in both formats. Control characters, escape sequences, line separators, invisible characters and those that
change the direction of text stand there as `\\x1b` or `\\u202e`. A string in JSON holds these escapes too, so a program may print it.
A line of JSON has at most 16 KiB. Longer texts in it are cut, and end in `[cut]`.

## Dropped and repeated lines

No line makes the server wait. A thread of each process writes its lines. Up to {waiting} lines of each process wait, and further lines are dropped:
on a full disk, a disk that hangs, a pipe that nobody reads. When the log can be written again, the event `log_lines_dropped` says how many
lines are missing there. The [metrics](metrics.md) have the sum for each process: `mpchat_log_dropped_lines_total`.

Of lines of one kind, {burst} are written in {seconds:g} seconds. The others are counted. The count stands at the next line of that kind, or at the last one
that was held back, which is written when the {seconds:g} seconds are over or when the process ends. In JSON the count is the field `repeated`.

## Audit trail

What operators do leaves a line when its result is known. Neither `log_level` nor the count of repeats keeps such a line back. Its event is
`audit`.

```
2026-11-29 09:31:02.480 INFO supervisor[4240]: audit: ban "192.0.2.9" for 3600 s, by mpchat command of user ann (uid 1000): done, connections ended: 2
2026-11-29 09:31:40.007 INFO supervisor[4240]: audit: kick "bob", by operator "alice" at 192.0.2.7:50312: done, connections ended: 1
```

| field | value |
|---|---|
| `actor` | who: an operator in the chat, or the user whose command it was, as the kernel says |
| `action` | `say`, `kick`, `ban`, `unban`, `mute`, `unmute`, `close`, `reload`, `scale`, `stop`, `user add`, `user password`, `user role`, `user remove`, `token` |
| `target` | a name, an address, a room, a number of workers, or the first 200 characters of an announcement |
| `seconds` | how long a ban or a mute lasts; without it, for good |
| `address` | where an operator's client is; without it, this machine |
| `result` | `done`, with what that did, or why not |

`mpchat user` and `mpchat token` work without a server. They tell the running server that the settings file and the environment name. When
none runs, the trail has no line of them. A signal names no user, so a stop or a reload by a signal is in the log, but not in the trail.

The trail is part of the log, and the user who runs the server can write there. To keep it from that user, send the log to another machine.

## Events

Words in braces are the fields, each with its name in JSON.

| event | level | line |
|---|---|---|
{rows}
"""


def logs_page() -> str:
    """Return the page on logs."""
    levels: dict[str, set[str]] = {}
    for call in log_calls():
        levels.setdefault(call.template or "", set()).add(call.level)
    rows = [
        f"| `{event}` | {' or '.join(sorted(levels.get(template, {'warning'})))} | {_line(template, fields)} |"
        for template, (event, *fields) in sorted(EVENTS.items(), key=lambda row: row[1])
    ]
    return TEXT.format(waiting=WAITING, burst=BURST, seconds=BURST_SECONDS, rows="\n".join(rows))


def _line(template: str, fields: list[str]) -> str:
    """Return a template with its fields' names in braces."""
    names = iter(fields)
    return re.sub(r"%[.\d]*[a-z]", lambda _: f"{{{next(names)}}}", template).replace("|", "\\|")
