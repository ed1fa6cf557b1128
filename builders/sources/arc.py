"""ARC (Clark et al. 2018, arXiv 1803.05457): grade-school science questions with three to five options.

Shape: `question`, `choices`, `answerKey`; `choices` is `{text: […], label: […]}` on the Hub and a list of
`{label, text}` in copies of the official files, which hold all three in a mapping `question` (its `stem` asks). Keys
are the labels, which for some questions are digits. On the Hub the subsets are `ARC-Easy` and `ARC-Challenge`; the
level is the one of these that the file's name holds.
"""

from builders.sources.base import Fields, Record, Source, plain_text, present, text
from builders.sources.options import read_options


def parse(row: Fields, where: str) -> Record:
    """The answer is the letter of the option that the key names, `A` for the first, whatever the source's labels."""
    asked = row.get("question")
    if isinstance(asked, dict):
        row = {**row, "question": asked.get("stem"), "choices": asked.get("choices")}
    question, given = text(row, "question", where), row[present(row, where, "choices")]
    key = plain_text(row[present(row, where, "answerKey")], "answerKey", where)
    options = read_options(given)
    answer = options.letter(key) if options and key else None
    note = "" if answer or not key else f"'{key}' names none of its options"
    choices = options.texts if options else None
    return Record(where, question, answer, choices=choices, level=_level(where), note=note)


def _level(where: str) -> str | None:
    name = where.lower().replace("_", "-")
    return "easy" if "arc-easy" in name else "challenge" if "arc-challenge" in name else None


SOURCE = Source("arc", "CC-BY-SA-4.0", "choice", hub="allenai/ai2_arc", files="{subset}/{split}-*.parquet", parse=parse)
