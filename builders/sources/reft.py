"""ReFT's files (Luong et al. 2024, arXiv 2401.08967; lqtrung1998/mwp_ReFT on GitHub, `data/*.json`).

Shape: `item_id` (`<data set>_<number>`), `question`, `answer_value`, and in files of chains `answer_cot`: a chain in
words that ends in `Therefore, the answer is <…>.`, or a Python function `solution()`. Questions of `mathqa_…` end in a
line of options and their answer is a letter; all other answers are numbers. Some questions come with several chains:
`all_solutions` keeps them.
"""

import re

from builders.sources.base import Fields, Record, Source, number_text, plain_text, present, text
from builders.sources.options import read_options

_ENDING = re.compile(r"\s*Therefore, the answer is:? ?<?[^<>\n]*>?\.?\s*$")


def parse(row: Fields, where: str) -> Record:
    """Options are taken off the question, endings off the chains; a program is a solution of style `program`."""
    name = text(row, "item_id", where).rpartition("_")[0]
    answer = plain_text(row[present(row, where, "answer_value")], "answer_value", where)
    record = Record(where, text(row, "question", where), answer and number_text(answer), subject=name or None)
    chain = plain_text(row.get("answer_cot"), "answer_cot", where) or ""
    if chain.startswith("def "):
        record = record._replace(program=chain)
    else:
        record = record._replace(solution=_ENDING.sub("", chain) or None)
    return _with_choices(record) if name == "mathqa" else record._replace(answer_kind="number")


def _with_choices(record: Record) -> Record:
    question, _, line = record.question.rpartition("\n")
    options = read_options(line)
    if options is None:
        return record._replace(answer=None, answer_kind="choice", note="its last line holds no options")
    letter = options.letter(record.answer or "")
    note = "" if letter else f"'{record.answer}' names none of its options"
    return record._replace(question=question, choices=options.texts, answer=letter, answer_kind="choice", note=note)


SOURCE = Source("reft", "Apache-2.0", "number", hub=None, files="", parse=parse)
