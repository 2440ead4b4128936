"""Text from clients and other programs, made safe to show. Pure; text on the wire is never changed.

Chat text is hostile: an escape sequence can repaint a terminal or type into it, a line break can forge a
log line, and a bidirectional override can make one name look like another. Such text reaches a terminal or a
log only through :func:`visible`, or through :func:`visible_lines` where a line break forges nothing.
"""

import unicodedata

# Format characters that real text needs: the two joiners (Indic scripts, Persian, emoji families) and the
# soft hyphen. All others of the category are invisible or reorder the text around them.
_HARMLESS_FORMATS = frozenset("\u200c\u200d\u00ad")
# Cc control, Cf format, Cs lone surrogate, Co private use, Zl and Zp line and paragraph separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def _shown(char: str) -> str:
    if char in _HARMLESS_FORMATS or unicodedata.category(char) not in _HIDDEN_CATEGORIES:
        return char
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def visible(text: str) -> str:
    """Return ``text`` on one line, with a backslash escape for every character that does not print.

    Emoji tag sequences (U+E0020 to U+E007F, as in the flag of Scotland) are escaped too: outside such flags
    they are invisible and can carry hidden text.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def visible_lines(text: str) -> str:
    """Return ``text`` as :func:`visible` does, but keep its line breaks."""
    return "\n".join(map(visible, text.split("\n")))
