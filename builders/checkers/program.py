"""The `program` checker: the completion is a Python program, and its value is the answer.

Rule `program`, version 1. Where the program is, `program_text` says. Its value is what `solution()` returns (ReFT's
P-CoT, with its `def` in the prefill or not), else the variable `ans` or what `solver()` returns (Program of Thoughts),
else the last line that it printed (ToRA). As in ReFT's code (`mwp_ReFT`), `math` is imported and `sys.exit` prints. A
program that raises, or that has no value, states no answer.

It runs in `sandbox`, never in this process. What the sandbox lacks (sympy, fractions), or ends at a limit of time or
memory, is undecided: the extracted answer is then `undecided: <reason>`, which has no canonical form and equals
nothing.

Values are compared as the `number` checker does, with a relative tolerance of 1e-9 for binary arithmetic; a value that
is no number must be the same text.
"""

import re
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

from builders.checkers import Pairs, _ignore
from builders.checkers.number import NumberChecker, number_value
from builders.checkers.program_text import entry, program_text
from builders.checkers.sandbox import Outcome, Sandbox

UNDECIDED = "undecided: "
"""How an extracted answer begins that the sandbox could not find out."""
MAX_REASON = 200
_EXIT = re.compile(r"\b(?:sys\.)?exit\(")


class ProgramChecker:
    """Runs programs while it extracts, in one worker that starts with the first of them."""

    name = "program"
    version = "1"
    rule = "program"
    tolerance: ClassVar[float] = 0.0
    """Absolute difference of numbers that still counts as equal."""

    def __init__(self, sandbox: Sandbox | None = None):
        self.sandbox = sandbox or Sandbox()
        self.numbers = NumberChecker()
        self.undecided: dict[str, Outcome] = {}

    @property
    def rule_version(self) -> str:
        """The sandbox decides what is extracted."""
        return f"1 ({self.sandbox.version})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sandbox.close()

    def extract(self, prefill: str, text: str) -> str | None:
        """The program's value as text, `undecided: <reason>`, or None; by the rule in the module's docstring."""
        program = program_text(prefill, text)
        if program is None:
            return None
        outcome = self._outcome(_EXIT.sub("print(", program))
        if outcome.undecided:
            return UNDECIDED + " ".join((outcome.error or "").split())[:MAX_REASON]
        return None if outcome.error else _stated(outcome)

    def _outcome(self, program: str) -> Outcome:
        """A program that runs into a limit does so once."""
        outcome = self.undecided.get(program) or self.sandbox.run(program, entry(program))
        if outcome.undecided:
            self.undecided[program] = outcome
        return outcome

    def normalise(self, extracted: str) -> str | None:
        """As the `number` checker has it, else the text; None for what is undecided."""
        if extracted.startswith(UNDECIDED):
            return None
        return self.numbers.normalise(extracted) or extracted.strip() or None

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether the values are equal; None where the program was undecided."""
        found = [None if extracted.startswith(UNDECIDED) else self._equal(extracted, gold) for extracted, gold in pairs]
        advance(len(found))
        return found

    def _equal(self, extracted: str, gold: str) -> bool:
        a, b = number_value(extracted), number_value(gold)
        if a is None or b is None:
            return extracted.strip() == gold.strip()
        return abs(a - b) <= max(self.tolerance, abs(b) * 1e-9)


class ReftProgramChecker(ProgramChecker):
    """ReFT's rule for P-CoT (`mwp_ReFT`, `train_rl_reft.py`): numbers are equal within 1e-2.

    Unlike there, what the sandbox lacks or does not finish is undecided rather than without an answer.
    """

    name = "reft_program"
    tolerance = 1e-2


def _stated(outcome: Outcome) -> str | None:
    """The value as text, floats to 12 digits (0.1 + 0.2 is 0.3); of a program without one, the last printed line."""
    value = outcome.value or ""
    if outcome.kind == "NoneType":
        value = next(reversed(outcome.printed.strip().splitlines()), "")
    elif outcome.kind == "float":
        value = f"{float(value):.12g}"
    return value.strip() or None
