"""Real programs: how they end, and what CPython makes of those for which the sandbox lacks something.

The data lie beside a developer's checkout. `python -m tests.real_verdicts` prints the endings, and verdicts by class.
"""

from collections import Counter
from pathlib import Path

import pytest

from tests.real_verdicts import PROGRAMS, chains, endings, judged, samples
from tests.test_sandbox_escapes import isolation_allowed

POT = {
    "value": 4421, "NameError": 93, "SyntaxError": 89, "no program": 11, "no module numpy": 6, "limit of time": 5,
    "UnboundLocalError": 4, "no module sympy": 3, "TypeError": 1,
}  # fmt: skip
TORA = {"value": 2612, "no module sympy": 22, "SyntaxError": 2, "limit of time": 1, "NameError": 1}


def test_every_svamp_program_has_a_value(shared_data: Path) -> None:
    """3,043 programs, not one exception; all equal gold by ReFT's rule, 99.7 % exactly."""
    assert endings(PROGRAMS["reft svamp programs"](shared_data)) == {"value": 3043}
    found = judged("program", chains(shared_data, "svamp_python_sdp"))
    assert Counter(one.verdict for one in found) == {"correct": 3034, "wrong": 9}
    assert all(one.agrees for one in judged("reft_program", chains(shared_data, "svamp_python_sdp")))


@pytest.mark.slow
def test_how_sampled_programs_end(shared_data: Path) -> None:
    assert endings(PROGRAMS["pot"](shared_data)) == POT
    assert endings(PROGRAMS["tora"](shared_data)) == TORA


CPYTHON = {
    # source -> (label, verdict) of what only CPython decides
    "pot_pcot": {("wrong", "wrong"): 4, ("wrong", "no_answer"): 4, ("right", "correct"): 1},
    "tora_gsm8k_tool": {("right", "correct"): 14, ("right", "no_answer"): 1, ("wrong", "wrong"): 7},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CPYTHON)
def test_cpython_decides_what_the_sandbox_lacks(shared_data: Path, name: str) -> None:
    """31 programs of numpy and sympy: as their labels have it, but for one that raises before its text answers."""
    if not isolation_allowed():
        pytest.skip("this machine does not allow user namespaces")
    rows = list(samples(shared_data, name))
    undecided = [one for one in judged("program", iter(rows)) if "no module" in (one.extracted or "")]
    again = [(one.text, one.gold, one.theirs, one.right) for one in undecided]
    found = judged("program_cpython", iter(again))
    assert Counter(("right" if one.right else "wrong", one.verdict) for one in found) == CPYTHON[name]
