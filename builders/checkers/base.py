"""What checkers that compare one pair at a time in this process have in common; a user's own may start from it."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from builders.checkers import Pairs, _ignore


class PureChecker:
    """A checker without processes: a subclass gives `extract` and `equal`, and `normalise` if texts are not enough.

    `equal` says whether an extracted answer is the gold one: True, False, or None if it cannot tell.
    """

    name = ""
    """What `get_checker` knows it by; a user's own needs none."""
    version = "1"
    rule = "own"
    rule_version = "1"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def extract(self, prefill: str, text: str) -> str | None:
        """The final answer that `prefill + text` states; None if it states none."""
        raise NotImplementedError(f"{type(self).__name__} needs a method `extract(prefill, text)`")

    def equal(self, extracted: str, gold: str) -> bool | None:
        """Whether the answers agree: here, whether their canonical forms are the same text."""
        return self.normalise(extracted) == self.normalise(gold)

    def normalise(self, extracted: str) -> str | None:
        """The text without the space around it."""
        return extracted.strip() or None

    def matches(self, pairs: Pairs, advance: Callable[[int], None] = _ignore) -> list[bool | None]:
        """`equal` of each pair, in order."""
        verdicts = [self.equal(extracted, gold) for extracted, gold in pairs]
        advance(len(verdicts))
        return verdicts
