"""The second sandbox: what goes there, what comes back, and that it does not start without its walls."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.checkers import cpython as module
from builders.checkers import get_checker
from builders.checkers.cpython import CPythonSandbox
from builders.checkers.program import UNDECIDED, CPythonChecker, ProgramChecker
from builders.checkers.sandbox import Sandbox
from builders.checkers.verdicts import verdicts
from builders.predictions import predict
from schemas import TABLES
from stores.parquet import rows_to_table
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.test_sandbox_escapes import isolation_allowed


@pytest.fixture(scope="module")
def checker() -> Iterator[CPythonChecker]:
    if not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    with CPythonChecker() as opened:
        yield opened


PROGRAMS = [
    # text, extracted
    ("ans = 3", "3"),
    ("import sympy\nans = sympy.Rational(1, 3)", "1/3"),
    ("ans = sympy.sqrt(16)", "4"),
    ("from sympy import *\nx = symbols('x')\nans = solve(2 * x - 5, x)[0]", "5/2"),
    ("from sympy import Float\nans = Float(1) / 3", "0.333333333333"),
    ("from fractions import Fraction\nans = Fraction(3, 6)", "1/2"),
    ("import numpy as np\nans = np.floor(2.5) + 0.1", "2.1"),
    ("import numpy as np\nprint(np.linalg.solve([[2, 1], [1, 1]], [5, 3]))", "[2. 1.]"),
    ("import statistics\nans = statistics.mean([1, 2])", "1.5"),
    ("def solution():\n    def each():\n        yield 4\n    return sum(each())", "4"),
    ("import sympy\nans = sympy.nothing", None),
    ("import sympy\nfrom sympy import nothing", None),
    ("import sympy\nans = sympy.Symbol('x') / 0 + unknown", None),
    ("import sympy\nraise SystemExit", None),
    ("import sympy, os, sys\nsys.__stdout__.write('9')\nos.write(1, b'9')\nprint(sympy.Integer(8))", "8"),
    ("import sympy\nans = int(input())", None),
    ("x = sympy.Integer(1)\nclass Float:\n    def __str__(self):\n        return 'many'\nans = Float()", "many"),
    ("x = sympy.Integer(1)\nans = chr(0xD800) + '4'", "?4"),
    ("import pandas\nans = pandas.Series([1])[0]", UNDECIDED + "no module pandas"),
    ("import ssl, sympy\nans = 1", UNDECIDED + "no module _ssl"),
    ("while True:\n    ans = 1", UNDECIDED + "limit of time"),
    ("ans = open('/etc/passwd').read()", UNDECIDED + "PermissionError"),
    ("import sympy\nx = sympy.Integer(1)\nans = open('/etc/passwd').read()", UNDECIDED + "FileNotFoundError"),
]


def test_values_of_programs(checker: CPythonChecker) -> None:
    found = checker.extract_all([("", text) for text, _ in PROGRAMS])
    for (text, expected), extracted in zip(PROGRAMS, found, strict=True):
        if expected and expected.startswith(UNDECIDED):
            assert extracted is not None
            assert extracted.startswith(expected), text
        else:
            assert extracted == expected, text
    assert [checker.extract("", text) for text, _ in PROGRAMS[:3]] == found[:3]


def test_a_reply_that_lies_is_a_text_that_can_be_kept(checker: CPythonChecker) -> None:
    """A program can write the reply itself: that is its own word, and must not end what reads it."""
    for reply, extracted in (
        ('["x", "float", "", null, false]', "x"),
        ('[null, "float", "", null, false]', None),
        (f'["{"9" * 5000}", "str", "", null, false]', "9" * 400),
    ):
        text = f"import os\nx = sympy.Integer(1)\nos.write(3, {reply.encode()!r})\nos._exit(0)\nans = 1"
        assert checker.extract("", text) == extracted


def test_only_what_monty_lacks_goes_to_cpython(checker: CPythonChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    run_all = CPythonSandbox.run_all

    def counted(self: CPythonSandbox, programs):
        asked.extend(program for program, _ in programs)
        return run_all(self, programs)

    monkeypatch.setattr(CPythonSandbox, "run_all", counted)
    needs = "import sympy\nans = sympy.Integer(9)"
    texts = ["ans = 7 + 1", "ans = 1 / 0", "ans = 8 ** 20000", "ans = open('x')", needs]
    checker.extract_all([("", text) for text in texts])
    assert asked == [needs]


def test_values_are_the_same_every_time(checker: CPythonChecker) -> None:
    """Clock, random numbers and the order of sets are fixed; so is the answer for any number of workers."""
    text = (
        "import sympy, random, datetime, time\nimport numpy as np\n"
        "ans = str((random.random(), np.random.rand(), datetime.datetime.now(), datetime.date.today(), time.time(),"
        " set('programs')))"
    )
    texts = [("", f"{text}\n# {i}") for i in range(70)]
    values = set(checker.extract_all(texts))
    with CPythonChecker(Sandbox(workers=1), CPythonSandbox(workers=1)) as single:
        assert set(single.extract_all(texts[:2])) == values
    assert len(values) == 1
    assert "2000, 1, 1" in str(values)


def test_programs_do_not_see_each_other(checker: CPythonChecker) -> None:
    first = "import sympy, math\nsympy.secret = math.secret = 5\nans = sympy.Integer(1)"
    assert checker.extract("", first) == "1"
    assert checker.extract("", "import sympy\nans = sympy.Integer(sympy.secret)") is None


@pytest.mark.usefixtures("checker")
def test_texts_are_judged_together() -> None:
    texts = [
        "ans = 4",
        "import sympy\nans = sympy.Integer(4)",
        "import sympy\nans = sympy.Integer(5)",
        "nothing",
        "x = 1",
    ]
    found = verdicts("program_cpython", texts, [""] * len(texts), ["4"] * len(texts))
    assert found == ["correct", "correct", "wrong", "no_answer", "no_answer"]


def test_versions_say_what_decides() -> None:
    plain, both = get_checker("reft_program"), get_checker("reft_program_cpython")
    assert plain.rule_version.startswith("1 (pydantic-monty ")
    version = ".".join(map(str, sys.version_info[:3]))
    assert both.rule_version.startswith(plain.rule_version[:-1] + f"; cpython {version}, sympy ")
    assert isinstance(both, CPythonChecker)
    assert both.matches([("0.335", "1/3")]) == [True]
    assert get_checker("program_cpython").matches([("0.335", "1/3")]) == [False]


def test_the_stage_takes_it_by_name(checker: CPythonChecker) -> None:
    asked = world.problem("Half of 3?")
    sample = world.sample(world.prompt(asked, ""), 0, "import sympy\nans = sympy.Rational(3, 2)")
    samples, problems = rows_to_table(TABLES["samples"], [sample]), rows_to_table(TABLES["problems"], [asked])
    for name, extracted in (("program_cpython", "3/2"), ("program", UNDECIDED + "no module sympy")):
        table = predict(samples, None, problems, name)
        assert table["extracted"].to_pylist() == [extracted]
        assert table["extractor"].to_pylist() == [f"{name}:program"]


def started(code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    """A worker's program, after `code` has changed what it stands on."""
    worker = REPOSITORY / "builders" / "checkers" / "cpython_worker.py"
    script = f"import sys, runpy\nsys.argv = ['', '1.0', {str(REPOSITORY)!r}]\nsys.path.append({str(REPOSITORY)!r})\n"
    script += f"{code}\nrunpy.run_path({str(worker)!r}, run_name='__main__')"
    command = [*prefix, sys.executable, "-P", "-s", "-S", "-c", script]
    return subprocess.run(command, input="", capture_output=True, text=True, check=False, env={})


