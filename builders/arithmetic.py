"""Generated arithmetic word problems, each with its answer, a chain of one sentence per step, and a program for it.

Five kinds of stories (a collection that changes, people compared, a shop, things in boxes, work by the day) over 16
names and 12 kinds of things, with `+`, `-` and `*`. Every number is a whole number from 0 to 999, mostly below 100;
nothing in a question is superfluous. The vocabulary is closed: `vocabulary()` has every word of every seed. Programs
assign one variable per step, named after the story, from numbers of the question and from variables.

All randomness is one `random.Random(seed)`, of which only `choice` and `randrange` are used: the same seed gives the
same problems on every Python version.

Overlap. One seed's stream never repeats a question, so windows (`skip`, `limit`) of one seed share nothing. A question
belongs to one of 8 buckets by its hash, and a seed makes questions of bucket `seed % 8` only: streams whose seeds
differ modulo 8 share nothing either. Other seeds share questions by chance (1 in 50 between two sets of 10,000).
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from math import gcd
from typing import NamedTuple
from zlib import crc32

from builders.arithmetic_words import CHAIN, HEAD, HOLDERS, NAMES, PACKS, TEXT, THINGS, VARIABLES, WARES, WORK

SEED_BUCKETS = 8
MAX_STEPS = 8
LICENCE = "CC0-1.0"

_COMFORTABLE = 200
"""Results grow above this only by additions."""
_START = range(2, 13)
_OPERAND = range(2, 10)
_SMALL = range(2, 6)
_MULTIPLIER = range(2, 4)
_PATIENCE = 4_000
"""Candidates in a row that are duplicates before the stream is said to be at its end."""


class WordProblem(NamedTuple):
    """A question, its chain (one sentence per step), the answer, the number of steps, and the chain as a program.

    The program is a function `solution()`, as ReFT has it: the question, an assignment per step, and what it returns.
    """

    question: str
    chain: str
    answer: str
    steps: int
    program: str


class _Result(int):
    """A number that an earlier step found, with the variable that holds it."""

    variable: str


def _written(number: int) -> str:
    return number.variable if isinstance(number, _Result) else str(number)


class _Draft:
    """A story as it is told: sentences of the question, and steps that are rendered only if the question is kept."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.steps: list[tuple[str, int, str, int, _Result, dict[str, str]]] = []
        self.value = _Result(0)

    def tell(self, key: str, **words: object) -> None:
        self.sentences.append(TEXT[key].format(**words))

    def step(self, key: str, a: int, sign: str, b: int, **words: str) -> int:
        self.value = _Result(a + b if sign == "+" else a - b if sign == "-" else a * b)
        self.value.variable = VARIABLES[key].format(**words).lower()
        self.steps.append((key, a, sign, b, self.value, words))
        return self.value

    def chain(self) -> str:
        return " ".join(
            CHAIN[key].format(sum=f"{a} {sign} {b} = {result}", **words)
            for key, a, sign, b, result, words in self.steps
        )

    def program(self) -> str:
        lines = [f"{result.variable} = {_written(a)} {sign} {_written(b)}" for _, a, sign, b, result, _ in self.steps]
        body = "\n".join(f"    {line}" for line in (*lines, f"return {self.value.variable}"))
        return HEAD.format(question=" ".join(self.sentences)) + body


def word_problems(seed: int, steps: tuple[int, int]) -> Iterator[WordProblem]:
    """Distinct word problems without end, of `steps[0]` to `steps[1]` steps in equal shares.

    Raises ValueError for step counts outside 1..8, and when the distinct questions of such steps are used up.
    """
    low, high = steps
    if not 1 <= low <= high <= MAX_STEPS:
        raise ValueError(f"steps: [{low}, {high}] must be [least, most] within 1..{MAX_STEPS}")
    rng, seen = random.Random(seed), set[str]()
    while True:
        n = rng.randrange(low, high + 1)
        draft = _fresh(rng, n, seed % SEED_BUCKETS, seen)
        question = " ".join(draft.sentences)
        seen.add(question)
        yield WordProblem(question, draft.chain(), str(draft.value), n, draft.program())


def generate(seed: int, steps: tuple[int, int], count: int, skip: int = 0) -> list[WordProblem]:
    """`count` problems of a seed's stream after the first `skip`. Raises ValueError as `word_problems` does."""
    return list(islice(word_problems(seed, steps), skip, skip + count))


