"""The table of log events has each kind of line that the package logs, with a name for each value."""

import re
from collections import Counter

import pytest

from mpchat.ipc.log_events import AUDIT, COMMON, EVENTS, OTHER, OUTPUT
from scripts.log_calls import LogCall, log_calls

# The source is the same on each Python.
pytestmark = pytest.mark.one_python

# The audit trail has fields of its own.
CALLS = [each for each in log_calls() if not each.place.startswith("ipc/audit.py")]
# A conversion of the % operator, but not a per cent sign.
CONVERSION = re.compile(r"%(?!%)[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")


def test_the_calls_are_found() -> None:
    assert len(CALLS) > 80
    assert any(each.level == "varies" for each in CALLS)
    assert any(each.values is None for each in CALLS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.place)
def test_each_call_has_a_row_with_a_name_for_each_value(call: LogCall) -> None:
    place, _, template, values = call
    assert template is not None, f"{place}: a template is a literal, or it has no event"
    assert template in EVENTS, f"{place}: give {template!r} a row in mpchat/ipc/log_events.py"
    _, *fields = EVENTS[template]
    assert len(CONVERSION.findall(template)) == len(fields), f"{place}: {template!r} has fields {fields}"
    assert values in (None, len(fields)), place


def test_each_row_is_of_a_line_that_the_package_logs() -> None:
    logged = {each.template for each in CALLS}
    # The note of dropped lines is no call: its template is made for one line and for several.
    assert {each for each in EVENTS if each not in logged} == {
        "%d log line was dropped: the log could not be written",
        "%d log lines were dropped: the log could not be written",
    }


def test_names_are_snake_case_and_an_event_has_the_same_fields_always() -> None:
    for event, *fields in EVENTS.values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", event)
        assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", each) for each in fields)
        assert len(set(fields)) == len(fields)
        assert not set(fields) & set(COMMON)
        assert event not in (AUDIT, OUTPUT, OTHER)
    by_event = {event: fields for event, *fields in EVENTS.values()}
    assert [each for each in EVENTS.values() if by_event[each[0]] != list(each[1:])] == []


def test_no_event_stands_for_two_things() -> None:
    counts = Counter(event for event, *_ in EVENTS.values())
    assert {event for event, count in counts.items() if count > 1} == {"log_lines_dropped"}


def test_no_template_begins_as_the_audit_trail_does_or_with_a_value() -> None:
    assert [each for each in EVENTS if each.startswith(("audit", "%s"))] == []
