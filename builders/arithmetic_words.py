"""The words of generated word problems: of their stories, their chains and their programs."""

import string

NAMES = (
    "Anna",
    "Ben",
    "Cora",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Nina",
    "Omar",
    "Paul",
)
THINGS = ("apples", "beads", "books", "cards", "coins", "cups", "nuts", "pears", "pens", "shells", "stamps", "stones")
WARES = tuple(thing for thing in THINGS if thing != "coins")
PACKS = ("bags", "boxes", "jars", "packs")
HOLDERS = (("shelves", "boxes", "box"), ("rooms", "desks", "desk"), ("carts", "bags", "bag"), ("rows", "jars", "jar"))
WORK = (
    ("reads", "pages", "read"),
    ("bakes", "pies", "bake"),
    ("writes", "letters", "write"),
    ("plants", "trees", "plant"),
    ("runs", "miles", "run"),
)

TEXT = {
    "has": "{name} has {n} {things}.",
    "gain_buys": "{name} buys {n} more.",
    "gain_finds": "{name} finds {n} more.",
    "gain_given": "{other} gives {name} {n} more.",
    "loss_loses": "{name} loses {n}.",
    "loss_sells": "{name} sells {n}.",
    "loss_gives": "{name} gives {n} to {other}.",
    "times": "Then {name} gets {n} times as many.",
    "packs": "{name} buys {n} {packs} with {m} {things} each.",
    "ask_now": "How many {things} does {name} have now?",
    "more": "{name} has {n} more than {other}.",
    "fewer": "{name} has {n} fewer than {other}.",
    "times_as_many": "{name} has {n} times as many as {other}.",
    "ask_has": "How many {things} does {name} have?",
    "ask_both": "How many {things} do {other} and {name} have together?",
    "purse": "{name} has {n} coins.",
    "buys": "{name} buys {n} {things} for {m} coins each.",
    "buys_two": "{name} buys {n} {things} for {m} coins each and {k} {others} for {p} coins each.",
    "ask_pays": "How many coins does {name} pay?",
    "ask_left": "How many coins does {name} have left?",
    "holders": "{name} has {n} {holders} with {m} {boxes} each.",
    "every": "Every {box} holds {n} {things}.",
    "daily": "{name} {works} {n} {things} a day for {m} days.",
    "once": "{name} {works} {n} {things}.",
    "ask_together": "How many {things} do {name} and {other} {work} together?",
    "ask_all": "How many {things} do {name}, {other} and {third} {work} together?",
    "ask_more": "How many more {things} does {name} {work} than {other}?",
}
"""Sentences of questions."""

CHAIN = {
    "has": "{name} has {sum}.",
    "both": "{other} and {name} have {sum}.",
    "packs": "The {packs} hold {sum}.",
    "cost": "The {things} cost {sum}.",
    "pays": "{name} pays {sum}.",
    "left": "{name} has {sum} left.",
    "there": "There are {sum} {boxes}.",
    "hold": "They hold {sum}.",
    "works": "{name} {works} {sum}.",
    "together": "Together that is {sum}.",
    "difference": "That is {sum} more.",
}
"""Sentences of chains; `{sum}` is an equation such as `3 + 4 = 7`."""

VARIABLES = {
    "has": "{name}",
    "both": "both",
    "packs": "{packs}",
    "cost": "{things}",
    "pays": "price",
    "left": "left",
    "there": "{boxes}",
    "hold": "{things}",
    "works": "{name}",
    "together": "together",
    "difference": "difference",
}
"""What programs call the result of a step of a chain, in lower case."""
HEAD = 'def solution():\n    """{question}"""\n'


def vocabulary(programs: bool = False) -> list[str]:
    """Texts that hold every word and sign that any seed writes (numbers apart), those of programs only if asked for."""
    words = [*NAMES, *THINGS, *PACKS, *(word for group in (*HOLDERS, *WORK) for word in group)]
    formats = [*TEXT.values(), *CHAIN.values()]
    plain = ["".join(literal for literal, *_ in string.Formatter().parse(text)) for text in formats]
    texts = [*plain, " ".join(words), "+ - * ="]
    return texts + (_program_words(words) if programs else [])


def _program_words(words: list[str]) -> list[str]:
    """Variables are words of stories in lower case, or one of `VARIABLES`."""
    own = [variable for variable in VARIABLES.values() if "{" not in variable]
    return [
        HEAD.format(question=""),
        " ".join([*(word.lower() for word in words), *own]),
        "return options {[A B C D E]}",
    ]
