"""Text from strangers, made safe to show. Pure; nothing here changes what travels on the wire.

Chat text is hostile: an escape sequence can repaint a terminal or type into it, a line break can forge a
log line, and a bidirectional override can make one name look like another. :func:`visible` is the only way
such text reaches a terminal or a log.
"""

import unicodedata

# Format characters that real text needs: the two joiners (Indic scripts, Persian, emoji families) and the
# soft hyphen. All others of the category are invisible or reorder what stands around them.
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
    """Return ``text`` on one line, with every character that does not print as a backslash escape.

    Emoji tag sequences (U+E0020 to U+E007F, the flag of Scotland, say) come out escaped: they are invisible
    outside those flags and can carry hidden text.
    """
    return text if text.isprintable() else "".join(map(_shown, text))
