"""The README and the manual's pages, for tests that hold them against the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = ROOT / "mpchat" / "manual"


def page(subject: str) -> str:
    """Return a page's Markdown."""
    return (MANUAL / f"{subject}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of ``text`` in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
