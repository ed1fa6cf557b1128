"""The `program` checker and its sandbox: where the program is, what it comes to, limits, and what the sandbox lacks."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.checkers.program import UNDECIDED, ProgramChecker, ReftProgramChecker
from builders.checkers.program_text import MAX_PROGRAM, entry, program_text
from builders.checkers.sandbox import Sandbox

P_COT = '''def solution():
    """Legs of 2 cats?

    All of them."""
    cats = 2

    result = cats * 4
    return result
'''
ZERO_SHOT = """
import math
import numpy as np

# Question: 3 + 4?
def solver():
    # first
    return 3 + 4
ans = solver()
"""
TORA = (
    "We compute it.\n```python\ndef f():\n    return 2 * 8\n\nprint(f())\n```\n```output\n16\n```\nIt is $\\boxed{16}$."
)


@pytest.fixture(scope="module")
def checker() -> Iterator[ProgramChecker]:
    with ProgramChecker() as opened:
        yield opened


COMPLETIONS = [
    # text, extracted
    (P_COT, "8"),
    (P_COT + "\n\nQuestion: 5 cats?\ndef solution():\n    return 20\n", "8"),
    (ZERO_SHOT, "7"),
    ("a = 2\nb = a / 4\nans = b\n", "0.5"),
    ("a = 2\nans = a\n\n# next question\nans = 9\n", "2"),
    ("ans = 0\nfor i in range(4):\n    ans += i\n", "6"),
    ("n = 0\nwhile True:\n    n += 1\n    if n == 3:\n        ans = n\n        break\n", "3"),
    (TORA, "16"),
    ("```python\nprint(1)\n```\n```output\n1\n```\nWrong.\n```python\nx = 5\nprint(x)\n", "5"),
    ("```\nans = 5\n```", "5"),
    ("The answer is 5.", None),
    ("from the start, x is 3\nx = 5", None),
    ("ans = 0.1 + 0.2", "0.3"),
    ("ans = 10 / 3", "3.33333333333"),
    ("class float:\n    def __str__(self):\n        return 'many'\nans = float()", "many"),
    ("_pairwright_str = len\nans = [1, 2]", "2"),
    ("ans = math.sqrt(16)", "4"),
    ("def solution():\n    return 'B'", "B"),
    ("def solution():\n    return 1, 2", "(1, 2)"),
    ("def solution():\n    x = 1", None),
    ("def solution(n):\n    return n", None),
    ("ans = 1 / 0", None),
    ("ans = unknown", None),
    ("ans = 5 +", None),
    ("import sys\nans = 3\nsys.exit(0)", "3"),
    ("type = 3\nstr = 4\nans = type + str", "7"),
    ("import sympy\nimport numpy as np\nfrom scipy import stats, optimize as o\nans = 2", "2"),
    ("from decimal import Decimal\nans = Decimal('0.10') + 1", "1.10"),
    ("def solution():\n    return solution()", None),
    ("raise SystemExit", None),
]


@pytest.mark.parametrize(("text", "extracted"), COMPLETIONS)
def test_values_of_programs(checker: ProgramChecker, text: str, extracted: str | None) -> None:
    assert checker.extract("", text) == extracted


LACKING = [
    # program, reason
    ("import sympy\nans = sympy.Rational(1, 2)", "no module sympy"),
    ("ans = sympy.Rational(1, 2)", "no module sympy"),
    ("import numpy as np\nans = np.floor(2.5)", "no module numpy"),
    ("from fractions import Fraction\nans = Fraction(1, 2)", "no module fractions"),
    ("from sympy import *\nans = solve(1)", "NotImplementedError: Wildcard imports"),
    ("import math, sympy\nans = 1", "ModuleNotFoundError: No module named 'sympy'"),
    ("def solution():\n    yield 1", "NotImplementedError: The monty syntax parser does not yet support"),
    ("ans = int(input())", "NameError: name 'input' is not defined"),
    ("while True:\n    ans = 1", "limit of time"),
    ("ans = sum(range(10**12))", "limit of time"),
    ("ans = [0] * 10**9", "limit of memory"),
    ("while True:\n    print('a' * 1000)", "limit of memory"),
    ("ans = 7 ** 20000", "limit of digits"),
    ("ans = open('/etc/passwd').read()", "PermissionError"),
    ("import os\nans = len(os.listdir('/'))", "PermissionError"),
]


@pytest.mark.parametrize(("program", "reason"), LACKING)
def test_what_the_sandbox_cannot_decide_says_why(program: str, reason: str) -> None:
    with ProgramChecker(Sandbox(time_s=0.2)) as checker:
        found = checker.extract("", program)
        assert found is not None
        assert found.startswith(UNDECIDED + reason)
        assert checker.normalise(found) is None
        assert checker.matches([(found, "1"), (found, found)]) == [None, None]


def test_a_program_that_does_not_end_costs_its_time_once() -> None:
    with ProgramChecker(Sandbox(time_s=0.5)) as checker:
        checker.extract("", "ans = 1")
        started = time.monotonic()
        found = [checker.extract("", "while True:\n    ans = 1") for _ in range(20)]
        assert set(found) == {UNDECIDED + "limit of time"}
        assert time.monotonic() - started < 9.0, "each for itself would take 10"
        assert checker.extract("", "ans = 2") == "2"


def test_a_worker_killed_from_outside_is_replaced() -> None:
    sandbox = Sandbox(time_s=30.0)
    with ProgramChecker(sandbox) as checker:
        assert checker.extract("", "ans = 1") == "1"
        with sandbox._session() as session:
            os.kill(session.worker_pid, signal.SIGKILL)
        assert checker.extract("", "ans = 2") in ("2", UNDECIDED + "crash")
        assert checker.extract("", "ans = 3") == "3"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_end_with_the_checker_or_without_it() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())

    before = children()
    with ProgramChecker() as checker:
        checker.extract("", "ans = 1")
        assert len(children() - before) == 1
    assert children() <= before
    forgotten = ProgramChecker()
    forgotten.extract("", "ans = 1")
    del forgotten
    assert children() <= before


def test_what_a_program_is_worth_depends_on_no_other_program(checker: ProgramChecker) -> None:
    """One that catches the missing import takes its other way, whatever ran before."""
    either = "try:\n    import numpy as np\n    ans = np.floor(2.5)\nexcept ImportError:\n    ans = 2"
    assert [checker.extract("", text) for text in (either, "import numpy as np\nans = 1", either)] == ["2", "1", "2"]
    assert checker.extract("", '"""\nfrom numpy import a,, b\n"""\nimport numpy\nans = 3') == "3"


def test_programs_do_not_see_each_other(checker: ProgramChecker) -> None:
    assert checker.extract("", "secret = 5\nans = secret") == "5"
    assert checker.extract("", "ans = secret") is None


def test_clock_and_random_numbers_are_fixed(checker: ProgramChecker) -> None:
    program = "import random\nfrom datetime import datetime\nans = str(random.random()) + str(datetime.now())"
    assert checker.extract("", program) == checker.extract("", "# again\n" + program)


def test_nothing_reaches_this_process(checker: ProgramChecker, tmp_path: Path) -> None:
    target = tmp_path / "made"
    for attempt in (
        f"open({str(target)!r}, 'w').write('x')\nans = 1",
        f"from pathlib import Path\nPath({str(target)!r}).touch()\nans = 1",
        f"import os\nos.system('touch {target}')\nans = 1",
        f"import subprocess\nsubprocess.run(['touch', {str(target)!r}])\nans = 1",
        f"ans = ().__class__.__base__.__subclasses__()\nopen({str(target)!r}, 'w')",
        "import os\nans = os.environ['HOME']",
        "import socket\nans = socket.gethostname()",
    ):
        checker.extract("", attempt)
        assert not target.exists()
    found = checker.extract("", "import os\nans = os.getpid()")
    assert found is None or found.startswith(UNDECIDED)


PAIRS = [
    # extracted, gold, equal
    ("0.3", "3/10", True),
    ("0.333333333333", "1/3", True),
    ("0.3333", "1/3", False),
    ("1234", "1,234", True),
    ("-4", "4", False),
    ("B", "B", True),
    ("(1, 2)", "1", False),
    ("True", "True", True),
]


def test_values_are_compared_as_numbers(checker: ProgramChecker) -> None:
    assert checker.matches([(a, b) for a, b, _ in PAIRS]) == [equal for *_, equal in PAIRS]
    assert ReftProgramChecker().matches([("0.3333", "1/3"), ("0.35", "1/3")]) == [True, False]
    letters = [("a", "A"), ("'B'", "B"), ("c", "D")]
    assert ReftProgramChecker().matches(letters) == [True, True, False]
    assert ProgramChecker().matches(letters) == [False, False, False]
    assert (ReftProgramChecker().normalise("A"), ProgramChecker().normalise("A")) == ("a", "A")
    assert [checker.normalise(value) for value in ("4.0", "B")] == ["4", "B"]
    assert checker.rule_version.startswith("1 (pydantic-monty ")


def test_a_program_of_the_prefill_alone_is_not_the_models(checker: ProgramChecker) -> None:
    assert checker.extract("def solution():\n    return 5\n", "") is None
    assert checker.extract("def solution():\n", "    return 5") == "5"
    assert checker.extract("```python\nans = 5\n```\n", "So it is 5.") is None


def test_where_programs_are() -> None:
    assert program_text("", "Some words.\nans = 5\nMore words.") == "ans = 5\n"
    assert program_text("", "x" * 10) is None
    assert program_text("", "ans = 1\n" + "# a\n" * MAX_PROGRAM) is None
    assert [entry(text) for text in ("print(1)", "ans = 1", "def solver():\n    ans = 1", "ans == 1")] == [
        "None", "ans", "solver()", "None",
    ]  # fmt: skip


@pytest.mark.parametrize("piece", ["def f():\n", "\n", " ", "a = 1\n\n", "```python\n", '"""', "ans = ", "a.b[", "x,"])
def test_finding_a_program_is_linear(piece: str) -> None:
    started = time.process_time()
    program_text("", piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2.0


def test_thousands_of_programs_a_second(checker: ProgramChecker) -> None:
    """About 8,000 on an idle core; a tenth of it here, where others may be at work."""
    programs = [f"{P_COT}# {i}" for i in range(500)]
    started = time.process_time()
    assert {checker.extract("", program) for program in programs} == {"8"}
    assert time.process_time() - started < 1.0
