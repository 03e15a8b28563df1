"""Any text as Markdown or LaTeX that shows exactly this text."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["latex", "markdown"]

LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "`": "{`}",
    "[": "{[}",  # after the \\ of the row above, a bracket or a star would be read as its argument
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\u03b1": r"$\alpha$",
    "\u03b2": r"$\beta$",
    "\u03b3": r"$\gamma$",
    "\u00b5": r"$\mu$",
    "\u03bc": r"$\mu$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
}
ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030c": r"\v",
    "\u0327": r"\c",
}


def latex(text: str) -> str:
    """Escape text for LaTeX in pure ASCII; a character without a glyph in pdflatex becomes its code, as [U+4E2D]."""
    pieces: list[str] = []
    previous = ""
    for character in unicodedata.normalize("NFC", text):
        if character == previous and character in "-'":
            pieces.append("{}")  # keeps LaTeX from joining two signs into a dash or a closing quote
        pieces.append(latex_character(character))
        previous = character
    return "".join(pieces)


def latex_character(character: str) -> str:
    """Escape one character."""
    if character in LATEX:
        return LATEX[character]
    if " " <= character <= "~":
        return character
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    parts = unicodedata.decomposition(character).split()
    if len(parts) == 2 and not parts[0].startswith("<"):
        letter, accent = (chr(int(part, 16)) for part in parts)
        if letter.isascii() and letter.isalpha() and accent in ACCENTS:
            return f"{ACCENTS[accent]}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"


def markdown(text: str) -> str:
    """Escape text for a cell of a GitHub table, on one line."""
    flat = re.sub(r"[\x00-\x20\x7f\x85\u2028\u2029]+", " ", text).strip()
    special = r"([\\|`*<>~&\[\]])" if "](" in flat else r"([\\|`*<>~&])"  # brackets alone make no link
    flat = re.sub(special, r"\\\1", flat)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
