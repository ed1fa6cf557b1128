"""`params.yaml`: every mistake is one line that names the place and the remedy; references make the graph of runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import TABLES
from schemas.params import STAGES, Params, RunInput, load_params, parse_params, run_inputs, table_runs
from schemas.sections_training import SftRun
from tests.small_store import PARAMS
from tests.stage_world import UNMOVED

REPOSITORY = Path(__file__).resolve().parent.parent
OPTIMIZER = {"lr": 0.1, "batch_size": 2, "steps": 3}
VALIDATION = {"prompts": "train", "problems": "train", "questions": "none", "labels": "none", "sampling": "explore"}
BY_LABELS = VALIDATION | {"problems": "none", "questions": "train", "labels": "irpo_0"}
IMPORTED = {
    "samples": "irpo_0",
    "problems": "train",
    "path": "old.jsonl",
    "columns": {"text": "text", "prediction": "answer", "question": "question"},
}
TRAINING = {"model": "base", "steps_from": "none", "optimizer": OPTIMIZER, "validation": VALIDATION}
SFT = TRAINING | {"demos": "gold", "watch": "none"}
DPO = TRAINING | {"pairs": "irpo_0", "reference": "irpo_0", "loss": "dpo"}
AGAIN = SFT | {"steps_from": "plain", "optimizer": {"lr": 0.1, "batch_size": 2}}
UNION = {"a": "irpo_0", "b": "none", "c": "none", "d": "none", "problems": "none"}
DELETE = object()


def params_text(changes: dict[str, Any] | None = None) -> str:
    """The small store's params with values set (or deleted) at dotted places."""
    params = yaml.safe_load(yaml.safe_dump({**PARAMS, "sft": {"m0": SFT}}))
    for place, value in (changes or {}).items():
        *path, last = place.split(".")
        block = params
        for key in path:
            block = block[key]
        if value is DELETE:
            del block[last]
        else:
            block[last] = value
    return yaml.safe_dump(params, sort_keys=False)


