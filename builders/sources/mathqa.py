"""MathQA (Amini et al. 2019, arXiv 1905.13319): GRE-like questions with five options and a rationale.

Shape: `Problem`, `Rationale`, `options` (`a ) 38 , b ) 27.675 , …`, or the text of a Python list of such), `correct`
(a letter), `category`; copies write the names in lower case. On the Hub: the Parquet files that it makes itself of
`allenai/math_qa`, so `revision` is a commit of that repository's branch `refs/convert/parquet`.

`mathqa` asks for the letter. `mathqa_numeric` shows no options and asks for the value of the correct one, which must
be one number (its unit does not count, nor does a percent sign): others have no answer.
"""

import re

from builders.sources.base import Fields, Record, Source, number_text, plain_text, present, text
from builders.sources.options import read_options

_LETTER_AT_END = re.compile(
    r"\W*\b(?:the\s+)?(?:correct\s+)?(?:answer|ans|option|choice)\b\W*(?:(?:is|option|choice|answer)\b\W*)*[a-e]\b\W*$",
    re.IGNORECASE,
)
"""How a rationale ends: `answer : c`, `hence the correct answer is option c .`, …."""
_NUMBER = re.compile(
    r"(?:[a-z] = )?(?P<before>[^\d/:^√π+=~-]*?)(?P<sign>[-–]\s?)?(?:(?P<whole>[\d,]+)\s+)?"
    r"(?P<number>(?:\d[\d,]*)?\.?\d+|\d[\d,]*\.)(?:\s?/\s?(?P<divisor>\d+(?:\.\d+)?))?"
    r"(?P<unit>[^\d/:^√π+=]*?)(?:\s?/\s?[a-z][^\d/]*)?(?:(?<=[a-z])\s?\^?\s?[23²³])?[\s.]*"
)
_VARIABLE = re.compile(r"\b(?!(?:m|g|s|l|h|k|c)\b)[a-z]\b|\b(?:pi|root|sqrt|square root|and|or|to)\b", re.IGNORECASE)


def parse(row: Fields, where: str) -> Record:
    """The answer is the letter of the correct option."""
    options = read_options(row[present(row, where, "options")])
    key = text(row, present(row, where, "correct"), where)
    answer = options.letter(key) if options else None
    note = "" if answer else f"'{key}' names none of its options" if options else "its options cannot be told apart"
    choices = options.texts if options else None
    return _record(row, where)._replace(answer=answer, choices=choices, note=note)


def parse_numeric(row: Fields, where: str) -> Record:
    """The answer is the value of the correct option."""
    record = parse(row, where)
    if record.answer is None or record.choices is None:
        return record._replace(choices=None)
    correct = record.choices[ord(record.answer) - ord("A")]
    value = option_value(correct)
    note = "" if value else f"the correct option '{correct}' is no number"
    return record._replace(answer=value, choices=None, note=note)


def _record(row: Fields, where: str) -> Record:
    rationale = plain_text(row[present(row, where, "Rationale", "rationale")], "Rationale", where) or ""
    solution = _LETTER_AT_END.sub("", rationale.strip().strip('"')).strip()
    category = next((row[name] for name in ("category", "type") if name in row), None)
    question = text(row, present(row, where, "Problem", "problem"), where)
    return Record(where, question, None, solution or None, subject=plain_text(category, "category", where))


def option_value(option: str) -> str | None:
    """The one number that an option is, without its unit: `1 / 4` is 0.25, `2 1 / 2 days` 2.5; None if it is none."""
    found = _NUMBER.fullmatch(option.strip())
    if found is None or _VARIABLE.search(found["before"]) or _VARIABLE.search(found["unit"]):
        return None
    if found["whole"] and not found["divisor"]:
        return None
    value = float(found["number"].replace(",", ""))
    if not found["divisor"]:
        written = found["number"].replace(",", "").rstrip(".")
        return number_text(f"-{written}" if found["sign"] else written)
    divisor, whole = float(found["divisor"]), float((found["whole"] or "0").replace(",", ""))
    if not divisor:
        return None
    return number_text(repr((whole + value / divisor) * (-1 if found["sign"] else 1)))


_HUB = {"hub": "allenai/math_qa", "files": "default/{split}/*.parquet"}
SOURCE = Source("mathqa", "Apache-2.0", "choice", parse=parse, **_HUB)
NUMERIC = Source("mathqa_numeric", "Apache-2.0", "number", parse=parse_numeric, **_HUB)
