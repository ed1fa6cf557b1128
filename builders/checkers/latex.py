r"""The `latex` checker: mathematical answers, compared by math-verify in worker processes that can be killed.

Rule `last_boxed`, version 2. The answer is the content of the last `\boxed{…}` (neighbouring boxes joined by commas),
unless a later slot (`Final answer:`, `#### `, `A:` or `Answer:` opening a line) states one; else what follows the last
marker (a slot, or `the answer is`) on its line; else the last math environment or number that has a digit. Of a line,
the answer is the math environments that it starts with; in a sentence with environments the last of them or of its
numbers, in one without the first number; else its words up to the end of the sentence. A completion that goes on with
another question after it has answered is cut there. An answer that ends in the prefill is not the model's.

Equal canonical forms (`latex_forms`) are equal and plain numbers are compared; only what is left goes to math-verify,
with `p\%` counted as equal to `p` and to `p/100`, as math-verify does where it sees the text around, and with some
notations that it does not read (`latex_worker`): `x \neq 3`, `x = 1 or x = -1`, `17 \bmod 5 = 2`, vectors as lists.
This module imports neither it nor sympy: the workers do.
"""

import importlib.metadata
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from builders.checkers import Pairs, _ignore
from builders.checkers.latex_forms import MAX_CHARS, canonical, is_prose
from builders.checkers.markers import (
    Marker,
    Span,
    answering_part,
    joined_by_and,
    last_boxed,
    line_after,
    markers,
    math_spans,
)
from builders.checkers.workers import WorkerPool

TIMEOUT_S = 5.0
"""CPU seconds that one comparison may take."""

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_PLAIN = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?")
_ROUNDED = Fraction(1, 10_000)
"""math-verify rounds decimals to six places; whatever is nearer than this is left to it."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")


class LatexChecker:
    """Extracts in this process, compares in `workers` (default: `$PAIRWRIGHT_WORKERS`, else one per core)."""

    name = "latex"
    rule = "last_boxed"
    rule_version = "2"

    def __init__(self, workers: int | None = None, timeout_s: float = TIMEOUT_S):
        self.pool = WorkerPool(Path(__file__).with_name("latex_worker.py"), workers, timeout_s)
        self.undecided: set[tuple[str, str]] = set()

    @property
    def version(self) -> str:
        return f"2 (math-verify {importlib.metadata.version('math-verify')})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    def extract(self, prefill: str, text: str) -> str | None:
        """The answer as written, by the rule in the module's docstring."""
        full = answering_part(prefill, text)
        content, box = last_boxed(full) or ("", Span(0, 0))
        boxed = content if box.end > len(prefill) else ""
        found = markers(full)
        slot = next((i for i, m in enumerate(found) if m.slot and m.end > box.end), len(found)) if boxed else 0
        for marker in reversed(found[slot:]):
            answer = _after(full, marker, len(prefill))
            if answer:
                return answer
        return boxed or _last_expression(full, 0, len(full), len(prefill))

    def normalise(self, extracted: str) -> str | None:
        """Without what only styles (`canonical`); of a sentence, the last expression or number in it."""
        said = _last_expression(extracted, 0, len(extracted), 0) if is_prose(extracted) else None
        return canonical(said or extracted) or None

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether math-verify finds each (extracted, gold) equal; None where it ran out of time or crashed."""
        forms = [(self.normalise(extracted) or "", self.normalise(gold) or "") for extracted, gold in pairs]
        settled = {form: _obvious(*form) for form in forms}
        hard = [form for form, verdict in settled.items() if verdict is None and self._can_be_settled(form)]
        advance(len(pairs) - len(hard))
        settled.update(zip(hard, self.pool.run(hard, advance), strict=True))
        self.undecided.update(form for form in hard if settled[form] is None)
        return [settled[form] for form in forms]

    def _can_be_settled(self, form: tuple[str, str]) -> bool:
        """Not one that cost its time-out before, nor one too long."""
        return form not in self.undecided and max(map(len, form)) <= MAX_CHARS


def _obvious(extracted: str, gold: str) -> bool | None:
    """What the canonical forms alone decide; an empty one equals nothing."""
    if extracted == gold or not extracted or not gold:
        return extracted == gold != ""
    if not (_PLAIN.fullmatch(extracted) and _PLAIN.fullmatch(gold)):
        return None
    apart = abs(Fraction(extracted) - Fraction(gold))
    return None if 0 < apart <= _ROUNDED and "." in extracted + gold else apart == 0


def _after(full: str, marker: Marker, kept: int) -> str | None:
    line = line_after(full, marker.end)
    environments = math_spans(full, line.start, line.end)
    if environments and environments[0][1].start <= line.start + 2:
        return joined_by_and(full, environments) if environments[-1][1].end > kept else None
    stop = _SENTENCE_END.search(full, line.start, line.end)
    end = stop.start() if stop else line.end
    if environments and environments[0][1].start < end:
        return _last_expression(full, line.start, line.end if environments[0][1].end > end else end, kept)
    words = full[line.start : end].strip().strip("*").strip()
    return (_first_number(words) if _is_sentence(words) else None) or words if end > kept else None


def _is_sentence(words: str) -> bool:
    return len([word for word in _WORD.findall(words) if word not in ("and", "or")]) > 1


def _is_words(environment: str) -> bool:
    """Whether a dollar sign was an amount's, and what follows up to the next one is text."""
    return "\\" not in environment and _is_sentence(environment)


def _first_number(words: str) -> str | None:
    number = _NUMBER.search(words)
    return number[0] if number else None


def _last_expression(full: str, start: int, end: int, kept: int) -> str | None:
    """The last environment or bare number that has a digit, else the last environment: a closing `for all $n$` is
    seldom the answer."""
    environments = [(answer, span) for answer, span in math_spans(full, start, end) if not _is_words(answer)]
    found = [*environments, *((m[0], Span(*m.span())) for m in _NUMBER.finditer(full, start, end))]
    found = [(answer, span) for answer, span in found if answer and span.end > kept]
    last = max(found, key=lambda item: (any(c.isdigit() for c in item[0]), item[1].end), default=None)
    return last[0] if last else None