GAPS = [
    # what gives way, what is said
    ("import builders.checkers.isolation as i\ni._NAMESPACES &= ~0x40000000", " has a route"),
    ("import builders.checkers.isolation as i\ni._NAMESPACES &= ~0x20000000", "other processes are in sight"),
    ("import builders.checkers.isolation as i\ni._SEALED &= ~1", "can be written"),
    ("import builders.checkers.isolation as i\ni._new_root = lambda a, b: None", "the root directory has "),
    ("import builders.checkers.seccomp as s\ns._FAIL = s._ALLOW", "a program could "),
    ("import builders.checkers.seccomp as s\ns._X86_64['x'] = 41; s._AARCH64['x'] = 198", "could open a socket"),
    ("import builders.checkers.seccomp as s\ns._MACHINES.clear()", "no list of system calls for "),
    ("import resource\nresource.setrlimit = lambda *a: None", "could take memory"),
    ("import os\nos.environ['X'] = '1'\nclass E(dict):\n    clear = lambda self: None\nos.environ = E(X='1')",
     "could read the environment"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "said"), GAPS)
def test_without_a_wall_it_does_not_start(code: str, said: str) -> None:
    if not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    process = started(code)
    assert process.returncode != 0
    assert "ready" not in process.stdout
    last = process.stderr.strip().splitlines()[-1]
    assert said in last


@pytest.mark.parametrize("prefix", [(), ("unshare", "--user", "--map-root-user")])
def test_with_all_walls_it_starts(prefix: tuple[str, ...]) -> None:
    """As this user, and as one that is root in a namespace of its own, as in a container."""
    if not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    process = started("", *prefix)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout) == "ready"


def test_where_it_cannot_be_isolated_a_user_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything runs, and even if nothing would have needed it."""
    program = tmp_path / "cpython_worker.py"
    program.write_text("import sys\nsys.exit('unshare: Operation not permitted')\n")
    sandbox = CPythonSandbox(workers=1)
    sandbox.pool.program = program
    with (
        CPythonChecker(cpython=sandbox) as checker,
        pytest.raises(ValueError, match=r"not available here: .*unshare: Operation not permitted; use the checker"),
    ):
        checker.extract("", "ans = 1")
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(ValueError, match="needs Linux, and this is darwin"):
        CPythonSandbox().start()


def test_its_worker_gets_no_environment() -> None:
    os.environ["PAIRWRIGHT_TEST_KEY"] = "hidden"
    try:
        environment = CPythonSandbox().pool.start.environment
    finally:
        del os.environ["PAIRWRIGHT_TEST_KEY"]
    assert environment is not None
    assert set(environment) <= {
        "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "OPENBLAS_NUM_THREADS", "LC_ALL", "LD_LIBRARY_PATH",
    }  # fmt: skip


def test_answers_do_not_depend_on_the_workers() -> None:
    texts = [("", f"ans = {i} ** 2" if i % 9 else "ans = unknown") for i in range(300)]
    found = []
    for workers in (1, 3):
        with ProgramChecker(Sandbox(workers=workers)) as opened:
            found.append(opened.extract_all(texts))
    assert found[0] == found[1] == [str(i**2) if i % 9 else None for i in range(300)]
