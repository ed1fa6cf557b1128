"""Checkers: each finds the final answer in a completion and compares it with a gold answer.

A checker never executes what a model wrote. Nothing heavy is imported here, nor DuckDB, so training can use them too.
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
}
"""Name -> where its class is; imported when it is used."""

_BY_ANSWER_KIND = {"number": "number", "latex": "latex"}


def get_checker(name: str) -> Checker:
    """A new checker by name; use it in a `with` block.

    Raises ValueError for an unknown name.
    """
    if name not in _CHECKERS:
        raise ValueError(f"no checker '{name}' (have {', '.join(sorted(_CHECKERS))})")
    module, _, attribute = _CHECKERS[name].partition(":")
    return getattr(import_module(module), attribute)()


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
