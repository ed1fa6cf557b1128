"""A worker process of the `latex` checker: reads (extracted, gold) as JSON lines, answers true, false or null.

Each comparison has a budget of CPU time that the operating system enforces with a signal which kills this process:
math-verify's own time-out does not interrupt a computation inside one long operation. Memory is bounded too.
"""

import json
import logging
import os
import re
import resource
import signal
import sys

MEMORY = 2 << 30
_UNIT = r"(?:sq |cu )?(?:mm|cm|km|in|ft|yd|kg|mg|lb|oz|ml|m)(?:\^\{?[23]\}?|[²³])?"
_ALTERNATIVE = re.compile(
    r"(?:\\q?quad ?)?(?:\\text\{ *(?:and|or) *\}|;|(?<![A-Za-z\\])(?:or|and)(?![a-z]))(?: ?\\q?quad)?"
)


def main() -> None:
    """Serves until standard input ends; what libraries print does not reach the answers."""
    timeout_s = float(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    compare("$1$", "$1$")  # builds the parsers' tables, which is no part of a comparison's time
    _answer(answers, "ready")
    for line in sys.stdin:
        extracted, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        verdict = compare(extracted, gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answers, verdict)


def _answer(answers, verdict: object) -> None:
    answers.write(json.dumps(verdict) + "\n")
    answers.flush()


def compare(extracted: str, gold: str) -> bool | None:
    """Whether math-verify finds the two equal, as they stand or in one of the notations that it does not read.

    False too if the extracted side does not parse; None if it could not say for want of memory or stack, because gold
    does not parse, or by a mistake of its own.
    """
    equal = _whole(extracted, gold)
    for read in (_relations, _alternatives, _last_sides, _lists):
        if equal is True:
            break
        found = read(extracted, gold)
        equal = equal if found is None else found
    return equal


def _relations(extracted: str, gold: str) -> bool | None:
    """Of `x != 3`, both sides; one such against any other is not equal. None: there is none."""
    sides = [text.split("\\neq") for text in (extracted, gold)]
    if len(sides[1]) != 2:
        return None
    return len(sides[0]) == 2 and all(_whole(a, b) for a, b in zip(*sides, strict=True))


def _alternatives(extracted: str, gold: str) -> bool | None:
    """Of `x = 1 or x = -1` and of pairs divided by semicolons, each alternative, in any order, names left out."""
    parts = [[_assigned(part) for part in _ALTERNATIVE.split(text)] for text in (extracted, gold)]
    if len(parts[0]) != len(parts[1]) or len(parts[0]) < 2:
        return None
    left = parts[1]
    for part in parts[0]:
        same = next((other for other in left if _whole(part, other)), None)
        if same is None:
            return None
        left.remove(same)
    return True


def _assigned(part: str) -> str:
    return re.sub(r"^\s*[A-Za-z](?:\([A-Za-z]\))?\s*=(?=[^=,]*$)", "", part)


def _last_sides(extracted: str, gold: str) -> bool | None:
    """Of `17 \\bmod 5 = 2`, what is computed, where gold is a value: the left side has no variables."""
    before, equals, after = extracted.rpartition("=")
    if not equals or "=" in gold or re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", before)):
        return None
    return _whole(after, gold)


def _lists(extracted: str, gold: str) -> bool | None:
    """A row or column vector against a list in brackets, entry by entry."""
    for vector, other in ((extracted, gold), (gold, extracted)):
        matrix = re.fullmatch(r"\\begin\{[pbvB]?matrix\}(.*)\\end\{[pbvB]?matrix\}", vector, re.DOTALL)
        listed = re.fullmatch(r"[\[(]([^\[\]()]*)[\])]|\\langle(.*)\\rangle", other)
        if matrix and listed and not ("&" in matrix[1] and "\\\\" in matrix[1]):
            entries = [entry for entry in re.split(r"&|\\\\", matrix[1]) if entry.strip()]
            others = (listed[1] or listed[2] or "").split(",")
            return len(entries) == len(others) and all(_whole(a, b) for a, b in zip(entries, others, strict=True))
    return None


def _whole(extracted: str, gold: str) -> bool | None:
    """Whether math-verify finds the two equal; of a percentage, the number or its hundredth."""
    (a, a_percent), (b, b_percent) = _percent(extracted), _percent(gold)
    equal = _equal(a, b)
    if equal or a_percent == b_percent:
        return equal
    as_parts = _equal(_part(a, a_percent), _part(b, b_percent))
    return None if as_parts is False and equal is None else as_parts


def _percent(text: str) -> tuple[str, bool]:
    bare = re.sub(r"\s*(?:\\?%|\\text\{ ?percent ?\}|\bpercent|\bpct)\s*$", "", text)
    return bare, bare != text


def _part(text: str, is_percent: bool) -> str:
    return rf"\frac{{{text}}}{{100}}" if is_percent else text


def _equal(extracted: str, gold: str) -> bool | None:
    from math_verify import verify

    try:
        gold_parsed = _parsed(gold)
        parsed = _parsed_answer(extracted)
        return parsed is not None and verify(gold_parsed, parsed, timeout_seconds=None, raise_on_error=True)
    except Exception:
        return None


def _parsed_answer(text: str) -> list | None:
    """None if it is no LaTeX that math-verify reads."""
    try:
        return _parsed(text)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return None


def _parsed(text: str) -> list:
    """Only LaTeX is parsed: math-verify's parser of plain expressions goes through Python's `eval`."""
    from math_verify import LatexExtractionConfig, parse

    # a time-out of 0 is none: the caller's signal is harder
    return parse(_environment(text), [LatexExtractionConfig()], parsing_timeout=0, raise_on_error=True)


def _environment(text: str) -> str:
    """As the inline mathematics that math-verify looks for; `1 1/2` is a mixed number, the unit of `10 weeks` goes."""
    mixed = re.sub(r"(?<!\d)(\d{1,9}) (\d{1,9})/(\d{1,9})(?!\d)", r"\1\\frac{\2}{\3}", text)
    mixed = re.sub(rf"^(-?\d[\d.,/]*) +(?:[A-Za-z]{{3}}[A-Za-z ]*|{_UNIT})$", r"\1", mixed)
    return "$" + mixed.replace("$", "").replace("\\text {", "\\text{").strip() + "$"


if __name__ == "__main__":
    main()
