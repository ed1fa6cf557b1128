"""The forecast counts what is really missing, and says what it does not know."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import samples
from builders.commands import forecast as command
from builders.forecast import Forecast, forecast
from builders.model_files import write_record
from builders.models import write_script
from schemas.params import load_params
from stores.estimates import BOUND
from stores.ledger import Ledger
from stores.ledger_admin import Selection, redact
from stores.paths import run_dir
from stores.printing import Format
from stores.stage import execute
from tests import stage_world as world

CATS, SUM = world.problem("Legs of 2 cats?"), world.problem("What is 3 + 4?")
DRAWN = world.SAMPLES
EVALUATE = {
    "model": "base", "prompts": "train", "problems": "train", "engine": "scripted", "greedy": "greedy",
    "explore": "explore", "k": 4,
}  # fmt: skip
SAMPLING = {
    "explore": {"temperature": 1.0, "max_new_tokens": 32},
    "greedy": {"temperature": 0.0, "max_new_tokens": 32},
}


@pytest.fixture
def built(workspace: Path) -> Path:
    world.write("problems", "train", [CATS, SUM])
    world.write("prompts", "train", [world.prompt(CATS), world.prompt(SUM)])
    write_model("base")
    return workspace


def write_model(name: str) -> None:
    model = run_dir("models", name)
    model.mkdir(parents=True)
    write_script(model, ["8"])
    write_record(model, {"source": "script"})


def rows(*runs: str, **sections: Any) -> list[Forecast]:
    given: dict[str, Any] = {"sampling": SAMPLING, "samples": {"drawn": DRAWN}} | sections
    world.write_params(**given)
    return forecast(Ledger(), load_params(), Path(), runs)


def counts(found: list[Forecast]) -> list[tuple]:
    return [(row.run, row.sampling, row.wanted, row.in_ledger, row.to_generate) for row in found]


def test_it_counts_what_the_ledger_lacks(built):
    (row,) = rows()
    assert (row.wanted, row.in_ledger, row.to_generate) == (6, 0, 6)
    assert (row.tokens, row.basis, row.device_s, row.price_usd) == (6 * 32, BOUND, None, None)
    execute("samples", "drawn", samples.run)
    (row,) = rows()
    assert (row.wanted, row.in_ledger, row.to_generate, row.tokens, row.basis) == (6, 6, 0, 0, "")
    (row,) = rows(samples={"drawn": DRAWN | {"n": 5}})
    assert (row.in_ledger, row.to_generate, row.tokens, row.basis) == (6, 4, 8, "this setting"), "2 tokens each"
    assert row.device_s is not None


def test_runs_of_one_setting_are_paid_for_once(built):
    found = rows(samples={"drawn": DRAWN, "more": DRAWN | {"n": 5}}, evaluate={"base": EVALUATE})
    assert counts(found) == [
        ("samples.drawn", "explore", 6, 0, 6),
        ("samples.more", "explore", 10, 6, 4),
        ("evaluate.base", "greedy", 2, 0, 2),
        ("evaluate.base", "explore", 8, 8, 0),
    ]


def test_prompts_that_ask_the_same_are_asked_once(built):
    same = world.prompt(world.problem("Legs of"), words=" 2 cats?")
    world.write("prompts", "train", [world.prompt(CATS), world.prompt(SUM), same])
    assert counts(rows()) == [("samples.drawn", "explore", 9, 3, 6)]


def test_runs_are_chosen_by_name(built):
    sections: dict[str, Any] = {"samples": {"drawn": DRAWN, "more": DRAWN}, "evaluate": {"base": EVALUATE}}
    assert [row.run for row in rows("more", **sections)] == ["samples.more"]
    assert {row.run for row in rows("evaluate.base", "drawn", **sections)} == {"samples.drawn", "evaluate.base"}
    with pytest.raises(ValueError, match=r"no run 'nope' that generates \(have evaluate\.base, samples\.drawn"):
        rows("drawn", "nope", **sections)


def test_before_anything_is_built_it_says_so(workspace):
    def seen(limit: int | None) -> tuple:
        published = {"source": "gsm8k", "path": "data/none", "revision": "a", "split": "train"}
        problems = world.PROBLEMS if limit else published
        (row,) = rows(problems={"train": problems})
        return row.wanted, row.in_ledger, row.to_generate, row.tokens, row.note

    assert seen(2) == (6, None, 6, 6 * 32, "problems not built: their limit; model not built")
    assert seen(None) == (None, None, None, None, "problems not built: their number is not known; model not built")
    world.write("problems", "train", [CATS, SUM, world.problem("3?")])
    assert seen(2) == (9, None, 9, 9 * 32, "prompts not built: one per problem; model not built")


def test_another_run_of_the_same_template_is_the_history_of_a_model_without_one(built):
    execute_drawn()
    script = {"path": "data/none", "vocabulary": "none", "script": ["8"]}
    models = {"base": script, "next": script}
    (row,) = rows("next", models=models, samples={"drawn": DRAWN, "next": DRAWN | {"model": "next"}})
    assert (row.to_generate, row.tokens) == (6, 12)
    assert row.basis == "samples.drawn, of the same template,"


def execute_drawn() -> None:
    rows()
    execute("samples", "drawn", samples.run)


def test_a_hosted_model_has_a_price_before_it_has_a_history(built, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("PAIRWRIGHT_BASE_URLS", raising=False)
    hosted = {"path": "data/none", "vocabulary": "none", "hosted": "gpt-4o-mini"}
    (row,) = rows(models={"base": hosted}, samples={"drawn": DRAWN | {"engine": "openai"}})
    assert row.basis == BOUND
    assert row.price_usd == pytest.approx(6 * (32 * 0.6 + row_prompt_tokens() * 0.15) / 1e6)


def row_prompt_tokens() -> int:
    return round(sum(len(asked.question) for asked in (CATS, SUM)) / 2 / 4)


def test_prices_paid_before_are_the_estimate(built):
    execute_drawn()
    ledger = Ledger()
    ledger.db.execute("update completions set price_usd = 0.5")
    (row,) = rows(samples={"drawn": DRAWN | {"n": 4}})
    assert row.price_usd == 1.0


def test_a_stage_says_that_its_completions_were_redacted_and_generates_none(built):
    execute_drawn()
    assert redact(Ledger(), Selection(models=["base"])) == 6
    (row,) = rows()
    assert row.to_generate == 0
    with pytest.raises(ValueError, match="6 of the completions asked for were redacted"):
        execute("samples", "drawn", samples.run)
    assert Ledger().sql("select sum(n) from batches")[1] == [(6,)]


def test_the_command_sums_up(built, capsys):
    rows(samples={"drawn": DRAWN, "more": DRAWN | {"model": "base", "n": 5}})
    command([])
    out = capsys.readouterr().out
    assert "samples.drawn" in out
    assert out.splitlines()[-1].startswith("together 10 completions to generate, 320 tokens, 0.0 MB")
    assert out.splitlines()[-1].endswith("free), time not known of 2 rows")
    command(["drawn"], Format.json)
    assert json.loads(capsys.readouterr().out)[0]["to_generate"] == 6


def test_nothing_is_written(built):
    rows()
    before = sorted(path for path in Path().rglob("*"))
    command([], Format.json)
    assert sorted(path for path in Path().rglob("*")) == before
    assert Ledger().sql("select context from contexts union all select context from batches")[1] == []
