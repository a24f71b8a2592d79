"""Texts inside markdown and CSV: shown as they are, whatever they hold."""

from __future__ import annotations

import re

from fsar_bench.texts.characters import plain

_MARKUP = re.compile(r"[\\`*\[\]|~$]")
_BEGINS_A_FORMULA = tuple("=+-@＝＋－＠")  # for Excel and its like, in either width


def markdown(text: str) -> str:
    """A text within a line of GitHub's markdown: no emphasis, code, link, picture, formula, HTML, and no end of a cell.

    Addresses are no links either. What can only look odd stays as it is, for the sake of those who read the file itself: an
    underscore within a word, a lone ampersand.
    """
    text = _MARKUP.sub(r"\\\g<0>", plain(text).replace("\n", " ").replace("\t", " "))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # within a word it is no emphasis
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    text = re.sub(r"(?<!\S)#", r"\#", text)  # it would begin or end a heading
    text = re.sub(r":(?=//)", r"\:", text)
    return re.sub(r"(?i)(?<![^\W_])(www)\.", r"\1\.", text)


def csv_cell(text: str) -> str:
    """A text as the cell of a CSV: after an apostrophe where a spreadsheet would take it for a formula and run it.

    So are texts that begin with an apostrophe: whoever reads the file takes one away, and has the text.
    """
    text = plain(text)
    return f"'{text}" if text.startswith(("\t", "'")) or text.lstrip().startswith(_BEGINS_A_FORMULA) else text
