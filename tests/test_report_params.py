"""What the report is asked to show is checked with the other references: place and remedy of every mistake."""

import re
from typing import Any

import pytest
import yaml

from schemas.params import parse_params
from schemas.sections_report import Report
from tests.conftest import REPOSITORY
from tests.report_world import PARAMS

SIDES = {"weak": "none", "weak_predictions": "none"}
BLOCK = {"floor": "m0", "ceiling": "m1", "models": ["dpo"], "consistency": ["own"], "votes": ["own"], "pairs": ["own"]}
AT = "params.yaml: report.weak_to_strong"
LABELS = {
    "samples": "own", "prompts": "test", "problems": "test", "rewards": "voted", "labeler": "human", "model": "none",
    "path": "labels.jsonl", "select": "correct", "limit": 3,
}  # fmt: skip


def params_text(blocks: list[dict[str, Any]], **more: dict[str, Any]) -> str:
    raw = yaml.safe_load(PARAMS)
    raw["consistency"] = {"own": {"a": "own", "b": "own"}}
    raw["votes"] = {"own": {"samples": "own", "predictions": "own"}}
    raw["rewards_votes"] = {"voted": {"predictions": "own", "votes": "own"}}
    raw["pairs_contrast"] = {"contrast": {"samples": "own", "predictions": "own", "votes": "own"} | SIDES}
    raw["pairs_union"] = {"both": {"a": "own", "b": "contrast", "c": "none", "d": "none", "problems": "none"}}
    raw["report"]["weak_to_strong"] = blocks
    for section, runs in more.items():
        raw[section] |= runs
    return yaml.safe_dump(raw)


def mistakes(*blocks: dict[str, Any], **more: dict[str, Any]) -> list[str]:
    with pytest.raises(ValueError) as error:
        parse_params(params_text(list(blocks), **more))
    return str(error.value).splitlines()


def test_the_printed_block_is_one() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (printed,) = [b for b in re.findall(r"```yaml\n(.*?)```", readme, flags=re.DOTALL) if "weak_to_strong:" in b]
    (block,) = Report.model_validate(yaml.safe_load(printed)["report"]).weak_to_strong
    assert (block.floor, block.ceiling) == ("w2s_weak", "w2s_ceiling")


def test_a_block_with_everything_there_is_accepted() -> None:
    other = {"floor": "m1", "ceiling": "m0", "pairs": ["contrast"]}
    (first, second) = parse_params(params_text([BLOCK, other])).report.weak_to_strong
    assert (first.models, second.models, second.pairs) == (["dpo"], [], ["contrast"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": "m9"}, "0.floor: no entry 'm9' under 'evaluate' (have 'dpo', 'm0', 'm1', 'm2')"),
        ({"ceiling": "m9"}, "0.ceiling: no entry 'm9' under 'evaluate' (have 'dpo', 'm0', 'm1', 'm2')"),
        ({"models": ["dpo", "m9"]}, "0.models: no entry 'm9' under 'evaluate' (have 'dpo', 'm0', 'm1', 'm2')"),
        ({"consistency": ["x"]}, "0.consistency: no entry 'x' under 'agreements' (have 'own')"),
        ({"votes": ["x"]}, "0.votes: no entry 'x' under 'votes' (have 'own')"),
        ({"pairs": ["x"]}, "0.pairs: no entry 'x' under 'pairs' (have 'both', 'contrast', 'own')"),
        ({"pairs": ["both"]}, "0.pairs: 'both' is of pairs_union; name runs of pairs_contrast or pairs_outcome"),
        ({"ceiling": "m0"}, "0: ceiling: 'm0' is the floor, too; name a model that was trained with gold"),
        ({"flor": "m0"}, "0.flor: unknown key (did you mean 'floor'?)"),
    ],
)
def test_a_mistake_in_a_block_names_the_place_and_the_remedy(change: dict[str, Any], message: str) -> None:
    assert mistakes(BLOCK | change) == [f"{AT}.{message}"]


def test_a_floor_and_a_ceiling_have_one_block() -> None:
    assert mistakes(BLOCK, BLOCK) == [f"{AT}.1: 'm0' and 'm1' have a block already; put these models into it"]


def test_what_a_vote_calls_right_is_no_audit_of_right_answers() -> None:
    audited = {"step_labels": {"audit": LABELS}, "report": {"audits": ["audit"]}}
    assert mistakes(**audited) == [
        "params.yaml: report.audits: 'audit' labels what a vote calls right (rewards_votes.voted); name a run of"
        " rewards in step_labels.audit.rewards"
    ]
    gold = {"step_labels": {"audit": LABELS | {"rewards": "own"}}, "report": {"audits": ["audit"]}}
    assert parse_params(params_text([], **gold)).report.audits == ["audit"]
