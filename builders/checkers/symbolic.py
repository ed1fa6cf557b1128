"""What checkers share that compare by a paper's own rule first, and leave algebra to math-verify's workers."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from builders.checkers import Pairs, _ignore
from builders.checkers.latex import LatexChecker


class SymbolicChecker:
    """A subclass gives `extract`, `normalise` and `settle`; forms that `settle` leaves open go to math-verify."""

    def __init__(self, workers: int | None = None):
        self.symbolic = LatexChecker(workers)

    @property
    def version(self) -> str:
        return self.symbolic.version

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.symbolic.__exit__(kind, error, trace)

    def normalise(self, extracted: str) -> str | None:
        """The paper's canonical form."""
        raise NotImplementedError

    def settle(self, extracted: str, gold: str) -> bool | None:
        """Whether two canonical forms are equal; None where that takes algebra. Here: equal texts are equal."""
        return True if extracted == gold else None

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """Whether each (extracted, gold) agrees, in order; None where math-verify ran out of time or crashed."""
        forms = [(self.normalise(extracted) or "", self.normalise(gold) or "") for extracted, gold in pairs]
        settled = {form: self.settle(*form) if all(form) else False for form in forms}
        hard = [form for form, verdict in settled.items() if verdict is None]
        advance(len(pairs) - len(hard))
        settled.update(zip(hard, self.symbolic.matches(hard, advance), strict=True))
        return [settled[form] for form in forms]
