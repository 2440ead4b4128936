"""The bench's comparison of a plain client's first echo with and without the other protocols."""

from scripts.bench import first_echo


def test_each_server_answers_as_many_clients() -> None:
    steps: list[str] = []

    found = first_echo.measure(3, 2, steps.append)

    assert {name: [each.count for each in times] for name, times in found.items()} == {
        "on": [3, 3],
        "off": [3, 3],
    }
    assert steps == ["round 1 of 2", "round 2 of 2"]
