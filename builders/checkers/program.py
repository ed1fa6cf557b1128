"""The `program` checker: the completion is a Python program, and its value is the answer.

Rule `program`, version 1. Where the program is, `program_text` says. Its value is what `solution()` returns (ReFT's
P-CoT, with its `def` in the prefill or not), else the variable `ans` or what `solver()` returns (Program of Thoughts),
else the last line that it printed (ToRA). As in ReFT's code (`mwp_ReFT`), `math` is imported and `sys.exit` prints. A
program that raises, or that has no value, states no answer.

It runs in `sandbox`, never in this process. What the sandbox lacks (sympy, fractions), or ends at a limit of time or
memory, is undecided: the extracted answer is then `undecided: <reason>`, which has no canonical form and equals
nothing.

`program_cpython` and `reft_program_cpython` give a program for which the sandbox lacks something to a second one, the
machine's Python shut in by the operating system (`cpython`). They refuse to work where that cannot be done.

Values are compared as the `number` checker does, with a relative tolerance of 1e-9 for binary arithmetic; a value that
is no number must be the same text.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Self

from builders.checkers import Pairs, _ignore
from builders.checkers.cpython import CPythonSandbox
from builders.checkers.number import NumberChecker, number_value
from builders.checkers.program_text import entry, program_text
from builders.checkers.sandbox import Outcome, Sandbox

UNDECIDED = "undecided: "
"""How an extracted answer begins that the sandbox could not find out."""
MAX_REASON = 200
_FLOATS = ("float", "float64", "float32", "Float")
"""Python's, numpy's and sympy's."""
_EXIT = re.compile(r"\b(?:sys\.)?exit\(")


class ProgramChecker:
    """Runs programs while it extracts, in workers that start with the first of them."""

    name = "program"
    version = "1"
    rule = "program"
    tolerance: ClassVar[float] = 0.0
    """Absolute difference of numbers that still counts as equal."""
    folded: ClassVar[bool] = False
    """Whether other texts are equal in lower case, without quotes."""

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
        return self.extract_all([(prefill, text)])[0]

    def extract_all(self, given: Sequence[tuple[str, str]]) -> list[str | None]:
        """`extract` of each (prefill, text), in order, on several workers."""
        found = [program_text(*one) for one in given]
        programs = [None if program is None else _EXIT.sub("print(", program) for program in found]
        outcomes = self._outcomes(list(dict.fromkeys(program for program in programs if program is not None)))
        return [None if program is None else _answer(outcomes[program]) for program in programs]

    def _outcomes(self, programs: list[str]) -> dict[str, Outcome]:
        """A program that runs into a limit does so once."""
        new = [program for program in programs if program not in self.undecided]
        found = dict(zip(new, self._run(new), strict=True))
        self.undecided.update((program, outcome) for program, outcome in found.items() if outcome.undecided)
        return {program: found.get(program) or self.undecided[program] for program in programs}

    def _run(self, programs: list[str]) -> list[Outcome]:
        return self.sandbox.run_all([(program, entry(program)) for program in programs])

    def normalise(self, extracted: str) -> str | None:
        """As the `number` checker has it, else the text; None for what is undecided."""
        if extracted.startswith(UNDECIDED):
            return None
        return self.numbers.normalise(extracted) or self._text(extracted) or None

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether the values are equal; None where the program was undecided."""
        found = [None if extracted.startswith(UNDECIDED) else self._equal(extracted, gold) for extracted, gold in pairs]
        advance(len(found))
        return found

    def _equal(self, extracted: str, gold: str) -> bool:
        a, b = number_value(extracted), number_value(gold)
        if a is None or b is None:
            return self._text(extracted) == self._text(gold)
        return abs(a - b) <= max(self.tolerance, abs(b) * 1e-9)

    def _text(self, value: str) -> str:
        """What of a value is compared that is no number."""
        return value.lower().replace('"', "").replace("'", "").strip() if self.folded else value.strip()


class ReftProgramChecker(ProgramChecker):
    """ReFT's rule for P-CoT (`mwp_ReFT`, `train_rl_reft.py`): numbers are equal within 1e-2, letters of options in
    either case.

    Unlike there, what the sandbox lacks or does not finish is undecided rather than without an answer.
    """

    name = "reft_program"
    tolerance = 1e-2
    folded = True


class CPythonChecker(ProgramChecker):
    """Runs in CPython what the sandbox lacks something for: a module, or a part of the language."""

    name = "program_cpython"

    def __init__(self, sandbox: Sandbox | None = None, cpython: CPythonSandbox | None = None):
        super().__init__(sandbox)
        self.cpython = cpython or CPythonSandbox()

    @property
    def rule_version(self) -> str:
        """Both sandboxes decide what is extracted."""
        return f"1 ({self.sandbox.version}; {self.cpython.version})"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.cpython.close()

    def _run(self, programs: list[str]) -> list[Outcome]:
        """Raises ValueError where CPython cannot be isolated, even if nothing needs it: not only after hours."""
        self.cpython.start()
        outcomes = super()._run(programs)
        again = [index for index, outcome in enumerate(outcomes) if outcome.lacking]
        found = self.cpython.run_all([(programs[index], entry(programs[index])) for index in again])
        for index, outcome in zip(again, found, strict=True):
            outcomes[index] = outcome
        return outcomes


class ReftCPythonChecker(CPythonChecker):
    """`reft_program` with CPython for what the sandbox lacks, such as the sympy that ReFT's code imports unasked."""

    name = "reft_program_cpython"
    tolerance, folded = ReftProgramChecker.tolerance, ReftProgramChecker.folded


def _answer(outcome: Outcome) -> str | None:
    if outcome.undecided:
        return UNDECIDED + " ".join((outcome.error or "").split())[:MAX_REASON]
    return None if outcome.error else _stated(outcome)


def _stated(outcome: Outcome) -> str | None:
    """The value as text, floats to 12 digits (0.1 + 0.2 is 0.3); of a program without one, the last printed line."""
    value = outcome.value or ""
    if outcome.kind == "NoneType":
        value = next(reversed(outcome.printed.strip().splitlines()), "")
    elif outcome.kind in _FLOATS:
        with suppress(ValueError):  # a class of the program's own may have that name
            value = f"{float(value):.12g}"
    return value.strip() or None