def options(problem: WordProblem, count: int) -> tuple[list[str], str]:
    """`count` numbers in a row, the answer among them, and its letter. The question decides where they begin."""
    rng, answer = random.Random(crc32(problem.question.encode())), int(problem.answer)
    first = max(0, answer - rng.randrange(count))
    return [str(first + i) for i in range(count)], string.ascii_uppercase[answer - first]


def choosing(program: str, choices: Sequence[str]) -> str:
    """The program of a problem, so that it returns the letter of its result among the options."""
    body, _, result = program.rpartition("return ")
    letters = ", ".join(
        f'{number}: "{letter}"' for number, letter in zip(choices, string.ascii_uppercase, strict=False)
    )
    return f"{body}options = {{{letters}}}\n    return options[{result}]"


def _fresh(rng: random.Random, steps: int, bucket: int, seen: set[str]) -> _Draft:
    stories = _STORIES if 2 <= steps <= 4 else _LONG_STORIES
    for _ in range(_PATIENCE):
        draft = rng.choice(stories)(rng, steps)
        question = " ".join(draft.sentences)
        if crc32(question.encode()) % SEED_BUCKETS == bucket and question not in seen:
            return draft
    raise ValueError(f"only {len(seen):,} distinct problems found; lower `limit` and `skip`, or allow more steps")


def _pick(rng: random.Random, values: Sequence[int]) -> int:
    return values[rng.randrange(len(values))]


