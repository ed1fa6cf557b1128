"""Checkers: each finds the final answer in a completion and compares it with a gold answer.

Nothing that a model wrote is executed in this process: programs run in a sandbox. Nothing heavy is imported here, nor
DuckDB, so training can use checkers too.

Your own checker is a class in a package of yours, named in params as `my_package.checks:Exact@2`. Its `version` is
`"2"`, which is how DVC learns that it has changed; `builders.checkers.base.PureChecker` gives it all but two methods.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import Protocol, Self

Pairs = Sequence[tuple[str, str]]


def _ignore(_: int) -> None:
    """The default `advance`: shows nothing."""


class Checker(Protocol):
    """Extracts and compares answers. A context manager: leaving it ends the processes that it may have started."""

    name: str
    version: str
    rule: str
    """Name of the extraction rule; a prediction's extractor is `<name>:<rule>`."""
    rule_version: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def extract(self, prefill: str, text: str) -> str | None:
        """The final answer that `prefill + text` states, as written; None if it states none. Reads no gold."""
        ...

    def normalise(self, extracted: str) -> str | None:
        """A canonical form: answers with equal forms are equal. None if there is none."""
        ...

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether each (extracted, gold) agrees, in order; None: undecided (time-out or crash), which is not wrong.

        Each distinct pair is checked once. `advance` is told how many more of `pairs` are settled.
        """
        ...


_CHECKERS = {
    "number": "builders.checkers.number:NumberChecker",
    "latex": "builders.checkers.latex:LatexChecker",
    "choice": "builders.checkers.choice:ChoiceChecker",
    "program": "builders.checkers.program:ProgramChecker",
    "text": "builders.checkers.text:TextChecker",
    "irpo": "builders.checkers.irpo:IrpoChecker",
    "irpo_math": "builders.checkers.irpo:IrpoMathChecker",
    "step_dpo": "builders.checkers.step_dpo:StepDpoChecker",
    "w2s_gsm8k": "builders.checkers.weak_to_strong:W2sGsm8kChecker",
    "w2s_math": "builders.checkers.weak_to_strong:W2sMathChecker",
    "reft_number": "builders.checkers.reft:ReftNumberChecker",
    "reft_choice": "builders.checkers.reft:ReftChoiceChecker",
    "reft_program": "builders.checkers.program:ReftProgramChecker",
    "program_cpython": "builders.checkers.program:CPythonChecker",
    "reft_program_cpython": "builders.checkers.program:ReftCPythonChecker",
}
"""Name -> where its class is; imported when it is used."""

_BY_ANSWER_KIND = {kind: kind for kind in ("number", "latex", "choice", "program")}
_NEEDED = ("extract", "normalise", "matches", "version", "rule", "rule_version", "__enter__", "__exit__")


def get_checker(name: str) -> Checker:
    """A new checker by name, one of ours or `package.module:Class@version`; use it in a `with` block.

    Raises ValueError for an unknown name, and for a user's checker that is not there, incomplete, or another version.
    """
    if "@" in name:
        return _users_own(name)
    if name not in _CHECKERS:
        remedy = "or your own as package.module:Class@version"
        raise ValueError(f"no checker '{name}' (have {', '.join(sorted(_CHECKERS))}; {remedy})")
    module, _, attribute = _CHECKERS[name].partition(":")
    return getattr(import_module(module), attribute)()


def _users_own(name: str) -> Checker:
    place, _, version = name.rpartition("@")
    module, _, attribute = place.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"checker '{name}': write package.module:Class@version, with the module's whole name")
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"checker '{name}': {error}; install its package, or run where it can be imported") from None
    if not isinstance(found, type):
        raise ValueError(f"checker '{name}': module {module} has no class '{attribute}'")
    missing = [needed for needed in _NEEDED if not hasattr(found, needed)]
    if missing:
        remedy = "derive it from builders.checkers.base.PureChecker, or add them"
        raise ValueError(f"checker '{name}': {attribute} has no {', '.join(missing)}; {remedy}")
    checker = found()
    if str(checker.version) != version:
        raise ValueError(
            f"checker '{name}': {attribute}.version is '{checker.version}'; write @{checker.version} in params, so that"
            " DVC rebuilds what it decides"
        )
    if ":" in checker.rule:
        raise ValueError(f"checker '{name}': the name of its rule, '{checker.rule}', must not contain a colon")
    checker.name = name
    return checker


def extract(checker: Checker, prefill: str, text: str, choices: Sequence[str] | None = None) -> str | None:
    """`checker.extract`, given the problem's options too if the checker says that it reads them."""
    if choices is not None and getattr(checker, "reads_choices", False):
        return checker.extract(prefill, text, choices)  # type: ignore[call-arg]
    return checker.extract(prefill, text)


Stated = tuple[str, str, Sequence[str] | None]
"""A prefill, a text and the problem's options, of which an answer is extracted."""


def extract_all(checker: Checker, given: Sequence[Stated]) -> list[str | None]:
    """`extract` of each, in order; at once, and on several processes, where the checker can (`extract_all`)."""
    together = getattr(checker, "extract_all", None)
    if together is not None:
        return together([(prefill, text) for prefill, text, _ in given])
    return [extract(checker, *one) for one in given]


def checker_for(answer_kind: str, configured: str) -> str:
    """The name of the checker for problems of an answer kind; `configured` decides unless it is `auto`.

    Raises ValueError for `auto` and a kind of answer that no checker compares.
    """
    if configured != "auto":
        return configured
    if answer_kind not in _BY_ANSWER_KIND:
        known = ", ".join(sorted(_BY_ANSWER_KIND))
        raise ValueError(f"no checker compares answers of kind '{answer_kind}' (have {known}); name one in `checker`")
    return _BY_ANSWER_KIND[answer_kind]
