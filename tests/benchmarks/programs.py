"""Programs per second of the `program` checker on workers of their own, and of CPython for what the sandbox lacks.

    python -m tests.benchmarks.programs --json

Programs are like ReFT's, each different: a function of a question in words, with a few lines of arithmetic. `isolated`
are small programs of sympy. Starting workers is not measured. Each timing is the median of `--repeat` runs; answers are
checked, and must be the same for one worker and for several.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from builders.checkers.cpython import CPythonSandbox
from builders.checkers.program import CPythonChecker, ProgramChecker
from builders.checkers.sandbox import Sandbox
from tests.benchmarks.measuring import show


class Asked(NamedTuple):
    texts: list[str]
    answers: list[str]


def arithmetic(count: int) -> Asked:
    """Programs in the shape of ReFT's P-CoT."""
    texts = [
        f'def solution():\n    """Ann has {i} boxes of {i % 7 + 2} pens and gives {i % 5} away. How many are left?"""\n'
        f"    boxes = {i}\n    pens_per_box = {i % 7 + 2}\n    given = {i % 5}\n    total = boxes * pens_per_box\n"
        "    left = total - given\n    result = left\n    return result\n"
        for i in range(count)
    ]
    return Asked(texts, [str(i * (i % 7 + 2) - i % 5) for i in range(count)])


def algebra(count: int) -> Asked:
    """Programs that need sympy."""
    texts = [
        f"from sympy import Eq, solve, symbols\nx = symbols('x')\nans = solve(Eq(x + {i}, {2 * i}), x)[0]\n"
        for i in range(count)
    ]
    return Asked(texts, [str(i) for i in range(count)])


def measure(checker: ProgramChecker, asked: Asked, repeat: int) -> dict[str, float]:
    """Medians of wall-clock and CPU seconds (of this process), after one run that starts the workers."""
    given = [("", text) for text in asked.texts]
    with checker:
        checker.extract_all(given[:200])
        timings = [_timed(checker, given, asked.answers) for _ in range(repeat)]
    wall, own = (statistics.median(column) for column in zip(*timings, strict=True))
    return {"programs_per_s": len(given) / wall, "wall_s": wall, "own_cpu_s": own}


def _timed(checker: ProgramChecker, given: Sequence[tuple[str, str]], answers: list[str]) -> tuple[float, float]:
    checker.undecided.clear()
    wall, own = time.perf_counter(), time.process_time()
    found = checker.extract_all(given)
    took = time.perf_counter() - wall, time.process_time() - own
    assert found == answers, "the answers depend on how the programs are run"
    return took


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--isolated", type=int, default=500, help="programs for CPython; 0: none")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    asked, results = arithmetic(arguments.programs), {}
    for workers in sorted({1, arguments.workers}):
        before = _children_cpu_s()
        result = measure(ProgramChecker(Sandbox(workers=workers)), asked, arguments.repeat)
        cpu = result["own_cpu_s"] + (_children_cpu_s() - before) / arguments.repeat
        rates = {"programs_per_cpu_s": arguments.programs / cpu}
        results[f"workers_{workers}"] = {"programs": arguments.programs, **result, **rates, "runs": arguments.repeat}
    if arguments.isolated:
        checker = CPythonChecker(cpython=CPythonSandbox(workers=arguments.workers))
        result = measure(checker, algebra(arguments.isolated), arguments.repeat)
        results["isolated"] = {"programs": arguments.isolated, **result, "runs": arguments.repeat}
    show(results if arguments.json else [{"case": k} | v for k, v in results.items()], arguments.json)


if __name__ == "__main__":
    main()
