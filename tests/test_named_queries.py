"""Named queries: what each shipped one answers, and a project's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from schemas import Chat, Prompt, Reward, Sample, StepLabels
from schemas.ids import prompt_id
from stores import cli
from stores.ledger import Completion, Ledger
from stores.named import SHIPPED, named_queries, parse
from stores.run_log import RunLog
from stores.store import Store
from tests import small_store
from tests.versions import Project

NAMES = sorted(path.stem for path in SHIPPED.glob("*.sql"))
RUNNER = CliRunner()


@pytest.fixture
def store(workspace: Path) -> Path:
    small_store.build(workspace)
    return workspace


def ask(name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows that a query of the store in the working directory answers."""
    with Store.open() as store:
        result = store.query(name, **params)
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def reward(sample: Sample, verdict: str) -> Reward:
    value = None if verdict == "undecided" else float(verdict == "correct")
    given = {"sample_id": sample.sample_id, "verdict": verdict, "reward": value}
    return Reward.model_validate(given | {"checker": "number", "checker_version": "1"})


def draw(verdicts: list[list[str]], asked: list[Prompt] | None = None) -> list[Sample]:
    """Writes samples and rewards `irpo_0`: one list of verdicts per prompt; returns the samples."""
    drawn = [
        (small_store.sample(prompt, index, f"text {index}"), verdict)
        for prompt, of_prompt in zip(asked or small_store.prompts(), verdicts, strict=True)
        for index, verdict in enumerate(of_prompt)
    ]
    small_store.write(Path(), "samples", "irpo_0", [sample for sample, _ in drawn])
    small_store.write(Path(), "rewards", "irpo_0", [reward(*one) for one in drawn])
    return [sample for sample, _ in drawn]


def label(sample: Sample, labeler: str, repeat: int, first_error: int | None, verdict: str | None = None) -> StepLabels:
    found = verdict or ("no_error" if first_error is None else "error")
    steps = [{"start": 0, "end": 1}, {"start": 1, "end": 2}]
    labels = [] if found == "invalid" else ["correct"] * (2 if first_error is None else first_error)
    row = dict.fromkeys(StepLabels.model_fields) | {
        "sample_id": sample.sample_id, "labeler": labeler, "repeat": repeat, "kind": "judge", "steps": steps,
        "labels": labels, "first_error": first_error, "verdict": found, "labeler_version": "1", "rationale": labeler,
    }  # fmt: skip
    return StepLabels.model_validate(row)


def write_labels(*rows: StepLabels) -> None:
    small_store.write(Path(), "step_labels", "checked", rows)


def write_pairs(texts: list[tuple[str, str]]) -> None:
    """Pairs `irpo_0` of whole samples with these texts, chosen and rejected."""
    asked = small_store.prompts()[0]
    sides = [[small_store.sample(asked, 2 * i + side, pair[side]) for side in (0, 1)] for i, pair in enumerate(texts)]
    small_store.write(Path(), "samples", "irpo_0", [sample for pair in sides for sample in pair])
    small_store.write(Path(), "samples", "gold", [])
    pairs = [small_store.pair(asked, rank, chosen, rejected) for rank, (chosen, rejected) in enumerate(sides)]
    small_store.write(Path(), "pairs", "irpo_0", pairs)


def test_every_shipped_query_says_what_a_row_is_and_has_a_test() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*_queries.py"))
    for name, query in named_queries(Path("nowhere")).items():
        assert query.description.startswith("One row per "), name
        assert f'ask("{name}"' in here, f"{name} has no test"


def test_the_guard_does_not_change_an_answer(store: Path) -> None:
    with Store.open() as fast, Store.open(guard=True) as guarded:
        for name in NAMES:
            assert guarded.query(name).fetchall() == fast.query(name).fetchall(), name


