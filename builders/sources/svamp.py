"""SVAMP (Patel et al. 2021, arXiv 2103.07191): one-step word problems with small variations.

Shape, on the Hub and in the official `SVAMP.json`: `Body`, `Question`, `Answer` (a number, or one as text), `Type`.
"""

from builders.sources.base import Fields, Record, Source, number_text, plain_text, present, text


def parse(row: Fields, where: str) -> Record:
    """The question is the body and what is asked; the answer is a number without a fraction of zeros."""
    parts = [text(row, "Body", where).strip(), text(row, "Question", where).strip()]
    answer = plain_text(row[present(row, where, "Answer")], "Answer", where)
    kind = plain_text(row.get("Type"), "Type", where)
    return Record(where, " ".join(filter(None, parts)), number_text(answer) if answer else None, subject=kind)


SOURCE = Source("svamp", "MIT", "number", hub="ChilleD/SVAMP", files="data/{split}-*.parquet", parse=parse)
