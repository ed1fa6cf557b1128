"""Judging over all solutions that humans have labelled, by a judge that says what they said, through a real server."""

from collections import Counter
from pathlib import Path

import pytest

from builders import models, step_labels
from stores.stage import execute
from tests import stage_world as world
from tests.fault_server import FaultServer
from tests.first_error_rows import LabelledRow, rows
from tests.hosted_world import connect
from tests.replaying_judge import ReplayingJudge, is_malformed, seen, shown, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # a request that is late is asked again, and all are counted


def test_a_judge_that_replays_the_humans_gives_their_labels(
    shared_data: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = list(rows(shared_data))
    assert len(labelled) == 3018
    by_id, judge = write_rows(labelled), ReplayingJudge(labelled)
    with FaultServer(judge.plan).running() as server:
        connect(monkeypatch, server)
        execute("models", "judge", models.run)
        execute("step_labels", "judged", step_labels.run)
        asked = len(server.asked)
        malformed = {seen(a.question) for a in server.asked if is_malformed(a.question)}
        assert asked == len(judge.labels) < len(labelled), "equal questions are asked once"
        assert 0.08 < len(malformed) / asked < 0.12
        check(world.read("step_labels", "judged"), by_id, judge, malformed)
        execute("step_labels", "judged", step_labels.run)
        assert len(server.asked) == asked, "a second run makes no call"


def check(found: list[dict], by_id: dict[str, LabelledRow], judge: ReplayingJudge, malformed: set) -> None:
    assert [row["sample_id"] for row in found] == sorted(by_id)
    reasons: Counter[str] = Counter()
    for row in found:
        question = shown(by_id[row["sample_id"]])
        if question in malformed:
            assert (row["verdict"], row["labels"], row["first_error"]) == ("invalid", [], None)
            reasons[row["rationale"][:12]] += 1
        else:
            assert row["labels"] == judge.labels[question]
            assert row["verdict"] == ("error" if row["labels"][-1] == "incorrect" else "no_error")
            assert row["rationale"] == "as the human says"
    rejects = world.rejects("step_labels", "judged")
    assert Counter(reason for _, _, reason, _ in rejects) == {"invalid": sum(reasons.values())}
    assert len(reasons) >= 8, "malformed in various ways"
