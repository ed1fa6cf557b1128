"""The stages `predictions` and `rewards`, and the same on tables in memory."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from builders import predictions, rewards
from builders.checkers.number import NumberChecker
from builders.predictions import predict
from builders.rewards import judge
from schemas import TABLES, Reward
from stores.parquet import read_table, rows_to_table
from stores.paths import rejects_dir, run_dir
from stores.stage import execute
from tests import stage_world as world
from tests.conftest import REPOSITORY

CATS, SUM, HALF = world.problem("Legs of 2 cats?"), world.problem("3 + 4?"), world.problem("Half of x?", "latex")
ASKED = {p.problem_id: world.prompt(p, prefill) for p, prefill in ((CATS, ""), (SUM, "3 + 4"), (HALF, ""))}
GOLD = {CATS: "8", SUM: "7", HALF: r"\frac{x}{2}"}
GIVEN = [
    # problem, text, extracted, normalised, extractor, verdict, reward
    (CATS, "2 × 4 = 8\n#### 8.0", "8.0", "8", "number:last_marker", "correct", 1.0),
    (CATS, "2 + 4\nA: 6", "6", "6", "number:last_marker", "wrong", 0.0),
    (CATS, "I do not know.", None, None, "number:last_marker", "no_answer", 0.0),
    (SUM, " = 7", "7", "7", "number:last_marker", "correct", 1.0),
    (SUM, " is hard", None, None, "number:last_marker", "no_answer", 0.0),
    (HALF, r"so $\boxed{ \dfrac{x}{2} }$", r"\dfrac{x}{2}", r"\frac{x}{2}", "latex:last_boxed", "correct", 1.0),
    (HALF, r"so $\boxed{0.5x}$", "0.5x", "0.5x", "latex:last_boxed", "correct", 1.0),
    (HALF, r"so $\boxed{x}$", "x", "x", "latex:last_boxed", "wrong", 0.0),
]
SAMPLES = [
    world.sample(ASKED[asked.problem_id], index, text) for index, (asked, text, *_) in enumerate(GIVEN)
]  # fmt: skip
EXPECTED = {s.sample_id: row for s, row in zip(SAMPLES, GIVEN, strict=True)}


def table(name: str, rows: list) -> pa.Table:
    return rows_to_table(TABLES[name], rows)


@pytest.fixture
def made(workspace) -> None:
    world.write_params(
        predictions={"p": {"samples": "drawn", "prompts": "train", "problems": "train"}},
        rewards={"r": {"predictions": "p", "problems": "train"}},
    )
    world.write("problems", "train", list(GOLD))
    world.write("answers", "train", [world.answer(p, gold) for p, gold in GOLD.items()])
    world.write("prompts", "train", list(ASKED.values()))
    world.write("samples", "drawn", SAMPLES)


def test_stages_give_every_sample_a_prediction_and_a_verdict(made: None) -> None:
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    found = {row["sample_id"]: row for row in world.read("predictions", "p")}
    assert {
        key: (r["extracted"], r["normalised"], r["extractor"], r["extractor_version"]) for key, r in found.items()
    } == {key: (*row[2:5], "2" if row[0] == HALF else "1") for key, row in EXPECTED.items()}
    judged = {row["sample_id"]: row for row in world.read("rewards", "r")}
    assert {key: (r["verdict"], r["reward"]) for key, r in judged.items()} == {
        key: row[5:] for key, row in EXPECTED.items()
    }
    assert {r["checker"]: r["checker_version"] for r in judged.values()}.keys() == {"number", "latex"}
    assert all("math-verify 0.9" in r["checker_version"] for r in judged.values() if r["checker"] == "latex")
    assert world.rejects("predictions", "p") == world.rejects("rewards", "r") == []


def test_tables_in_memory_give_the_same_rows(made: None) -> None:
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    predicted = predict(
        table("samples", SAMPLES), table("prompts", list(ASKED.values())), table("problems", list(GOLD)), "auto"
    )
    judged = judge(predicted, table("answers", [world.answer(p, gold) for p, gold in GOLD.items()]))
    assert predicted.to_pylist() == world.read("predictions", "p")
    assert judged.to_pylist() == world.read("rewards", "r")


def test_the_same_rows_give_the_same_bytes_whatever_the_workers(made: None, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for workers in ("1", "2"):
        monkeypatch.setenv("PAIRWRIGHT_WORKERS", workers)
        execute("predictions", "p", predictions.run)
        execute("rewards", "r", rewards.run)
        written.append(
            [(run_dir(t, r) / "part-00000.parquet").read_bytes() for t, r in (("predictions", "p"), ("rewards", "r"))]
        )
    assert written[0] == written[1]


def test_no_samples_give_empty_tables(made: None) -> None:
    world.write("samples", "drawn", [])
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    assert world.read("predictions", "p") == world.read("rewards", "r") == []
    empty = table("predictions", [])
    assert judge(empty, table("answers", [])).num_rows == 0


def test_a_problem_without_a_gold_answer_is_undecided_and_a_reject(made: None) -> None:
    world.write("answers", "train", [world.answer(CATS, "8")])
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    judged = {row["sample_id"]: (row["verdict"], row["reward"]) for row in world.read("rewards", "r")}
    without = {s.sample_id: s.problem_id for s in SAMPLES if s.problem_id != CATS.problem_id}
    assert {key for key, verdict in judged.items() if verdict == ("undecided", None)} == set(without)
    assert sorted(world.rejects("rewards", "r")) == sorted(
        (problem, key, "no_answer", "the problem has no gold answer") for key, problem in without.items()
    )


def test_each_distinct_answer_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    matches = NumberChecker.matches

    def counted(self, pairs, advance):
        asked.extend(pairs)
        return matches(self, pairs, advance)

    monkeypatch.setattr(NumberChecker, "matches", counted)
    many = [world.sample(ASKED[CATS.problem_id], i, f"A: {i % 2 + 8}") for i in range(20)]
    predicted = predict(table("samples", many), None, table("problems", [CATS]), "number")
    judged = judge(predicted, table("answers", [world.answer(CATS, "8")]))
    assert sorted(asked) == [("8", "8"), ("9", "8")]
    assert judged["verdict"].to_pylist() == ["correct", "wrong"] * 10


def test_a_comparison_that_times_out_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumberChecker, "matches", lambda self, pairs, advance: [None for _ in pairs])
    predicted = predict(table("samples", SAMPLES[:3]), None, table("problems", [CATS]), "number")
    judged = judge(predicted, table("answers", [world.answer(CATS, "8")]))
    assert judged["verdict"].to_pylist() == ["undecided", "undecided", "no_answer"]
    assert judged["reward"].to_pylist() == [None, None, 0.0]
    rewarded = [Reward.model_validate(row) for row in judged.to_pylist()]
    assert len(rewarded) == 3


def test_a_text_is_read_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(NumberChecker, "extract", lambda self, prefill, text: read.append(text))
    many = [world.sample(ASKED[CATS.problem_id], i, "A: 8") for i in range(5)]
    predict(table("samples", many), None, table("problems", [CATS]), "number")
    assert read == ["A: 8"]


def test_named_checker_overrides_the_answer_kind() -> None:
    predicted = predict(table("samples", SAMPLES[5:]), None, table("problems", [HALF]), "number")
    assert set(predicted["extractor"].to_pylist()) == {"number:last_marker"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: world.write("problems", "train", [CATS]), r"its problem is not in `problems`; name the run"),
        (lambda: world.write("prompts", "train", []), r"its prompt is not in `prompts`; name the run"),
        (
            lambda: world.write(
                "problems", "train", [*GOLD, world.problem("Discuss.").model_copy(update={"answer_kind": "essay"})]
            ),
            r"no checker compares answers of kind 'essay'",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_named(made: None, change, message: str) -> None:
    change()
    with pytest.raises(ValueError, match=message):
        execute("predictions", "p", predictions.run)
    assert not run_dir("predictions", "p").exists()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_run_leaves_nothing_and_the_next_gives_the_same_bytes(
    made: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 while a comparison hangs: no half-written table stays, and no worker that computes for ever."""
    hangs = world.sample(ASKED[HALF.problem_id], 90, r"\boxed{9^{9^{9^{9^{9}}}} + \sqrt{7}}")
    samples = sorted([*SAMPLES, hangs], key=lambda s: s.sample_id)
    world.write("samples", "drawn", samples)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    execute("predictions", "p", predictions.run)
    process = subprocess.Popen([sys.executable, "-m", "builders.rewards", "r"])
    wait_for(lambda: children(process.pid))
    time.sleep(2.0)
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert not run_dir("rewards", "r").exists()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    written = []
    for _ in range(2):
        execute("rewards", "r", rewards.run)
        written.append((run_dir("rewards", "r") / "part-00000.parquet").read_bytes())
    assert written[0] == written[1]
    verdicts = {row["sample_id"]: row["verdict"] for row in world.read("rewards", "r")}
    assert verdicts == {key: row[5] for key, row in EXPECTED.items()} | {hangs.sample_id: "undecided"}


def test_corrupt_predictions_are_one_clear_error(made: None) -> None:
    execute("predictions", "p", predictions.run)
    execute("rewards", "r", rewards.run)
    before = read_table(run_dir("rewards", "r"), Reward)
    part = run_dir("predictions", "p") / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"run=p/part-00000\.parquet.*restore it with `dvc checkout") as error:
        execute("rewards", "r", rewards.run)
    assert "\n" not in str(error.value)
    assert read_table(run_dir("rewards", "r"), Reward) == before
    assert rejects_dir("rewards", "r").exists()


def test_a_foreign_table_is_named(made: None) -> None:
    world.write("predictions", "p", [])
    part = run_dir("predictions", "p") / "part-00000.parquet"
    part.write_bytes((run_dir("samples", "drawn") / "part-00000.parquet").read_bytes())
    with pytest.raises(ValueError, match="not a predictions table"):
        execute("rewards", "r", rewards.run)
