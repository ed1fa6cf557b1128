"""The expressions in a row of tokens: numbers with units, signs and brackets."""

from collections.abc import Callable

from builders.equations.tokens import Number, Token, Value, number_of
from builders.equations.values import evaluate

MAX_DEPTH = 40
MAX_ITEMS = 400
_UNIT_WORDS = 5
"""Words after a number that can be its unit."""
_SIGNS = {"×": "*", "·": "*", "∙": "*", "⋅": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "**": "^"}
_WORD_SIGNS = {"x": "*", "X": "*", "times": "*", "plus": "+", "minus": "-"}
_LETTER_UNITS = frozenset("aAImgLlhs")
_ATTACHED_UNITS = _LETTER_UNITS | {
    "cm", "km", "mm", "kg", "mg", "lb", "lbs", "oz", "ft", "in", "mi", "mph", "kph", "hr", "hrs", "min", "mins", "sec",
    "ml", "mL", "cents", "meters", "minutes",
}  # fmt: skip
_PART_OF = frozenset({
    "of", "half", "twice", "double", "triple", "thrice", "quarter", "third", "times", "by", "over", "per", "than",
    "from", "less", "more",
})  # fmt: skip
"""Words before an expression that make it a part of another one."""
_SUM_OF = frozenset({
    "sum", "total", "cost", "difference", "product", "result", "amount", "number", "area", "value", "price", "profit",
    "length",
})  # fmt: skip
"""Words with which `of` makes none."""
_NO_UNIT = frozenset(
    {"is", "are", "was", "were", "because", "since", "so", "then", "if", "or", "when", "gives", "get", "we"}
)


class Run:
    """An expression in a text: its items, and what stands around it.

    `begins` and `ends` say whether it begins and ends the row of tokens that it was found in. A `doubtful` one may be
    part of something larger, of which words tell; a `named` one follows a word (`in 2014`).
    """

    def __init__(self, start: int, begins: bool, doubtful: bool):
        self.start, self.begins, self.doubtful = start, begins, doubtful
        self.items: list[Number | str] = []
        self.numbers: list[Number] = []
        self.ends_of: list[int] = []
        self.units: list[str] = []
        self.depth = self.words = 0
        self.ends = self.broken = self.spaced_minus = self.named = self.takes_part = False

    @property
    def wants_operand(self) -> bool:
        """Whether a number or an opening bracket has to follow."""
        last = self.items[-1] if self.items else ""
        return last != ")" and last.__class__ is str

    def add(self, item: Number | str, token: Token) -> None:
        self.items.append(item)
        if isinstance(item, Number):
            self.numbers.append(item)
        self.ends_of.append(token.end)
        self.words = 0
        self.broken = self.broken or len(self.items) > MAX_ITEMS

    def written(self, text: str) -> str:
        """As it stands in the text."""
        return " ".join(text[self.start : self.ends_of[-1]].split())

    @property
    def computes(self) -> bool:
        return len(self.numbers) > 1

    @property
    def first(self) -> Number | None:
        """The number that it begins with."""
        return self.items[0] if self.items and isinstance(self.items[0], Number) else None

    @property
    def plain(self) -> Number | None:
        """Its number, where it is one alone."""
        return self.numbers[0] if len(self.numbers) == 1 else None

    @property
    def divides_twice(self) -> bool:
        """Whether it is not plain what divides what (`25 / 1/3`)."""
        return any(item == "/" and self.items[at + 2 : at + 3] == ["/"] for at, item in enumerate(self.items))

    @property
    def rounded(self) -> bool:
        """Whether it calculates with numbers that look rounded."""
        return self.computes and any(n.decimals > 1 for n in self.numbers)

    @property
    def mixes_percent(self) -> bool:
        """Whether percentages are added to what is none (`100 + 10%`)."""
        kinds = {number.percent for number in self.numbers}
        return len(kinds) == 2 and any(item in ("+", "-") for item in self.items)

    @property
    def last_of_difference(self) -> Value | None:
        """The value of what follows a first number and a spaced minus, if that calculates itself."""
        if not self.spaced_minus or len(self.numbers) < 3:
            return None
        return evaluate(self.items[2:], percent=True)

    def values(self) -> list[tuple[Value, bool]]:
        """(value, whether percentages are hundredths), for all that it can mean. Empty: it has no value."""
        if self.broken or self.wants_operand or self.depth:
            return []
        readings = (True, False) if any(n.percent for n in self.numbers) else (True,)
        found = [(evaluate(self.items, percent), percent) for percent in readings]
        return [(value, percent) for value, percent in found if value is not None]


