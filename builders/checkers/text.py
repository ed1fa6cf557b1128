"""The `text` checker: answers that are words, letters or dates, equal if they read the same.

Rule `last_stated`, version 1. The answer is the content of the last box or what follows the last marker (`Final
answer:`, `the answer is`) in its sentence; without either, the last line states it. Of these words it is the last date,
else the last quoted text, else all of them (the last word where there is no marker).

Compared are letters and digits, without case and space; dates (`7/8/1971`, `July 8, 1971`, `1971-07-08`) as days, the
month first.
"""

import re

from builders.checkers.base import PureChecker
from builders.checkers.markers import answering_part, last_boxed, line_after, markers

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<{}>jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]{{0,6}}\.?"
_DATE = re.compile(
    rf"""
    (?<!\d) (?:
      (?P<m1>\d{{1,2}})[/-](?P<d1>\d{{1,2}})[/-](?P<y1>\d{{4}})
    | (?P<y2>\d{{4}})-(?P<m2>\d{{1,2}})-(?P<d2>\d{{1,2}})
    | {_MONTH.format("m3")} \s (?P<d3>\d{{1,2}})(?:st|nd|rd|th)?,? \s (?P<y3>\d{{4}})
    | (?P<d4>\d{{1,2}})(?:st|nd|rd|th)? \s {_MONTH.format("m4")},? \s (?P<y4>\d{{4}})
    ) (?!\d)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_QUOTED = re.compile(r'["“]([^"“”\n]{1,200})["”]')
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"\w[\w'’-]*")


class TextChecker(PureChecker):
    """Words and dates, in pure Python."""

    name = "text"
    rule = "last_stated"

    def extract(self, prefill: str, text: str) -> str | None:
        """The answer as written, by the rule in the module's docstring."""
        full = answering_part(prefill, text)
        places = [line_after(full, marker.end) for marker in markers(full)]
        boxed = last_boxed(full)
        for start, end in sorted([*places, boxed[1]] if boxed else places, reverse=True):
            stated = boxed[0] if boxed and start == boxed[1].start else full[start:end]
            if end > len(prefill) and (found := _special(stated) or _sentence(stated)):
                return found
        last = full[len(prefill) :].strip().rpartition("\n")[2]
        words = _WORD.findall(last)
        return _special(last) or (words[-1] if words else None)

    def normalise(self, extracted: str) -> str | None:
        """`1971-07-08` of a date, else the letters and digits, in lower case."""
        text = extracted.strip()
        date = _DATE.fullmatch(text.rstrip("."))
        return _day(date) if date else "".join(c for c in _COMMAND.sub("", text).casefold() if c.isalnum()) or None


def _special(stated: str) -> str | None:
    dates = list(_DATE.finditer(stated))
    quoted = _QUOTED.findall(stated)
    return dates[-1][0] if dates else quoted[-1].strip() or None if quoted else None


def _sentence(stated: str) -> str | None:
    """What announces another line (`the answer is simply:`) states nothing."""
    sentence = _SENTENCE_END.split(stated, maxsplit=1)[0].strip(" *$")
    return None if sentence.endswith(":") else sentence or None


def _day(date: re.Match[str]) -> str:
    number = next(n for n in "1234" if date[f"y{n}"])
    month = date[f"m{number}"]
    place = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
    return f"{date[f'y{number}']}-{place:02}-{int(date[f'd{number}']):02}"