def test_funnel(store: Path) -> None:
    rows = ask("funnel")
    order = [(row["stage"], row["run"]) for row in rows]
    assert order.index(("problems", "train")) < order.index(("prompts", "train")) < order.index(("samples", "irpo_0"))
    assert order.index(("rewards", "irpo_0")) < order.index(("pairs_outcome", "irpo_0"))
    (pairs,) = ask("funnel", stage="pairs_outcome")
    assert pairs == {"stage": "pairs_outcome", "run": "irpo_0", "table": "pairs", "kept": 4, "dropped": 1,
                     "reasons": "no_rejected 1"}  # fmt: skip
    assert {row["reasons"] for row in ask("funnel", stage="problems")} == {"duplicate 1, empty 1"}
    assert ask("funnel", run="star")[0]["dropped"] == 0


def test_accuracy(store: Path) -> None:
    draw([["correct", "correct", "correct", "wrong"], ["wrong", "no_answer", "undecided", "wrong"]])
    (row,) = ask("accuracy")
    counts = {"n_prompts": 2, "n_samples": 8, "n_correct": 3, "n_wrong": 3, "n_no_answer": 1, "n_undecided": 1}
    assert row.items() >= ({"run": "irpo_0", "model": "base", "temperature": 1.0, "accuracy": 0.375} | counts).items()
    error = (2 * ((3 - 0.375 * 4) ** 2 + (0 - 0.375 * 4) ** 2)) ** 0.5 / 8
    assert (row["ci_low"], row["ci_high"]) == (0, pytest.approx(min(0.375 + 1.96 * error, 1), abs=1e-6))
    assert ask("accuracy", run="another") == []


def test_accuracy_of_one_prompt_has_no_interval(store: Path) -> None:
    draw([["correct", "wrong"]], small_store.prompts()[:1])
    (row,) = ask("accuracy")
    assert (row["accuracy"], row["ci_low"], row["ci_high"]) == (0.5, None, None)