def runs_of(tokens: list[Token]) -> list[Run]:
    """The expressions in a row of tokens without breaks and equality signs, in order."""
    reader = _Reader(tokens)
    for place, token in enumerate(tokens):
        _READ[token.kind](reader, place, token)
    return reader.finished()


class _Reader:
    """Reads tokens from left to right; `run` is the expression that may go on."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.runs = tokens, list[Run]()
        self.run: Run | None = None
        self.before: list[str] = []
        self.torn = False  # whether something of an expression could not be read, of which a later one may be part

    def finished(self) -> list[Run]:
        if self.run is not None:
            self.run = _without_unclosed(self.run)
            self.run.ends = True
            self.runs.append(self.run)
        return self.runs

    def _start(self, place: int, token: Token, doubtful: bool = False) -> Run:
        if self.run is not None:
            self.run.broken = self.run.broken or self.run.wants_operand or self.run.depth > 0
            if self.run.words == 0:  # `2 500`
                self.run.doubtful = doubtful = True
            after = self.tokens[place + 1 : place + 2]
            part = self.before[-1:] == ["and"] and bool(after) and after[0].text == "/"  # `1 and 1/2`
            doubtful = doubtful or self.run.broken or part
            self.runs.append(self.run)
        last = self.before[-1].lower() if self.before else ""
        if last in _PART_OF and not (last == "of" and len(self.before) > 1 and self.before[-2].lower() in _SUM_OF):
            doubtful = True
        run = self.run = Run(token.start, place == 0, doubtful or self.torn)
        run.named, self.before = bool(self.before), []
        return run

    def _adjacent(self, place: int, kinds: tuple[str, ...]) -> bool:
        """Whether the token before touches this one and is of some kind."""
        return (
            place > 0
            and self.tokens[place - 1].end == self.tokens[place].start
            and self.tokens[place - 1].kind in kinds
        )

    def number(self, place: int, token: Token) -> None:
        number = number_of(token.text)
        run = self.run if self.run is not None and self.run.wants_operand else None
        if run is None and self.run is not None and self.run.depth and self.run.items[-1] != "(":
            self.run.broken = True
        of_part = self.run is not None and self.before[-1:] == ["of"] and self.run.words == 1 and self._is_part()
        if of_part and self.run is not None:
            run = self.run
            run.takes_part = True
            run.add("*", token)
        index = self._adjacent(place, ("word", "close"))  # `x2`, `(NO3)2`
        if index and self.run is not None:
            self.run.broken = True
        run = run or self._start(place, token)
        run.broken = run.broken or number is None or index
        run.add(number or "?", token)
        self.before = []

    def _is_part(self) -> bool:
        """Whether the expression is a percentage or a fraction, of which there can be one `of` something."""
        assert self.run is not None
        numbers = self.run.numbers
        return (bool(numbers) and numbers[-1].percent) or (len(numbers) == 2 and "/" in self.run.items)

    def open(self, place: int, token: Token) -> None:
        if self.run is not None and not self.run.wants_operand:
            if self._adjacent(place, ("number", "close")):
                self.run.doubtful = self.run.doubtful or "/" in self.run.items  # is `1/2(3)` a half of 3?
                self.run.add("*", token)
            else:
                self._start(place, token)
        run = self.run or self._start(place, token)
        run.broken = run.broken or self._adjacent(place, ("word",)) or run.depth >= MAX_DEPTH
        run.depth += 1
        run.add("(", token)

    def close(self, place: int, token: Token) -> None:
        run = self.run
        if run is None or run.depth == 0:
            self._leave()
            return
        run.broken = run.broken or run.wants_operand
        run.depth -= 1
        run.add(")", token)

    def sign(self, place: int, token: Token) -> None:
        sign = _SIGNS.get(token.text, token.text)
        run = self.run
        if run is None or run.wants_operand:
            run = run or self._start(place, token, doubtful=place > 0)
            last = run.items[-1] if run.items else ""
            negative = sign == "-" and self._touches_number(place) and not self._adjacent(place, ("word",))
            unclear = place > 0 and not run.items and not negative  # `x - 3`
            run.broken = run.broken or sign not in "+-" or last in ("u-", "u+") or unclear
            run.add(f"u{sign}", token)
            return
        run.broken = run.broken or (sign == "^" and self.tokens[place - 1].kind == "word")  # `cm^2`, `3x^2`
        if token.text == "–" and self._adjacent(place, ("number",)):
            run.broken = True  # a range
        if len(run.items) == 1 and sign == "-" and not self._touches_number(place):
            run.spaced_minus = True
        run.add(sign, token)

    def _touches_number(self, place: int) -> bool:
        """Whether the token after touches this one and is a number."""
        after = self.tokens[place + 1 : place + 2]
        return bool(after) and after[0].kind == "number" and after[0].start == self.tokens[place].end

    def word(self, place: int, token: Token) -> None:
        word, run = token.text, self.run
        after = self.tokens[place + 1 : place + 2]
        follows = bool(after) and after[0].kind in ("number", "open") and (word != "x" or after[0].start >= token.end)
        if run is not None and not run.wants_operand and word in _WORD_SIGNS and follows:
            run.add(_WORD_SIGNS[word], token)
            return
        self.before.append(word)
        if run is None:
            return
        if run.wants_operand:
            self._word_for_operand(run, token)
        elif word.lower() in _NO_UNIT and not run.depth:
            self._leave()
        elif self._is_unit(place, token):
            run.words += 1
            run.units.append(word)
            run.doubtful = run.doubtful or (len(word) == 1 and self._adjacent(place, ("number",)))  # `5m` may be 5 * m
            if run.words > _UNIT_WORDS or (run.depth and run.words > 2):
                self._leave()
        else:
            run.broken = True

    def _word_for_operand(self, run: Run, token: Token) -> None:
        """`12 inches/foot` has a unit; after other signs a word is a variable or begins another thought."""
        known = token.text in _ATTACHED_UNITS or (len(token.text) > 2 if not run.units else len(token.text) > 1)
        if run.items and run.items[-1] == "/" and known:
            run.items.pop()
            run.ends_of.pop()
            run.units.append(token.text)
            run.words = 1
            return
        if not all(item == "(" for item in run.items):
            run.broken = self.torn = True
            self.runs.append(run)
        self.run = None

    def _is_unit(self, place: int, token: Token) -> bool:
        if self._adjacent(place, ("number",)) and not token.text.startswith("-"):
            return token.text in _ATTACHED_UNITS
        if token.text.isupper() and len(token.text) < 4:  # `AB`
            return token.text in ("A", "I", "L", "KB", "MB", "GB", "TB")
        return len(token.text) > 1 or token.text in _LETTER_UNITS

    def foreign(self, place: int, token: Token) -> None:
        run = self.run or self._start(place, token)
        run.broken = True
        if not run.wants_operand:
            return
        run.add("?", token)

    def _leave(self) -> None:
        """The expression has ended before the row of tokens does."""
        if self.run is not None:
            self.run.broken = self.run.broken or self.run.depth > 0 or self.run.wants_operand
            self.runs.append(self.run)
        self.run, self.before = None, []


_READ: dict[str, Callable[[_Reader, int, Token], None]] = {
    "number": _Reader.number, "sign": _Reader.sign, "open": _Reader.open, "close": _Reader.close, "word": _Reader.word,
    "foreign": _Reader.foreign,
}  # fmt: skip


def _without_unclosed(run: Run) -> Run:
    """What follows the last bracket that is not closed; it may be one of the sentence's."""
    opened: list[int] = []
    for place, item in enumerate(run.items):
        if item == "(":
            opened.append(place)
        elif item == ")":
            opened.pop()
    if opened:
        run.start = run.ends_of[opened[-1]]
        run.items, run.ends_of = run.items[opened[-1] + 1 :], run.ends_of[opened[-1] + 1 :]
        run.numbers = [item for item in run.items if isinstance(item, Number)]
        run.depth, run.begins = 0, False
    return run
