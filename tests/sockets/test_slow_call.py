"""A slow call whose result comes too late: it is ended all the same, once."""

import threading

from support.waiting import eventually

from mpchat.supervisor.slow_call import SlowCall


def test_a_result_that_comes_late_is_ended_and_also_one_that_is_there() -> None:
    go_on, ended = threading.Event(), list[str]()
    late = SlowCall(lambda: go_on.wait(30) and "늦은 것")
    late.give_up(lambda result: ended.append(str(result)))
    assert ended == []
    go_on.set()
    eventually(lambda: late.done, "the call to end")
    assert ended == ["늦은 것"]
    there = SlowCall(lambda: "빠른 것", at_once=True)
    there.give_up(ended.append)
    assert ended == ["늦은 것", "빠른 것"]


def test_a_wait_ends_with_the_call_or_when_its_time_is_up() -> None:
    go_on = threading.Event()
    late = SlowCall(lambda: go_on.wait(30))
    assert not late.wait(0.01)
    go_on.set()
    assert late.wait()
    assert late.result() is True
    assert SlowCall(lambda: "빠른 것", at_once=True).wait()


def test_a_call_that_fails_late_ends_nothing() -> None:
    go_on, ended = threading.Event(), list[object]()

    def fail() -> None:
        assert go_on.wait(30)
        raise OSError

    late = SlowCall(fail)
    late.give_up(ended.append)
    go_on.set()
    eventually(lambda: late.done, "the call to end")
    assert ended == []
