"""What the worker of the `latex` checker says where math-verify fails, and that workers end as a group."""

import time
from pathlib import Path

import pytest

from builders.checkers.latex import LatexChecker
from builders.checkers.latex_forms import canonical, is_prose
from builders.checkers.latex_worker import compare
from builders.checkers.workers import WorkerPool


@pytest.mark.parametrize(
    ("broken", "verdict"), [("verify", None), ("parse of gold", None), ("parse of extracted", False)]
)
def test_only_an_answer_that_does_not_parse_is_wrong(
    broken: str, verdict: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on(text: str | None):
        def function(given, *_: object, **__: object) -> list:
            if text is None or text in given:
                raise ValueError("a mistake of the library")
            return [given]

        return function

    monkeypatch.setattr(
        "math_verify.parse", fail_on({"parse of gold": "gold", "parse of extracted": "x"}.get(broken, "?"))
    )
    monkeypatch.setattr("math_verify.verify", fail_on(None))
    assert compare("x", "gold") is verdict
    assert compare("x%", "gold") is verdict


NOTATIONS = [
    # extracted, gold, equal
    ("x \\neq 3", "x \\neq 3.0", True),
    ("x \\neq 4", "x \\neq 3", False),
    ("x > 3", "x \\neq 3", False),
    ("x=1 or x=-1", "x = -1 \\text{ and } x = 1", True),
    ("W(x)=1orW(x)=-1", "W(n) = 1 \\text{ and } W(n) = -1", True),
    ("p=5,q=2;p=7,q=2", "p = 5, q = 2 \\quad \\text{and} \\quad p = 7, q = 2", True),
    ("p=5,q=2;p=7,q=3", "p = 5, q = 2 \\text{ and } p = 7, q = 2", False),
    ("17 \\bmod 5 = 2", "2", True),
    ("17 \\bmod 5 = 3", "2", False),
    ("[0.5, 1]", "\\begin{matrix} \\frac12 \\\\ 1 \\end{matrix}", True),
    ("[0.5, 2]", "\\begin{pmatrix} \\frac12 \\\\ 1 \\end{pmatrix}", False),
    ("(-3,2)", "[-3,2]", False),
    ("10 cm^2", "10", True),
    ("28 percent", "28\\%", True),
    ("28 pct", "0.28", True),
]


def test_notations_that_math_verify_does_not_read() -> None:
    assert {(a, b): compare(a, b) for a, b, _ in NOTATIONS} == {(a, b): equal for a, b, equal in NOTATIONS}


CANONICAL = [
    ("$\\boxed{28 pct}$", "28 pct"),
    ("\\boxed{\\frac{\\sqrt{2}}{2}}.", "\\frac{\\sqrt{2}}{2}"),
    ("1,000.99", "1000.99"),
    ("x \\lt 3", "x<3"),
    ("x != 3", "x\\neq 3"),
    ("1 \\\\text{ and } 2", "1\\text{and}2"),
]


@pytest.mark.parametrize(("text", "form"), CANONICAL)
def test_canonical_forms(text: str, form: str) -> None:
    assert canonical(text) == canonical(form) == form


def test_a_sentence_stands_for_the_expression_in_it() -> None:
    latex = LatexChecker(workers=1)
    assert latex.normalise("We find that $x \\lt 3$.") == "x<3"
    assert latex.normalise("no it's not 10 it's 1,000.99") == "1000.99"
    assert not is_prose("8 hours and 30 minutes")
    assert latex.normalise("8 hours and 30 minutes") == "8 hours and 30 minutes"


PARENT = """
import json, subprocess, sys, time
child = subprocess.Popen(["sleep", "300"])
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    open(json.loads(line), "w").write(str(child.pid))
    time.sleep(300)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", ["time-out", "close"])
def test_what_a_worker_started_ends_with_it(tmp_path: Path, how: str) -> None:
    """A hanging worker is killed with its whole group, and its question stays open."""
    program, note = tmp_path / "parent.py", tmp_path / "pid"
    program.write_text(PARENT)
    pool = WorkerPool(program, 1, 0.05 if how == "time-out" else 60.0)
    if how == "time-out":
        assert pool.run([str(note)], lambda _: None) == [None]
    else:
        pool._start(1)
        while not pool.workers[0].ready:
            list(pool._settled())
        pool._assign([0], [str(note)])
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
    pool.close()
    child = int(note.read_text())
    end = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < end, "the worker's child lives on"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


CRASHES = """
import json, os, sys
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    open(ASKED, "a").write(line)
    question = json.loads(line)
    if question == ["crash", "x"]:
        os.abort()
    print(json.dumps(question[0] == question[1]), flush=True)
"""


def test_a_crash_costs_only_its_own_pair_and_is_not_repeated(tmp_path: Path) -> None:
    program, asked = tmp_path / "crashes.py", tmp_path / "asked"
    program.write_text(CRASHES.replace("ASKED", repr(str(asked))))
    with LatexChecker(workers=1) as checker:
        checker.pool = WorkerPool(program, 1, 5.0)
        pairs = [("x+1", "x+2"), ("crash", "x"), ("x+3", "x+4"), ("crash", "x")]
        assert checker.matches(pairs) == [False, None, False, None]
        assert checker.matches([("crash", "x")]) == [None]
    assert asked.read_text().splitlines().count('["crash", "x"]') == 1
