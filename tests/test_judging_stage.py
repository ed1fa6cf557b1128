"""The stage with a judge: every answer makes a row, none is paid for twice, and rows follow from the ledger alone."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from schemas import StepLabels
from schemas.ids import MAX_INDEX
from stores.ledger import Ledger
from stores.ledger_transfer import export, merge
from stores.paths import run_dir
from stores.run_log import RunLog
from stores.stage import StopEarly
from tests import judging_world as judged
from tests import stage_world as world
from tests.fault_server import MODEL, Act, Asked, FaultServer
from tests.hosted_world import KEY, connect
from tests.judging_world import GOOD, number_of
from tests.replaying_judge import verdict

ANSWERS = {
    0: Act(text=GOOD),
    1: Act(text=verdict(["correct", "neutral"])),
    2: Act(text=verdict(["correct"] * 3)),
    3: Act(text="I cannot tell."),
    4: Act(text=GOOD[:-10], finish_reason="length"),
    5: Act(finish_reason="content_filter", text=""),
    6: Act(400, content='{"error": {"message": "maximum context length is 9", "code": "context_length_exceeded"}}'),
}


def plan(asked: Asked) -> Act:
    return ANSWERS.get(number_of(asked), Act(text=GOOD))


def by_number(rows: list[StepLabels]) -> dict[int, StepLabels]:
    """Rows by the number of their problem."""
    numbers = {row["problem_id"]: int(row["question"].split()[2]) for row in world.read("problems", "train")}
    return {numbers[row.sample_id[:16]]: row for row in rows}


def test_every_answer_makes_a_row_and_those_that_say_nothing_are_rejects_too(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(7)
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server)
        rows = by_number(judged.judge())
        assert len(server.asked) == 7
        judged.judge()
        assert len(server.asked) == 7, "an invalid answer is not asked for again"
    assert {n: (row.verdict, row.first_error, row.labels[-1:]) for n, row in rows.items()} == {
        0: ("error", 2, ["incorrect"]), 1: ("error", 1, ["neutral"]), 2: ("no_error", None, ["correct"]),
        3: ("invalid", None, []), 4: ("invalid", None, []), 5: ("invalid", None, []), 6: ("invalid", None, []),
    }  # fmt: skip
    reasons = {n: row.rationale for n, row in rows.items() if row.verdict == "invalid"}
    assert reasons[3] == "no label: neither JSON with `steps` nor `Final Decision:`"
    assert reasons[4] == "cut at max_new_tokens; no label: neither JSON with `steps` nor `Final Decision:`"
    assert (reasons[5], reasons[6]) == (
        "refused: filtered by the server",
        "over_long: 400: maximum context length is 9",
    )
    assert Counter(reason for _, _, reason, _ in world.rejects("step_labels", "judged")) == {"invalid": 4}
    said = dict(judged.ledger_sql("select key, text from completions"))
    assert said[rows[3].ledger_key] == "I cannot tell.", "it is kept as it came"


def test_a_row_says_who_judged_by_what_and_when(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.write(1)
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server)
        (row,) = judged.judge()
    assert (row.kind, row.labeler, row.model, row.repeat) == ("judge", MODEL, f"{MODEL} fp_1", 0)
    assert re.fullmatch(r"step_judge@[0-9a-f]{8}", row.template or "")
    assert (row.labeler_version, row.rationale, row.correction) == ("verdict 1", "because", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row.labeled_at or "")
    ((noted,),) = judged.ledger_sql("select setting from contexts")
    assert {"seed": 0, "hosted": MODEL} | json.loads(noted) == json.loads(noted), "model and seed are recorded"
    cost = RunLog().latest(Path())["step_labels", "judged"]
    ((price, tokens),) = judged.ledger_sql("select sum(price_usd), sum(n_tokens) from completions")
    assert (cost.price_usd, cost.tokens) == (pytest.approx(price), tokens)
    assert price > 0
    assert re.fullmatch(r"genai-prices \S+ of \d{4}-\d\d-\d\d", cost.price_table)


def test_rows_are_a_function_of_the_ledger_on_every_machine(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(30)
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server, max_concurrency=3)
        judged.judge()
        first = (run_dir("step_labels", "judged") / "part-00000.parquet").read_bytes()
        ledger = Ledger()
        export(ledger, tmp_path / "exported")
        ledger.close()
        monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "elsewhere"))
        other = Ledger()
        merge(other, tmp_path / "exported")
        other.close()
        judged.judge()
        assert len(server.asked) == 30
    assert (run_dir("step_labels", "judged") / "part-00000.parquet").read_bytes() == first


def test_one_more_sample_makes_one_call_and_equal_questions_are_one(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server)
        for count, calls in ((10, 10), (11, 11), (11, 11)):
            judged.write(count)
            assert len(judged.judge()) == count
            assert len(server.asked) == calls
        samples = world.read("samples", "drawn")
        twin = samples[0] | {"sample_id": samples[0]["sample_id"][:-4] + "0001", "index": 1}
        world.write("samples", "drawn", [judged_sample(row) for row in sorted([*samples, twin], key=_id)])
        rows = judged.judge()
        assert len(server.asked) == 11
    assert len(rows) == 12
    assert rows[0].ledger_key == rows[1].ledger_key


def _id(row: dict) -> str:
    return row["sample_id"]


def judged_sample(row: dict):
    from schemas import Sample

    return Sample.model_validate(row)


def test_repeats_have_rows_and_seeds_of_their_own_and_more_of_them_ask_only_the_new_ones(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(plan).running() as server:
        connect(monkeypatch, server)
        for repeats, calls in ((1, 2), (3, 6), (2, 6)):
            judged.write(2, repeats=repeats)
            rows = judged.judge()
            assert [row.repeat for row in rows] == list(range(repeats)) * 2
            assert len(server.asked) == calls
        seeds = Counter(asked.body["seed"] for asked in server.asked)
    assert set(seeds.values()) == {1}
    assert len({row.ledger_key for row in rows}) == len(rows)


def test_retries_ask_again_only_where_the_answer_is_invalid(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problem 3 answers well the third time, 4 never; what will never be answered is not asked again."""
    answered: Counter[int] = Counter()

    def moody(asked: Asked) -> Act:
        number = number_of(asked)
        answered[number] += 1
        return Act(text=GOOD) if number == 3 and answered[3] == 3 else plan(asked)

    with FaultServer(moody).running() as server:
        connect(monkeypatch, server)
        for retries, calls, verdicts in ((0, 7, "invalid"), (1, 9, "invalid"), (3, 12, "error"), (3, 12, "error")):
            judged.write(7, retries=retries)
            rows = by_number(judged.judge())
            assert len(server.asked) == calls
            assert rows[3].verdict == verdicts
    assert rows[3].ledger_key is not None
    assert rows[3].ledger_key.endswith("-0200"), "the third attempt"
    assert (rows[4].ledger_key or "").endswith("-0300"), "the last one"
    assert dict(answered) == {0: 1, 1: 1, 2: 1, 3: 3, 4: 4, 5: 1, 6: 1}
    assert all(int(key[-4:]) < MAX_INDEX for (key,) in judged.ledger_sql("select key from completions"))
    judged.write(7, retries=2)
    assert (by_number(judged.judge())[4].ledger_key or "").endswith("-0200"), "of those that this revision asks for"


