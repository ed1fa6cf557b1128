"""AQuA-RAT (Ling et al. 2017, arXiv 1705.04146): algebra questions with five options and a rationale.

Shape, on the Hub and in the official JSON files: `question`, `options` (`["A)21", …]`), `rationale`, `correct`.
"""

from builders.sources.base import Fields, Record, Source, plain_text, present, text
from builders.sources.options import read_options


def parse(row: Fields, where: str) -> Record:
    """The answer is the letter of the correct option; the solution is the rationale."""
    options = read_options(row[present(row, where, "options")])
    key = text(row, "correct", where)
    answer = options.letter(key) if options else None
    note = "" if answer else f"'{key}' names none of its options" if options else "its options cannot be told apart"
    solution = plain_text(row.get("rationale"), "rationale", where)
    return Record(where, text(row, "question", where), answer, solution, options.texts if options else None, note=note)


SOURCE = Source("aqua", "Apache-2.0", "choice", hub="deepmind/aqua_rat", files="raw/{split}-*.parquet", parse=parse)
