"""The manual's Containerfile, taken apart."""

import json
import re
from typing import NamedTuple

from support.manual import MANUAL

CONTAINERFILE = MANUAL / "Containerfile"


class Instruction(NamedTuple):
    """A line of the file: a word in capitals, its options, and the rest."""

    name: str
    options: tuple[str, ...]
    rest: str

    @property
    def words(self) -> list[str]:
        """The command that it runs, which is a list in JSON: no shell is needed."""
        found = json.loads(self.rest.removeprefix("CMD "))
        assert all(isinstance(each, str) for each in found)
        return list(found)


def instructions(name: str | None = None) -> list[Instruction]:
    """Return the instructions of the file, or those that are called ``name``."""
    found = []
    for line in CONTAINERFILE.read_text().splitlines():
        if line and not line.startswith("#"):
            word, *options, rest = re.match(r"([A-Z]+) ((?:--\S+ )*)(.+)", line).groups()  # type: ignore[union-attr]
            found.append(Instruction(word, tuple(" ".join(options).split()), rest))
    return [each for each in found if name in (None, each.name)]


def copied() -> list[str]:
    """Return the paths in the clone that the image is built from."""
    own = [each for each in instructions("COPY") if not each.options]
    return [path for each in own for path in each.rest.split()[:-1]]