@pytest.mark.parametrize(
    ("verdicts", "band"),
    [
        (["wrong", "no_answer"], "0"),
        (["correct", "wrong", "wrong", "wrong"], "(0, 0.25]"),
        (["correct", "wrong"], "(0.25, 0.5]"),
        (["correct", "correct", "wrong", "undecided"], "(0.5, 0.75]"),
        (["correct", "correct", "correct", "wrong"], "(0.5, 0.75]"),
        (["correct"] * 4 + ["wrong"], "(0.75, 1)"),
        (["correct", "undecided"], "1"),
        (["undecided"], "undecided"),
    ],
)
def test_pass_rate_bands(store: Path, verdicts: list[str], band: str) -> None:
    draw([verdicts, ["wrong"]])
    rows = ask("pass_rate_bands", run="irpo_0")
    expected = {"0": 1} | {band: 2 if band == "0" else 1}
    assert {row["band"]: row["n"] for row in rows if row["n"]} == expected
    assert [row["band"] for row in rows][:6] == ["0", "(0, 0.25]", "(0.25, 0.5]", "(0.5, 0.75]", "(0.75, 1)", "1"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert {row["setting"] for row in rows} == {"abcdef01"}


def test_pass_rate_bands_by_problem_put_its_prompts_together(store: Path) -> None:
    first = small_store.prompts()[0]
    messages = [Chat(role="user", content="again")]
    again = prompt_id(first.problem_id, [messages[0].model_dump()], "", "text")
    prompts = sorted([first, first.model_copy(update={"prompt_id": again, "messages": messages})], key=str)
    draw([["correct"], ["wrong"]], prompts)
    assert {row["band"]: row["n"] for row in ask("pass_rate_bands") if row["n"]} == {"0": 1, "1": 1}
    assert {row["band"]: row["n"] for row in ask("pass_rate_bands", by="problem") if row["n"]} == {"(0.25, 0.5]": 1}
    with pytest.raises(ValueError, match="give 'prompt' or 'problem'"):
        ask("pass_rate_bands", by="subject")


def test_near_equal_pairs(store: Path) -> None:
    base = "Each cat has 4 legs, so 2 cats have 2 * 4 = 8 legs."
    write_pairs([(base, base.replace("8", "9")), (base, base + " " * 30), (base, "Dogs bark."), (base, base[::-1])])
    (row,) = ask("near_equal_pairs")
    assert (row["rank"], row["edits"], row["compared"]) == (0, 1, "whole")
    assert row["similarity"] == pytest.approx(1 - 1 / len(base), abs=1e-6)
    assert (row["chosen"], row["rejected"]) == (base, base.replace("8", "9"))
    assert [row["rank"] for row in ask("near_equal_pairs", threshold=0.5)] == [0, 1]
    assert ask("near_equal_pairs", threshold=0.99) == []


def test_near_equal_pairs_compare_the_ends_of_long_texts(store: Path) -> None:
    text = " ".join(f"word{i}" for i in range(2000))
    write_pairs([(text, text.replace("word7 ", "word8 ")), (text, text.replace("word1000 ", "word3000 "))])
    rows = ask("near_equal_pairs")
    assert [(row["rank"], row["edits"], row["compared"]) for row in rows] == [(1, 0, "ends"), (0, 1, "ends")]
    assert rows[1]["similarity"] == 1 - 1 / 2000


def test_near_equal_pairs_measure_bytes_of_any_script(store: Path) -> None:
    text = "农夫有十二头牛，卖掉三头，还剩九头。" * 3
    write_pairs([(text, text[:-2] + "🐈。"), (text, text[::-1])])
    (row,) = ask("near_equal_pairs")
    assert (row["rank"], row["edits"]) == (0, 4)
    assert row["similarity"] == pytest.approx(1 - 4 / len((text[:-2] + "🐈。").encode()), abs=1e-6)
    (row,) = ask("near_equal_pairs", max_chars=20)
    assert row["similarity"] == pytest.approx(1 - 4 / (20 * 3 + 1), abs=1e-6)


def test_length_bias(store: Path) -> None:
    write_pairs([("four", "a"), ("four", "to"), ("one", "longer"), ("same", "size")])
    (row,) = ask("length_bias")
    assert (row["n"], row["chosen_chars"], row["rejected_chars"]) == (4, 3.75, 3.25)
    assert (row["share_chosen_longer"], row["share_chosen_shorter"], row["median_chars_longer"]) == (0.5, 0.25, 1.0)
    assert row["z"] == pytest.approx(1 / 3**0.5, abs=1e-3)
    assert (row["n_with_tokens"], row["chosen_tokens"], row["share_chosen_longer_in_tokens"]) == (0, None, None)


def test_length_bias_counts_tokens_of_whole_samples_only(store: Path) -> None:
    asked = small_store.prompts()[0]
    chosen, rejected = (
        small_store.sample(asked, i, text).model_copy(update={"n_tokens": n})
        for i, (text, n) in enumerate([("four words are here", 5), ("two words", 3)])
    )
    small_store.write(Path(), "samples", "irpo_0", [chosen, rejected])
    whole, part = (small_store.pair(asked, rank, chosen, rejected, chosen_start=rank) for rank in (0, 1))
    small_store.write(Path(), "pairs", "irpo_0", [whole, part])
    (row,) = ask("length_bias")
    assert (row["n"], row["n_with_tokens"], row["chosen_tokens"], row["rejected_tokens"]) == (2, 1, 5.0, 3.0)
    assert row["share_chosen_longer_in_tokens"] == 1.0


def test_duplicated_prompts(store: Path) -> None:
    first, second = small_store.prompts()
    other = {"rendering": "chat", "prompt_id": first.prompt_id[:17] + "0" * 8}
    copies = [first.model_copy(update=other), second.model_copy(update={"messages": first.messages})]
    small_store.write(Path(), "prompts", "train", [first, *copies])
    (row,) = ask("duplicated_prompts")
    ids = sorted([first.prompt_id, other["prompt_id"], second.prompt_id])
    assert (row["n_prompts"], row["n_problems"], row["n_runs"], row["prompt_ids"]) == (3, 2, 1, ids)
    assert row["begins"] == first.messages[0].content
    assert len(ask("duplicated_prompts", across="problems")) == 1
    assert ask("duplicated_prompts", across="runs") == []
    small_store.write(Path(), "prompts", "train", [first, second.model_copy(update={"prefill": ""})])
    assert ask("duplicated_prompts") == []
    with pytest.raises(ValueError, match="across: give 'prompts', 'problems' or 'runs'"):
        ask("duplicated_prompts", across="models")


def test_checker_judge_disagreements(store: Path) -> None:
    right, wrong, silent, *_ = draw([["correct", "wrong", "no_answer"], ["correct", "wrong", "undecided"]])
    write_labels(
        label(right, "judge", 0, 1), label(right, "judge", 1, None), label(right, "person", 0, None),
        label(wrong, "judge", 0, None), label(wrong, "person", 0, 0), label(silent, "judge", 0, None),
    )  # fmt: skip
    rows = ask("checker_judge_disagreements")
    assert [(row["sample_id"], row["labeler"], row["checker_verdict"]) for row in rows] == [
        (wrong.sample_id, "judge", "wrong"), (right.sample_id, "judge", "correct"),
    ]  # fmt: skip
    assert (rows[1]["n_labels"], rows[1]["n_error"], rows[1]["first_errors"]) == (2, 1, [1])
    assert (rows[0]["rewards_run"], rows[0]["extracted"], rows[0]["answer"]) == ("irpo_0", "4", answer_of(wrong))
    assert ask("checker_judge_disagreements", kind="human") == []


def answer_of(sample: Sample) -> str:
    question = {problem.problem_id: problem.question for problem in small_store.problems()}
    return small_store.QUESTIONS[question[sample.problem_id]]


def test_cost(store: Path) -> None:
    samples = [s.model_copy(update={"n_tokens": 10, "n_prompt_tokens": 4}) for s in draw([["correct"] * 3, ["wrong"]])]
    small_store.write(Path(), "samples", "irpo_0", samples)
    with RunLog().measure("samples", "irpo_0") as cost:
        cost.tokens, cost.device_s, cost.price_usd, cost.price_table = 40, 2.0, 0.25, "table 1"
    with RunLog().measure("preference", "m1") as cost:
        cost.tokens = 7
    ledger = Ledger()
    ledger.begin("abcdef0123456789", "base", "f", {})
    answers = [(f"abcdef0123456789-x-{i}", Completion("t", "stop", 10, 4, price_usd=0.125)) for i in range(4)]
    ledger.append("abcdef0123456789", "base", answers, 1.0, 2.0)
    ledger.close()
    rows = {(row["stage"], row["run"]): row for row in ask("cost")}
    drawn = rows["samples", "irpo_0"]
    assert (drawn["n_samples"], drawn["sample_tokens"], drawn["prompt_tokens"]) == (4, 40, 16)
    assert (drawn["tokens"], drawn["device_s"], drawn["price_usd"], drawn["price_table"]) == (40, 2.0, 0.25, "table 1")
    assert (drawn["ledger_completions"], drawn["ledger_tokens"], drawn["ledger_price_usd"]) == (4, 40, 0.5)
    assert (rows["preference", "m1"]["tokens"], rows["preference", "m1"]["n_samples"]) == (7, None)
    assert rows["samples_gold", "gold"]["price_usd"] is None
    assert ("rewards", "irpo_0") not in rows
    assert [row["run"] for row in ask("cost", stage="samples")] == ["irpo_0"]


def test_uncertain_labels(store: Path) -> None:
    a, b, c, *_ = draw([["wrong"] * 3, ["wrong"] * 3])
    write_labels(
        label(a, "judge", 0, 0), label(a, "judge", 1, 0), label(a, "judge", 2, 1), label(a, "person", 0, 0),
        label(b, "judge", 0, 0), label(b, "judge", 1, None), label(b, "judge", 2, None, "invalid"),
        label(c, "judge", 0, 1), label(c, "person", 0, 1),
    )  # fmt: skip
    first, second = ask("uncertain_labels")
    assert (first["sample_id"], second["sample_id"]) == (b.sample_id, a.sample_id)
    assert (first["agreement"], first["entropy"]) == (pytest.approx(1 / 3, abs=1e-6), pytest.approx(1.584963))
    assert first["outcomes"] == "invalid 1, no error 1, step 0 1"
    assert (second["agreement"], second["outcomes"]) == (0.75, "step 0 3, step 1 1")
    assert (second["labelers"], second["runs"], second["n_labels"]) == (["judge", "person"], ["checked"], 4)
    assert len(ask("uncertain_labels", limit=1)) == 1


def test_a_label_that_two_runs_have_counts_once(store: Path) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    params = yaml.safe_load(text)
    params["step_labels"]["again"] = params["step_labels"]["checked"]
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (a, b, *_) = draw([["wrong"] * 3, ["wrong"] * 3])
    same = [label(a, "judge", 0, 0), label(a, "judge", 1, 1), label(b, "judge", 0, 0)]
    write_labels(*same)
    small_store.write(Path(), "step_labels", "again", [*same[:2], label(b, "judge", 0, 1)])
    rows = {row["sample_id"]: row for row in ask("uncertain_labels")}
    assert rows[a.sample_id]["outcomes"] == "step 0 1, step 1 1"
    assert rows[a.sample_id]["runs"] == ["again", "checked"]
    assert rows[b.sample_id]["n_labels"] == 2


def test_self_agreement(store: Path) -> None:
    a, b, c, *_ = draw([["wrong"] * 3, ["wrong"] * 3])
    write_labels(
        label(a, "judge", 0, 0), label(a, "judge", 1, 0), label(a, "judge", 2, 1),
        label(b, "judge", 0, None), label(b, "judge", 1, None), label(c, "judge", 0, 0), label(c, "person", 0, 0),
    )  # fmt: skip
    assert ask("self_agreement") == [
        {"run": "checked", "labeler": "judge", "kind": "judge", "n_samples": 2, "n_labels": 5, "verdict_agreement": 1.0,
         "step_agreement": pytest.approx((1 / 3 + 1) / 2, abs=1e-6), "share_unanimous": 0.5}
    ]  # fmt: skip


OWN = """-- One row per long sample: its id.
-- It is ours.
-- $chars = 45: least length
-- $run = null: only this run
select run, sample_id from samples where n_chars >= $chars and ($run is null or run = $run) -- not $this
order by all
"""


def own(name: str, text: str) -> Path:
    Path("queries").mkdir(exist_ok=True)
    path = Path("queries") / f"{name}.sql"
    path.write_text(text, encoding="utf-8")
    return path


def run(*arguments: str) -> str:
    done = RUNNER.invoke(cli.app, ["query", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_projects_own_query(store: Path) -> None:
    own("long_samples", OWN)
    assert len(json.loads(run("long_samples", "--format", "json"))) == 2
    assert (
        json.loads(run("long_samples", "--set", "chars=1", "--set", "run=gold", "--format", "json"))[0]["run"] == "gold"
    )
    assert "long_samples\n    One row per long sample: its id. It is ours.\n    --set chars=45  least length" in run()
    own("funnel", "-- One row: ours goes first.\nselect 1 as ours")
    assert ask("funnel") == [{"ours": 1}]


def test_a_projects_own_query_is_guarded(store: Path) -> None:
    own("harm", "-- One row.\ncopy (select 1) to 'written'")
    with pytest.raises(ValueError, match=r"queries/harm\.sql: Permission Error: only one SELECT is allowed"):
        run("harm")
    assert not Path("written").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select 1", "the first line says what one row is"),
        ("-- One row.\nselect $x", r"\$x has no default; add `-- \$x = null: what it means` to the header"),
        ("-- One row.\n-- $x = 1: a number\nselect 1", r"\$x is not used"),
        ("-- One row.\n-- $x: a number\nselect $x", "'.*' is no parameter; write"),
        ("-- One row.\n-- $x = many: a number\nselect $x", r"default of \$x is no number"),
        ("-- One row.\nselect\n  wrong from samples", "line 3, column 3: .*wrong"),
    ],
)
def test_a_wrong_file_is_named(store: Path, text: str, message: str) -> None:
    path = own("mine", text)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        ask("mine")


def test_a_file_in_another_encoding_is_named(store: Path) -> None:
    path = own("mine", OWN)
    path.write_bytes("-- One row: é.\nselect 1".encode("latin-1"))
    with pytest.raises(ValueError, match=f"{path}: is no UTF-8 \\(byte 12\\); save it"):
        ask("mine")
    path.write_bytes("-- One row: é.\nselect 1 as one".encode("utf-8-sig"))
    assert ask("mine") == [{"one": 1}]


def test_a_name_of_a_file_that_is_none(store: Path) -> None:
    with pytest.raises(ValueError, match=r"My-query\.sql: names of queries are lower-case"):
        parse(own("My-query", OWN))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["funel"], r"no query 'funel' \(did you mean 'funnel'\?\)"),
        (["../queries/mine"], "no query '../queries/mine'"),
        (["accuracy", "--set", "rum=x"], r"accuracy: no parameter 'rum' \(did you mean 'run'\?\)"),
        (["accuracy", "--set", "run"], "--set run: give NAME=VALUE"),
        (["near_equal_pairs", "--set", "threshold=high"], "--set threshold=high: give a number"),
        (["near_equal_pairs", "--set", "limit=1.5"], "--set limit=1.5: give a whole number"),
    ],
)
def test_a_mistake_is_one_line(store: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*arguments)


