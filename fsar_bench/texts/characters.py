"""Characters that act instead of showing: which they are, where they are refused, and how they are made visible.

Control characters start escape sequences, format characters turn or hide what stands next to them, line and paragraph
separators break a line, and surrogates are no text. All others are shown as they are.
"""

from __future__ import annotations

import unicodedata

LONGEST = 300  # characters of a name, a title and the like
JOINERS = "\u200c\u200d"  # needed to spell some languages and emoji; invisible, so that no two names may differ in them
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # categories of Unicode


def is_acting(character: str) -> bool:
    """Whether a character is a control or format character, a surrogate, or breaks a line."""
    return not character.isprintable() and unicodedata.category(character) in _ACTING


def fault_of(text: str, allowed: str = "") -> str | None:
    """What a one-line text must be without, in words that follow "one line without"; None if it is sound.

    Args:
        text: any string.
        allowed: characters that act and are allowed all the same.
    """
    if "<" in text or ">" in text:
        return "< and >"
    if text.isprintable():
        return None
    found = next((character for character in text if is_acting(character) and character not in allowed), None)
    return None if found is None else f"the character {named(found)}"


def name_fault(name: str, allowed: str = "") -> str | None:
    """What is wrong with a name that tables show, in words that follow it; None if it is sound.

    Args:
        name: such as that of a class.
        allowed: characters that act and are allowed all the same.
    """
    if len(name) > LONGEST:
        return f"has {len(name)} characters: at most {LONGEST} are allowed"
    fault = fault_of(name, allowed)
    return fault and f"must be one line without {fault}"


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a text that may be endless, for messages."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def named(character: str) -> str:
    """A character by its number and, where it has one, its name: "U+202E (RIGHT-TO-LEFT OVERRIDE)"."""
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}" + (f" ({name})" if name else "")


class _Visible(dict[int, str]):
    r"""What stands for each character, by its number, found when it is first met: `\x1b`, `\u202e`, or the character itself."""

    def __missing__(self, number: int) -> str:
        character = chr(number)
        if character not in "\n\t" and is_acting(character):
            width, letter = (2, "x") if number < 0x100 else (4, "u") if number < 0x10000 else (8, "U")
            self[number] = f"\\{letter}{number:0{width}x}"
        else:
            self[number] = character
        return self[number]


_VISIBLE = _Visible()


def plain(text: str) -> str:
    r"""A text with its acting characters as visible escapes such as `\x1b`; line feeds and tabs stay."""
    return text if text.isprintable() else text.translate(_VISIBLE)


def counted(count: int, one: str, several: str) -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else several}"