def _two(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    first = rng.randrange(len(words))
    return words[first], words[first - 1 - rng.randrange(len(words) - 1)]


_STRIDES = tuple(stride for stride in range(1, len(NAMES)) if gcd(stride, len(NAMES)) == 1)


def _people(rng: random.Random, count: int) -> list[str]:
    """Different names: steps around the circle of names, of a length that shares no factor with their number."""
    first, stride = rng.randrange(len(NAMES)), rng.choice(_STRIDES)
    return [NAMES[(first + stride * i) % len(NAMES)] for i in range(count)]


def _collection(rng: random.Random, steps: int) -> _Draft:
    """A number of things that grows and shrinks."""
    draft, (name, other), things = _Draft(), _two(rng, NAMES), rng.choice(THINGS)
    value = _pick(rng, _START)
    draft.tell("has", name=name, n=value, things=things)
    while len(draft.steps) < steps:
        value = _event(rng, draft, value, name, other, things, steps - len(draft.steps))
    draft.tell("ask_now", things=things, name=name)
    return draft


def _event(rng: random.Random, draft: _Draft, value: int, name: str, other: str, things: str, room: int) -> int:
    """Tells one change of a collection; the new number of things. `room` is how many steps it may take."""
    kind = rng.choice(("gain", "gain", "loss", "loss", "times", "packs"))
    if kind == "packs" and room >= 2:
        n, m, packs = _pick(rng, _SMALL), _pick(rng, _SMALL), rng.choice(PACKS)
        draft.tell("packs", name=name, n=n, packs=packs, m=m, things=things)
        return draft.step("has", value, "+", draft.step("packs", n, "*", m, packs=packs), name=name)
    if kind == "times" and 2 <= value * _MULTIPLIER[-1] <= _COMFORTABLE:
        n = _pick(rng, _MULTIPLIER)
        draft.tell("times", name=name, n=n)
        return draft.step("has", value, "*", n, name=name)
    return _gain_or_loss(rng, draft, value, name, other, gain=kind == "gain")


def _gain_or_loss(rng: random.Random, draft: _Draft, value: int, name: str, other: str, gain: bool) -> int:
    if gain or value < 4:
        n = _pick(rng, _OPERAND)
        draft.tell(rng.choice(("gain_buys", "gain_finds", "gain_given")), name=name, other=other, n=n)
        return draft.step("has", value, "+", n, name=name)
    n = rng.randrange(_OPERAND[0], min(_OPERAND[-1], value - 1) + 1)
    draft.tell(rng.choice(("loss_loses", "loss_sells", "loss_gives")), name=name, other=other, n=n)
    return draft.step("has", value, "-", n, name=name)


def _comparison(rng: random.Random, steps: int) -> _Draft:
    """People who have more, fewer or several times as many as the one before."""
    draft, things, people = _Draft(), rng.choice(THINGS), _people(rng, steps + 1)
    together = steps > 1 and rng.randrange(3) == 0
    before, value = 0, _pick(rng, _START)
    draft.tell("has", name=people[0], n=value, things=things)
    compared = people[: steps if together else steps + 1]
    for other, name in pairwise(compared):
        before, value = value, _compared(rng, draft, value, name, other)
    other, name = compared[-2:]
    if together:
        draft.step("both", before, "+", value, other=other, name=name)
    draft.tell("ask_both" if together else "ask_has", things=things, other=other, name=name)
    return draft


def _compared(rng: random.Random, draft: _Draft, value: int, name: str, other: str) -> int:
    kind = rng.choice(("more", "fewer", "times_as_many"))
    if kind == "times_as_many" and value * _MULTIPLIER[-1] <= _COMFORTABLE:
        n, sign = _pick(rng, _MULTIPLIER), "*"
    elif kind == "fewer" and value >= 4:
        n, sign = rng.randrange(_OPERAND[0], min(_OPERAND[-1], value - 1) + 1), "-"
    else:
        kind, n, sign = "more", _pick(rng, _OPERAND), "+"
    draft.tell(kind, name=name, other=other, n=n)
    return draft.step("has", value, sign, n, name=name)


def _shop(rng: random.Random, steps: int) -> _Draft:
    """One or two wares are bought; asked for the price (3 steps) or for what is left (2 and 4 steps)."""
    draft, name, (things, others) = _Draft(), rng.choice(NAMES), _two(rng, WARES)
    n, m, k, p = (_pick(rng, _SMALL) for _ in range(4))
    two = steps >= 3
    price = n * m + k * p * two
    purse = price + _pick(rng, _START)
    if steps != 3:
        draft.tell("purse", name=name, n=purse)
    draft.tell("buys_two" if two else "buys", name=name, n=n, things=things, m=m, k=k, others=others, p=p)
    total = draft.step("cost", n, "*", m, things=things)
    if two:
        total = draft.step("pays", total, "+", draft.step("cost", k, "*", p, things=others), name=name)
    if steps != 3:
        draft.step("left", purse, "-", total, name=name)
    draft.tell("ask_pays" if steps == 3 else "ask_left", name=name)
    return draft


def _boxes(rng: random.Random, steps: int) -> _Draft:
    """Things in boxes on shelves, of which some come or go."""
    draft, (name, other), things = _Draft(), _two(rng, NAMES), rng.choice(WARES)
    holders, boxes, box = rng.choice(HOLDERS)
    n, m, k = rng.randrange(2, 8), _pick(rng, _SMALL), _pick(rng, _SMALL)
    draft.tell("holders", name=name, n=n, holders=holders, m=m, boxes=boxes)
    draft.tell("every", box=box, n=k, things=things)
    value = draft.step("hold", draft.step("there", n, "*", m, boxes=boxes), "*", k, things=things)
    for _ in range(steps - 2):
        value = _gain_or_loss(rng, draft, value, name, other, gain=rng.randrange(2) == 0)
    draft.tell("ask_now", things=things, name=name)
    return draft


def _days(rng: random.Random, steps: int) -> _Draft:
    """Two or three people work by the day; asked for all of it (or, in 3 steps, for the difference)."""
    draft, (works, things, work), (name, other, third) = _Draft(), rng.choice(WORK), _people(rng, 3)
    n, k = _pick(rng, _SMALL), _pick(rng, _SMALL)
    m, p = rng.randrange(2, 8), rng.randrange(2, 8)
    draft.tell("daily", name=name, works=works, n=n, things=things, m=m)
    value, more = draft.step("works", n, "*", m, name=name, works=works), _pick(rng, _OPERAND)
    if steps == 2:
        draft.tell("once", name=other, works=works, n=more, things=things)
        draft.step("together", value, "+", more)
        draft.tell("ask_together", things=things, name=name, other=other, work=work)
        return draft
    draft.tell("daily", name=other, works=works, n=k, things=things, m=p)
    theirs = draft.step("works", k, "*", p, name=other, works=works)
    if steps == 3 and value > theirs:
        draft.step("difference", value, "-", theirs)
        draft.tell("ask_more", things=things, name=name, other=other, work=work)
        return draft
    both = draft.step("together", value, "+", theirs)
    if steps == 4:
        draft.tell("once", name=third, works=works, n=more, things=things)
        draft.step("together", both, "+", more)
    draft.tell(
        "ask_all" if steps == 4 else "ask_together", things=things, name=name, other=other, third=third, work=work
    )
    return draft


_LONG_STORIES: tuple[Callable[[random.Random, int], _Draft], ...] = (_collection, _comparison)
"""Stories of any number of steps; the others have two to four."""
_STORIES = (*_LONG_STORIES, _shop, _boxes, _days)