def test_a_neutral_step_is_an_error_only_where_params_say_so(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = verdict(["correct", "neutral", "incorrect"])
    with FaultServer(lambda asked: Act(text=text)).running() as server:
        connect(monkeypatch, server)
        judged.write(1)
        (row,) = judged.judge()
        assert (row.labels, row.first_error) == (["correct", "neutral"], 1)
        judged.set_judge(neutral_is_error=False)
        (row,) = judged.judge()
        assert (row.labels, row.first_error) == (["correct", "neutral", "incorrect"], 2)
        assert len(server.asked) == 1, "the answer is the same"


def test_labels_are_read_from_the_text_of_models_without_structured_answers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Four legs each.\nCorrection of step 2:\nAnd two eyes.\nFinal Decision:\nStep 1: correct; Step 2: incorrect"
    judged.write(1, answer="text", corrections=True)
    with FaultServer(lambda asked: Act(text=said)).running() as server:
        connect(monkeypatch, server)
        (row,) = judged.judge()
        assert "response_format" not in server.asked[0].body
    assert (row.labels, row.rationale, row.correction) == (["correct", "incorrect"], "Four legs each.", "And two eyes.")


def test_a_correction_is_of_the_first_wrong_step(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["correct", "neutral", "incorrect"]
    steps = [{"step": n, "label": label, "correction": f"fixed {n}"} for n, label in enumerate(labels, 1)]
    text = json.dumps({"analysis": "a", "steps": steps})
    with FaultServer(lambda asked: Act(text=text)).running() as server:
        connect(monkeypatch, server)
        judged.write(1, corrections=True)
        assert judged.judge()[0].correction == "fixed 2"
        judged.set_judge(neutral_is_error=False, corrections=True)
        assert judged.judge()[0].correction == "fixed 3"


@pytest.mark.parametrize(
    "text", ["\ud800 lone", "\ud83d\ude00 pair", "nul \0 nul", "<b onclick='x'>&amp;</b>\n\r\u2028"]
)
def test_whatever_a_judge_writes_changes_its_own_row_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As an answer that says nothing, and as the analysis of one that is read."""
    written = {0: text, 1: verdict(["incorrect"], text)}
    judged.write(3)
    with FaultServer(lambda asked: Act(text=written.get(number_of(asked), GOOD))).running() as server:
        connect(monkeypatch, server)
        rows = by_number(judged.judge())
    assert [rows[n].verdict for n in range(3)] == ["invalid", "error", "error"]
    readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert rows[1].rationale == readable
    assert rows[2].rationale == "because"


def test_a_model_that_is_not_hosted_is_named(workspace: Path) -> None:
    judged.write(1)
    world.write_params(
        models=world.COMMON["models"],
        step_labels={"judged": {"samples": "drawn", "prompts": "none", "problems": "train", "rewards": "none",
                                "labeler": "judge", "model": "base", "path": "data/none"}},
    )  # fmt: skip
    from builders import models
    from stores.stage import execute

    execute("models", "base", models.run)
    with pytest.raises(ValueError, match=r"model: a judge is asked by name; give models.base a `hosted` model"):
        judged.judge()


def test_requests_that_use_up_their_attempts_stop_the_stage_and_leave_no_table(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.write(20)
    broken = Act(content='{"choices": [{"message"')
    with FaultServer(lambda asked: broken if number_of(asked) == 3 else Act(text=GOOD)).running() as server:
        connect(monkeypatch, server, max_attempts=3)
        with pytest.raises(StopEarly, match=r"1 requests failed \(3 times each, the last one: truncated JSON"):
            judged.judge()
        assert Counter(number_of(asked) for asked in server.asked)[3] == 3
    assert not run_dir("step_labels", "judged").exists()
    assert judged.ledger_sql("select count(*) from completions") == [(19,)]


def test_keys_and_addresses_are_nowhere(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.write(12)
    echo = json.dumps({"error": {"message": f"odd: Bearer {KEY}"}})
    with FaultServer(lambda asked: Act(400, content=echo) if asked.number == 5 else Act(text=GOOD)).running() as server:
        connect(monkeypatch, server, budget_usd="1")
        judged.judge()
        address = server.url.removeprefix("http://")
        monkeypatch.setenv("PAIRWRIGHT_BUDGET_USD", "0")
        judged.write(13)
        with pytest.raises(StopEarly) as stop:
            judged.judge()
    said = "".join(capsys.readouterr()) + str(stop.value)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (KEY, address):
        assert secret not in said
        assert not any(secret.encode() in content for content in files)


@pytest.mark.parametrize("said", ["response_format is not supported", "temperature must be 1"])
def test_a_server_that_takes_no_such_questions_is_one_line_with_the_setting(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    judged.write(5)
    refusal = json.dumps({"error": {"message": said}})
    with FaultServer(lambda asked: Act(400, content=refusal)).running() as server:
        connect(monkeypatch, server)
        with pytest.raises(ValueError, match=rf"{said}; change `judge` \(such as `temperature`, or `answer: text`\)"):
            judged.judge()
