r"""The `choice` checker: one option of a multiple-choice question, by its key.

Rule `stated_key`, version 1. The answer is the key after the last marker (`Final answer: (B)`, `The answer is B`, `the
best option is B)`, `\boxed{\text{B}}`, `#### b`), else the key that the completion opens with, unless it goes through
several (`(A) is wrong. (B) is right.`, or a list of steps), else the last key that its last line names. A key is a
letter: in parentheses, in bold, behind `option` or `choice`, or alone; `A` and `I` before a word are words, and a key
after `not` is not the answer. Two keys joined by `and` or `or` state none.

Where the problem's options are known (`choices`), a key beyond them is none, and an option that is written out instead
of its key counts if it is the only one that reads so. A digit is a key by position (ARC), unless an option reads so.
"""

import re
from collections.abc import Iterator, Sequence

from builders.checkers.base import PureChecker
from builders.checkers.markers import answering_part, last_boxed, line_after, markers

MAX_OPTIONS = 26

_STYLE = re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:bf|rm)|boxed|fbox)[ ]?\{|[$*_`{}]|\\[()\[\]]")
_KEY = re.compile(
    r"""
    (?P<not>(?:\b(?:not|isn't|neither|nor|except|non)\b|不是) [^.;\n]{0,20}? )?
    (?:
      [(\[] [ ]?(?P<bracketed>[A-Za-z]|\d{1,2})[ ]? [)\]]
    | \b(?i:option|choice|answer|letter)[ ]{1,3}(?P<named>[A-Z]|[a-z](?=[).:,]|$)|\d{1,2})\b(?![-'’.]\w)
    | (?<![A-Za-z0-9_(\[.'’/-]) (?P<bare>[A-Z]) (?![ ](?:is|can)[ ]?n[o'’]t)
      (?= \) | [.:,;] (?:\s|$) | [^\x00-\x7F] | \s*$ | [ ](?:is|and|or|because|since|it|[-–—=])\b | \s[^a-z\s] )
    | ^[ ]{0,3}(?P<alone>[a-z]|\d{1,2})(?= \) | [.:,] (?:\s|$) | \s*$ )
    )
    """,
    re.VERBOSE | re.MULTILINE,
)
_JOINED = re.compile(r"[ ,/&]{0,3}(?:and|or|&|/|,)[ ,]{0,3}(?:option |choice )?", re.IGNORECASE)
_OPTION_IS = re.compile(r"\b(?:option|choice)[ ]is\b", re.IGNORECASE)
_HASHES = re.compile(r"^#{4}[ \t]{0,4}(\(?[A-Za-z]\)?)[ \t]{0,8}$", re.MULTILINE)
_OPENING = re.compile(r"\s*\(?[A-Za-z0-9]{1,2}(?:[ \t]*$|\)|[.:]\s)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[^A-Z\d(\s][.!?])\s|\n")
_SPACE = re.compile(r"[\s.,;:!?]+")


class ChoiceChecker(PureChecker):
    """Keys of options, in pure Python."""

    name = "choice"
    rule = "stated_key"
    reads_choices = True

    def extract(self, prefill: str, text: str, choices: Sequence[str] | None = None) -> str | None:
        """The key as written, or that of the option which is written out; by the rule in the module's docstring."""
        full, kept = answering_part(prefill, text), len(prefill)
        for start, end, slot in _places(full, kept):
            found = _stated(full[start:end], choices)
            if found or slot:
                return found
        opening = _OPENING.match(text)
        if opening and not _goes_through(opening[0], text.strip(), choices):
            return _stated(text.lstrip(), choices)
        last = text.strip().rpartition("\n")[2]
        return _stated(last, choices, last=True) if last else None

    def normalise(self, extracted: str) -> str | None:
        """A capital letter, or the number of the option."""
        key = extracted.strip().strip("()").upper()
        return key or None

    def equal(self, extracted: str, gold: str) -> bool | None:
        """Equal keys, a letter and a number by position; a number where gold is a letter may be a value: None."""
        a, b = self.normalise(extracted) or "", self.normalise(gold) or ""
        if a.isdigit() != b.isdigit() and len(a) <= 2 and len(b) <= 2:
            return None if a.isdigit() else _position(a) == _position(b)
        return a == b


def _places(full: str, kept: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it promises an answer) of what follows each marker or stands in the box, the last first."""
    found = [(*line_after(full, marker.end), marker.slot) for marker in markers(full)]
    found += [(*line_after(full, m.end()), False) for m in _OPTION_IS.finditer(full)]
    found += [(m.start(1), m.end(1), True) for m in _HASHES.finditer(full)]
    box = last_boxed(full)
    if box:
        found.append((*box[1], True))
    yield from ((start, end, slot) for start, end, slot in sorted(found, reverse=True) if end > kept)


def _stated(line: str, choices: Sequence[str] | None, last: bool = False) -> str | None:
    """The first key that a line's first sentence states, or its last one; or that of the option written out there."""
    plain = _STYLE.sub("", line).strip()
    written = _written_out(plain, choices)
    sentence = plain if last else _SENTENCE_END.split(plain, maxsplit=1)[0]
    keys = [m for m in _KEY.finditer(sentence) if not m["not"] and _is_option(_key(m), choices)]
    if written and (not keys or _key(keys[0]).isdigit()):
        return written
    if not keys:
        return None
    chosen = keys[-1 if last else 0]
    return None if any(_joined(sentence, chosen, other) for other in keys) else _key(chosen)


def _goes_through(start: str, text: str, choices: Sequence[str] | None) -> bool:
    """Whether several lines name other keys than the one that `start` opens with: in the first line, or opening others.

    Numbers beside a letter, or letters beside a number, are something else.
    """
    first, *others = text.splitlines()
    opening = _stated(start, choices)
    keys = [_key(m) for m in _KEY.finditer(_STYLE.sub("", first)) if not m["not"]] if others else []
    keys += [key for line in others if (found := _OPENING.match(line)) and (key := _stated(found[0], choices))]
    return opening is not None and any(
        key.upper() != opening.upper() and key.isdigit() == opening.isdigit() for key in keys
    )


def _key(match: re.Match[str]) -> str:
    return match["bracketed"] or match["named"] or match["bare"] or match["alone"]


def _joined(sentence: str, key: re.Match[str], other: re.Match[str]) -> bool:
    """Whether the two are different keys that are stated as one answer."""
    before, after = sorted((key, other), key=lambda match: match.start())
    same = _key(key).upper() == _key(other).upper()
    return not same and _JOINED.fullmatch(sentence, before.end(), after.start()) is not None


def _is_option(key: str, choices: Sequence[str] | None) -> bool:
    return 1 <= _position(key) <= (len(choices) if choices is not None else MAX_OPTIONS)


def _position(key: str) -> int:
    """1 for A or 1; 0 for what is no key."""
    return int(key) if key.isdigit() else ord(key.upper()) - ord("A") + 1 if len(key) == 1 and key.isalpha() else 0


def _written_out(line: str, choices: Sequence[str] | None) -> str | None:
    """The letter of the only option whose text the line is; of a line that begins with one, the longest such."""
    if not choices:
        return None
    said = _simple(line)
    forms = [_simple(choice) for choice in choices]
    exact = [i for i, form in enumerate(forms) if form and form == said]
    opening = [i for i, form in enumerate(forms) if len(form) > 2 and (said + " ").startswith(form + " ")]
    longest = max((len(forms[i]) for i in opening), default=0)
    goes_on = re.match(r" (?:or|and) ", said[longest:])
    found = exact or [i for i in opening if len(forms[i]) == longest and not goes_on]
    return chr(ord("A") + found[0]) if len(found) == 1 else None


def _simple(text: str) -> str:
    return _SPACE.sub(" ", _STYLE.sub("", text)).strip().lower().removeprefix("the ")