def mistakes(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(ValueError) as error:
        parse_params(params_text(changes))
    return str(error.value).splitlines()


RUN = "samples.irpo_0"

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key, near": ({f"{RUN}.promts": "x"}, f"{RUN}.promts: unknown key (did you mean 'prompts'?)"),
    "unknown key, far": (
        {"predictions.irpo_0.zzz": 1},
        "predictions.irpo_0.zzz: unknown key (have 'checker', 'problems', 'prompts', 'samples')",
    ),
    "unknown nested key": (
        {"sft.m0.optimizer.learning_rat": 1},
        "sft.m0.optimizer.learning_rat: unknown key (have 'batch_size', 'betas', 'epochs', 'grad_clip', 'lr',"
        " 'micro_tokens', 'schedule', 'steps', 'warmup', 'weight_decay')",
    ),
    "unknown section": ({"sample": {}}, "sample: unknown key (did you mean 'samples'?)"),
    "unknown key of report": (
        {"report.iteration": []},
        "report.iteration: unknown key (did you mean 'iterations'?)",
    ),
    "missing section": ({"sft": DELETE}, "sft: missing (add it; `sft: {}` for an unused section)"),
    "missing key": ({f"{RUN}.n": DELETE}, f"{RUN}.n: missing (add it)"),
    "missing slot": (
        {"pairs_outcome.irpo_0.gold": DELETE},
        "pairs_outcome.irpo_0.gold: missing (add it; `gold: none` where it is not used)",
    ),
    "missing required slot": ({f"{RUN}.prompts": DELETE}, f"{RUN}.prompts: missing (add it)"),
    "missing nested slot": (
        {"sft.m0.validation.problems": DELETE},
        "sft.m0.validation.problems: missing (add it; `problems: none` where it is not used)",
    ),
    "dangling run": (
        {f"{RUN}.prompts": "trian"},
        f"{RUN}.prompts: no entry 'trian' under 'prompts' (have 'train')",
    ),
    "dangling entry": (
        {f"{RUN}.sampling": "gredy"},
        f"{RUN}.sampling: no entry 'gredy' under 'sampling' (have 'explore')",
    ),
    "dangling nested entry": (
        {"sft.m0.validation.sampling": "x"},
        "sft.m0.validation.sampling: no entry 'x' under 'sampling' (have 'explore')",
    ),
    "a run of another table": (
        {f"{RUN}.prompts": "gold"},
        f"{RUN}.prompts: no entry 'gold' under 'prompts' (have 'train')",
    ),
    "none where a run is needed": (
        {f"{RUN}.prompts": "none"},
        f"{RUN}.prompts: no entry 'none' under 'prompts' (have 'train')",
    ),
    "nothing to refer to": (
        {"prompts": {}, "samples": {}, "predictions": {}, "rewards": {}, "demos_correct": {}, "pairs_outcome": {},
         "reference": {}, "sft": {}},
        "demos_gold.gold.prompts: no entry 'train' under 'prompts' (have none)",
    ),
    "orpo with a reference": (
        {"preference.dpo": DPO | {"loss": "orpo"}},
        "preference.dpo: reference: loss 'orpo' has no reference model; write `none`",
    ),
    "kto without mismatched completions": (
        {"preference.dpo": DPO | {"loss": "kto"}},
        "preference.dpo.reference: loss 'kto' needs log-probs of mismatched completions; set"
        " reference.irpo_0.mismatched to true",
    ),
    "another loss without a reference": (
        {"preference.dpo": DPO | {"loss": "ipo", "reference": "none"}},
        "preference.dpo: reference: loss 'ipo' compares with a reference; name a run of `reference`",
    ),
    "another precision than the reference's": (
        {"preference.dpo": DPO | {"precision": "bf16"}},
        "preference.dpo.precision: 'bf16', but reference.irpo_0.precision is 'fp32'; set both to the same",
    ),
    "validation without answers": (
        {"sft.m0.validation.problems": "none"},
        "sft.m0.validation: problems: name the problems run of prompts run 'train' either here, for its gold answers,"
        " or in `questions`, with `labels` in their place; and `none` for the other",
    ),
    "validation by gold and by labels": (
        {"sft.m0.validation": VALIDATION | {"questions": "train", "labels": "irpo_0"}},
        "sft.m0.validation: problems: name the problems run of prompts run 'train' either here, for its gold answers,"
        " or in `questions`, with `labels` in their place; and `none` for the other",
    ),
    "validation by labels of no questions": (
        {"sft.m0.validation": VALIDATION | {"problems": "none", "labels": "irpo_0"}},
        "sft.m0.validation: questions: they and `labels` go together; name both, or write `none` for both",
    ),
    "validation by labels and a checker": (
        {"sft.m0.validation": BY_LABELS | {"checker": "number"}},
        "sft.m0.validation: checker: the one that made the labels decides; remove it",
    ),
    "labels that no checker found": (
        {"predictions_import.old": IMPORTED, "sft.m0.validation": BY_LABELS | {"labels": "old"}},
        "sft.m0.validation.labels: the answers of 'old' were found elsewhere, by no checker of these; name a run of"
        " `predictions` over its samples",
    ),
    "steps of a run without validation": (
        {"sft.plain": SFT | {"validation": VALIDATION | {"prompts": "none"}}, "sft.again": AGAIN},
        "sft.again.steps_from: 'plain' selects no step: it has no validation.prompts; give it some",
    ),
    "steps of batches of another size": (
        {"sft.plain": SFT | {"optimizer": OPTIMIZER | {"batch_size": 4}}, "sft.again": AGAIN},
        "sft.again.steps_from: 'plain' has another optimizer.batch_size (4 against 2); set both to the same",
    ),
    "steps of another kind of training": (
        {"preference.plain": DPO, "sft.again": AGAIN},
        "sft.again.steps_from: 'plain' is no run of sft; name one (have 'again', 'm0')",
    ),
    "its own steps": (
        {"sft.again": AGAIN | {"steps_from": "again"}},
        "sft.again.steps_from: 'again' cannot take its steps from itself; name the run that held problems out",
    ),
    "ambiguous run": (
        {"demos_correct.gold": {"samples": "irpo_0", "rewards": "irpo_0"} | UNMOVED},
        "demos_correct.gold: table 'demos' already has a run 'gold' from 'demos_gold'; rename one",
    ),
    "ambiguous model": (
        {"sft.base": SFT},
        "sft.base: table 'models' already has a run 'base' from 'models'; rename one",
    ),
    "reserved name": (
        {"demos_correct.none": {"samples": "irpo_0", "rewards": "irpo_0"} | UNMOVED},
        "demos_correct.none: 'none' is reserved for the empty run; choose another name",
    ),
    "bad name": (
        {"demos_correct.Star-1": {"samples": "irpo_0", "rewards": "irpo_0"} | UNMOVED},
        "demos_correct.Star-1: names are lower-case letters, digits and '_', starting with a letter",
    ),
    "wrong type": (
        {f"{RUN}.n": "many"},
        f"{RUN}.n: Input should be a valid integer, unable to parse string as an integer (have 'many')",
    ),
    "out of range": ({f"{RUN}.n": 0}, f"{RUN}.n: Input should be greater than or equal to 1 (have 0)"),
    "not a choice": (
        {f"{RUN}.engine": "hff"},
        f"{RUN}.engine: Input should be 'hf', 'vllm', 'openai', 'ray' or 'scripted' (have 'hff')",
    ),
    "model without revision": (
        {"models.base": {"hub": "a/b", "path": "data/none", "vocabulary": "none"}},
        "models.base: a Hub model needs a pinned `revision` (the commit hash on its Hub page)",
    ),
    "model of two sources": (
        {"models.base.hub": "a/b"},
        "models.base: give exactly one of hub, path, config, script, hosted (have hub, script)",
    ),
    "model of no source": (
        {"models.base.script": DELETE},
        "models.base: give exactly one of hub, path, config, script, hosted (have none)",
    ),
    "model without words": (
        {"models.base": {"path": "data/none", "config": {"model_type": "llama"}, "vocabulary": "none"}},
        "models.base: `config` and `vocabulary` go together: an initialised model needs words, others do not",
    ),
    "both steps and epochs": (
        {"sft.m0.optimizer.epochs": 1},
        "sft.m0: optimizer: give exactly one of `epochs`, `steps` (or name a run in `steps_from`)",
    ),
    "neither steps nor epochs": (
        {"sft.m0.optimizer.steps": DELETE},
        "sft.m0: optimizer: give exactly one of `epochs`, `steps` (or name a run in `steps_from`)",
    ),
    "steps_from and steps": (
        {"sft.m0.steps_from": "m0"},
        "sft.m0: `steps_from` says how long to train; remove optimizer.steps",
    ),
    "import without a text": (
        {"samples_import.mine": {"problems": "train", "prompts": "none", "path": "f", "columns": {"question": "q"},
                                 "model": "none"}},
        "samples_import.mine: columns: `text` and one of `question`, `problem_id` must be mapped",
    ),
    "runs made from each other": (
        {"pairs_union": {"x": UNION | {"a": "y"}, "y": UNION | {"a": "x"}}},
        "pairs_union.x: made from itself (pairs_union.x reads pairs_union.y reads pairs_union.x); name another run in"
        " one of them",
    ),
    "a model trained from itself": (
        {"sft.m0.model": "m0"},
        "sft.m0: made from itself (sft.m0 reads sft.m0); name another run in one of them",
    ),
    "a run of pairs named twice": (
        {"pairs_union": {"x": UNION | {"c": "irpo_0"}}},
        "pairs_union.x: 'irpo_0' is named twice, and its pairs would only be repeated; name each run once",
    ),
    "report of a model that is not evaluated": (
        {"report.iterations": ["m0"]},
        "report.iterations: no entry 'm0' under 'evaluate' (have none)",
    ),
    "comparison of a model that is not evaluated": (
        {"report.comparisons": [{"baseline": "m0", "candidate": "m0"}]},
        "report.comparisons: no entry 'm0' under 'evaluate' (have none)",
    ),
    "plot of a run that is not trained": (
        {"report.training": ["m1"]},
        "report.training: no entry 'm1' under 'training' (have 'm0')",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_the_place_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    assert f"params.yaml: {message}" in mistakes(changes)


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes({f"{RUN}.prompts": "x", f"{RUN}.sampling": "y", "demos_correct.star.rewards": "z"})
    assert [line.split(": ")[1] for line in found] == [
        f"{RUN}.prompts",
        f"{RUN}.sampling",
        "demos_correct.star.rewards",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "params.yaml: not valid YAML: "),
        ("", "params.yaml: "),
        ("- a\n- b", "params.yaml: "),
        ("!!python/object/apply:os.getcwd []", "params.yaml: not valid YAML: "),
    ],
    ids=["broken", "empty", "a list", "a Python object"],
)
def test_text_that_is_no_params_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_params(text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml: empty; it declares every section, `{}` for an unused one"),
        ("# only this\n", "params.yaml: empty; it declares every section, `{}` for an unused one"),
        ("- a", "params.yaml: sections are expected, as in `seed: 0`"),
    ],
)
def test_a_file_without_sections_says_so(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_params(text)
    assert str(error.value) == message


def test_an_empty_section_or_run_says_what_to_write() -> None:
    text = params_text({"samples_import": None})
    with pytest.raises(ValueError, match=r"^params.yaml: samples_import: empty; write `samples_import: {}`") as error:
        parse_params(text)
    assert "\n" not in str(error.value)
    assert mistakes({"report": None}) == ["params.yaml: report: empty; write `report: {}` for an unused section"]
    assert mistakes({RUN: None}) == [f"params.yaml: {RUN}: empty; give its settings below it, or remove it"]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("seed: 0 # m\xfcde".encode("latin-1"))
    with pytest.raises(ValueError, match=r"params\.yaml: not UTF-8 text \(byte 11\); save it as UTF-8") as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"params.yaml: no such file; run in the project's directory$"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("path", ["params.yaml", *sorted(p.name for p in (REPOSITORY / "recipes").glob("*.yaml"))])
def test_every_shipped_params_file_is_valid(path: str) -> None:
    full = REPOSITORY / (path if path == "params.yaml" else f"recipes/{path}")
    params = load_params(full)
    assert set(Params.model_fields) == set(yaml.safe_load(full.read_text()))
    assert params.report is not None


def test_defaults_are_filled_in() -> None:
    m0 = parse_params(params_text()).sft["m0"]
    assert isinstance(m0, SftRun)
    assert (m0.optimizer.betas, m0.reduction, m0.validation.every) == ((0.9, 0.999), "sequence", 100)


def test_table_runs_are_those_of_all_sections_that_write_it() -> None:
    params = parse_params(params_text())
    assert table_runs(params, "samples") == {"irpo_0": "samples", "irpo_1": "samples", "gold": "samples_gold"}
    assert table_runs(params, "models") == {"base": "models", "m0": "sft"}
    assert table_runs(params, "training") == {"m0": "sft"}
    assert table_runs(params, "nothing") == {}


def test_run_inputs_leave_none_out_and_name_nested_slots() -> None:
    edges = run_inputs(parse_params(params_text()))
    assert [e for e in edges if (e.table, e.run) == ("models", "m0")] == [
        RunInput("models", "m0", "model", "models", "base"),
        RunInput("models", "m0", "validation.prompts", "prompts", "train"),
        RunInput("models", "m0", "validation.problems", "problems", "train"),
        RunInput("models", "m0", "demos", "demos", "gold"),
    ]
    assert {e.table for e in edges if e.run == "m0"} == {"models", "training"}
    assert [e[2:] for e in edges if e.table == "samples" and e.run == "gold"] == [("problems", "problems", "train")]
    assert not [e for e in edges if e.input_run == "none" or e.input_table == "sampling"]


def test_every_edge_leads_to_a_run() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    for edge in run_inputs(params):
        assert edge.input_run in table_runs(params, edge.input_table), edge
        assert edge.run in table_runs(params, edge.table), edge


def test_every_stage_writes_known_tables() -> None:
    assert set(STAGES) == set(Params.model_fields) - {"seed", "sampling", "report"}
    assert {table for run in STAGES.values() for table in run.writes} <= {*TABLES, "models"}


def test_an_older_version_may_lack_sections_and_references() -> None:
    """Before there were some, nothing used them: empty, and `none`."""
    lacking = ("pairs_import", "export", "sft.m0.steps_from", "sft.m0.validation.prompts")
    older = parse_params(params_text(dict.fromkeys(lacking, DELETE)), older=True)
    assert (older.pairs_import, older.export) == ({}, {})
    assert (older.sft["m0"].steps_from, older.sft["m0"].validation.prompts) == ("none", "none")
    assert older.sft["m0"].validation.problems == "train"
    assert parse_params(params_text(), older=True) == parse_params(params_text())
    for wrong, message in (("sft.m0.demos", "sft.m0.demos: missing"), ("sft.m0.optimizer.lr", "lr: missing")):
        with pytest.raises(ValueError, match=message):
            parse_params(params_text({wrong: DELETE}), older=True)
    for place in ("sft", "sft.m0"):
        with pytest.raises(ValueError, match=f"{place}: "):
            parse_params(params_text({place: 1}), older=True)
