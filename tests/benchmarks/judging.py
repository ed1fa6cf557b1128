"""How well a judge's questions use the time of a server, and what a stage costs that the ledger answers whole.

    python -m tests.benchmarks.judging --json

`online`: 3,000 judgements by a server on this machine that answers in 200 ms, 64 in flight; `ratio` is the time from
the first request to the last answer, as the server saw them, over the ideal 9.4 s, `stage_ratio` that of the whole
stage. `budget`: the same under a budget, whose reservations are synced. `cached`: the stage over 100,000 samples that
are all judged already. Medians of `--repeat` runs; each in a process of its own, for its peak memory.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from builders import models, step_labels
from builders.judging.asking import Questions
from builders.judging.questions import setting_of
from stores.duck import Duck
from stores.ledger import Completion, Ledger
from stores.stage import Stage, execute
from tests import stage_world as world
from tests.conftest import REPOSITORY
from tests.replaying_judge import labels_of, sample_of, verdict, write_params, write_tables

DELAY_S, AT_ONCE, N_STEPS = 0.2, 64, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000, help="of `online` and `budget`")
    parser.add_argument("--samples", type=int, default=100_000, help="of `cached`")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    for name, budget in (("online", None), ("budget", "1000")):
        result[name] = medians(arguments.repeat, online, arguments.questions, budget)
    result["cached"] = medians(arguments.repeat, cached, arguments.samples)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:10} {value}" for name, value in result.items()))


def medians(repeat: int, run: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        runs = [pool.apply(run, arguments) for _ in range(repeat)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def online(questions: int, budget: str | None) -> dict[str, float]:
    """One stage with so many questions."""
    with workspace() as counts:
        write_samples(questions)
        if budget:
            os.environ["PAIRWRIGHT_BUDGET_USD"] = budget
        spent = measured(lambda: execute("step_labels", "judged", step_labels.run))
        os.environ.pop("PAIRWRIGHT_BUDGET_USD", None)
        seen, ideal = counts(), questions * DELAY_S / AT_ONCE
        assert seen["asked"] == seen["answered"] == questions
        ratios = {"ratio": seen["seconds"] / ideal, "stage_ratio": spent["wall_s"] / ideal}
        return ratios | spent | {"most_at_once": seen["most"]}


def cached(samples: int) -> dict[str, float]:
    """The stage when the ledger has every answer; the time to fill the ledger is not counted."""
    with workspace():
        write_samples(samples)
        fill_ledger()
        return measured(lambda: execute("step_labels", "judged", step_labels.run))


def measured(run: Callable[[], None]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def write_samples(count: int) -> None:
    """Samples of six steps each, four of a problem."""
    problems = [world.problem(f"What is {i} + {i}, and then? Say it in steps.") for i in range((count + 3) // 4)]
    samples = [sample_of(problems[number // 4], number % 4, text_of(number)) for number in range(count)]
    write_tables(problems, samples, [world.answer(p, "8") for p in problems])
    write_params()
    execute("models", "judge", models.run)


def text_of(number: int) -> str:
    steps = (f"The sum of {number} and {i} is {number + i}, as one sees at once." for i in range(1, N_STEPS + 1))
    return "\n".join(f"Step {i}: {step}" for i, step in enumerate(steps, 1))


def fill_ledger() -> None:
    """Answers to all questions of the run."""
    stage, ledger = Stage("step_labels", "judged"), Ledger()
    with Duck() as duck:
        step_labels.select(stage, duck)
        run = Questions(setting_of(stage), lambda: step_labels.candidates(stage, duck))
        run.read_all()
    said = Completion(verdict(labels_of(3, N_STEPS), "so " * 100), "stop", 150, 600, price_usd=0.0001, served_by="m 1")
    for number, chunk in enumerate(run.chunks):
        entries = [(key, said) for key in run.keys(chunk)]
        ledger.append(run.setting.context, "judge", entries, 1.0 + number)
    ledger.close()


@contextmanager
def workspace() -> Iterator[Callable[[], dict[str, Any]]]:
    """An empty workspace and a server in a process of its own; gives what asks the server for its counts."""
    command = [sys.executable, "-m", "tests.fault_server", "--delay", str(DELAY_S), "--text"]
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        command += [verdict(labels_of(3, N_STEPS))]
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            os.environ |= {"PAIRWRIGHT_LEDGER": str(Path(directory) / "ledger"), "PAIRWRIGHT_BASE_URLS": url}
            os.environ["PAIRWRIGHT_MAX_CONCURRENCY"] = str(AT_ONCE)
            yield lambda: json.load(urllib.request.urlopen(url.removesuffix("/v1") + "/counts"))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