def test_texts_in_defaults_and_queries_are_no_parameters(tmp_path: Path) -> None:
    path = tmp_path / "quoted.sql"
    path.write_text(
        "-- One row.\n-- $a = 'it''s': a text\n-- $b = true: or not\nselect $a || '$c' || \"$d\" || $$e$$ "
        "|| $t$f $g$t$, $b /* $h */"
    )
    query = parse(path)
    assert query.values({}) == {"a": "it's", "b": True}
    assert query.parsed(["b=false", "a=x=y"]) == {"b": False, "a": "x=y"}
    with pytest.raises(ValueError, match="--set b=no: give true or false"):
        query.parsed(["b=no"])


def test_a_query_of_another_version(workspace: Path) -> None:
    small_store.build(workspace)
    project = Project(workspace)
    project.commit("first", tag="v1.0")
    draw([["correct"], ["wrong"]])
    own("long_samples", OWN)
    now, then = (json.loads(run("accuracy", *rev, "--format", "json")) for rev in ([], ["--rev", "v1.0"]))
    assert (now[0]["n_samples"], then[0]["n_samples"]) == (2, 6)
    assert len(json.loads(run("long_samples", "--rev", "v1.0", "--format", "json"))) == 2
    with Store.open(rev="v1.0") as store:
        assert {name: store.query(name).columns for name in NAMES}.keys() == set(NAMES)


def test_a_query_reads_no_runs_that_it_does_not_ask_for(workspace: Path) -> None:
    """Of a version whose pairs and predictions are elsewhere."""
    small_store.build(workspace)
    project = Project(workspace)
    project.commit("first", tag="v1.0")
    for table in ("pairs", "predictions"):
        project.forget(f"data/{table}/run=irpo_0")
    with Store.open(rev="v1.0") as store:
        assert len(store.query("pass_rate_bands").fetchall()) == 6
