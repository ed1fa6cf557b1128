"""The stage `ppo`: its rows, its options, when it stops and what it refuses."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train.ppo
from builders.model_files import load_model
from schemas import Reject
from schemas.ids import digest
from stores.ledger import Completion, Ledger
from stores.parquet import read_table
from stores.stage import Stage, execute
from stores.store import Store
from tests import ppo_world
from tests import training_world as world
from tests.conftest import REPOSITORY
from train.packing import Tokens
from train.rewarding import Judged, Rewarder, has_wrong_step, steps_mode
from train.rollouts import Drawn
from train.session import Session
from train.tasks import Task, probes

BANDIT = {"checker": ppo_world.DIGITS, "sampling.explore.max_new_tokens": 2, "partial": "none"}
OFTEN = BANDIT | {"checker": "tests.ppo_world:Letters@1"}


def run(root: Path, changes: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Builds the store and the run; its training rows."""
    ppo_world.build(root, changes)
    execute("ppo", "reft", train.ppo.run, root)
    return world.rows(root, "training", "reft")


def drawn(root: Path) -> list[tuple[Tokens, dict[str, Any], dict[str, Any]]]:
    """(tokens, sample, rollout) of every rollout, in the order of ids: tokens come from the ledger."""
    ledger, tokenizer = Ledger(), world.load_tokenizer(root / "data/models/tiny")
    prompts = {row["prompt_id"]: row for row in world.rows(root, "prompts", "train")}
    found = []
    for sample, rollout in zip(world.rows(root, "samples", "reft"), world.rows(root, "rollouts", "reft"), strict=True):
        key = f"{sample['model_fingerprint']}-{digest(sample['prompt_id'])}-{sample['index']:04d}"
        completion = ledger.get([key])[key]
        assert completion.text == sample["text"]
        asked = world.render(tokenizer, prompts[sample["prompt_id"]]["messages"], "", "text").ids
        found.append((Tokens(np.array(asked), np.array(completion.token_ids)), sample, rollout))
    return found


def test_every_rollout_is_a_row_of_four_tables(workspace):
    steps = run(workspace)
    tables = {name: world.rows(workspace, name, "reft") for name in ("samples", "predictions", "rewards", "rollouts")}
    ids = [[row["sample_id"] for row in rows] for rows in tables.values()]
    assert ids == [sorted(set(ids[0]))] * 4
    assert len(ids[0]) == 6 * 4
    visits: dict[str, list[int]] = {}
    for sample in tables["samples"]:
        visits.setdefault(sample["prompt_id"], []).append(sample["index"])
    assert sorted(map(len, visits.values())) == [2] * 6 + [3] * 4, "24 rollouts on 10 prompts, one of each per epoch"
    assert all(found == list(range(len(found))) for found in visits.values())
    assert [row["score"] for row in tables["rollouts"]] == [row["reward"] for row in tables["rewards"]]
    assert [row["step"] for row in steps] == list(range(6))
    for step in steps:
        mine = [row for row in tables["rollouts"] if row["step"] == step["step"]]
        kl = [row["logprob"] - row["reference_logprob"] for row in mine]
        assert step["n_sequences"] == len(mine) == 4
        assert step["n_tokens"] == sum(row["n_tokens"] for row in mine)
        assert step["reward"] == pytest.approx(sum(row["score"] for row in mine) / 4)
        assert step["kl"] == pytest.approx(sum(kl) / 4, abs=1e-6)


def test_the_store_finds_nothing_wrong_and_the_query_of_the_readme_sees_every_step(workspace):
    steps = run(workspace)
    (query,) = re.findall(r"```sql\n(select rollouts\.step.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    with Store.open(workspace) as store:
        assert [mistake for mistake in store.check() if "reft" in str(mistake)] == []
        found = store.sql(query).fetchall()
    numbers, rewards, truncated = zip(*found, strict=True)
    assert list(numbers) == list(range(6))
    assert list(rewards) == pytest.approx([step["reward"] for step in steps])
    assert [share * 4 for share in truncated] == [step["n_truncated"] for step in steps]


def test_what_is_written_of_the_first_step_is_that_of_the_model_it_started_from(workspace):
    run(workspace, {"checker": ppo_world.DIGITS, "sampling.explore.max_new_tokens": 4, "lam": 0.5})
    model = load_model(workspace / "data/models/tiny").double()
    cut = ended = 0
    for tokens, sample, rollout in drawn(workspace):
        with torch.no_grad():
            logits = model(torch.from_numpy(np.concatenate(tokens))[None]).logits[0].log_softmax(-1)
        places = len(tokens.prompt) + np.arange(len(tokens.completion)) - 1
        logprob = float(logits[places, tokens.completion.astype(int)].sum())
        assert rollout["reference_logprob"] == pytest.approx(logprob, abs=1e-4)
        assert rollout["n_tokens"] == sample["n_tokens"] == len(tokens.completion)
        if rollout["step"] == 0:
            assert rollout["logprob"] == pytest.approx(logprob, abs=1e-4)
            assert rollout["value"] == 0.0, "the head starts at zero"
            expected = rollout["score"] * 0.5 ** (rollout["n_tokens"] - 1)  # nothing but the score, on the last token
            assert rollout["reward_to_go"] == pytest.approx(expected, abs=1e-6)
            cut, ended = cut + (sample["finish_reason"] == "length"), ended + (sample["finish_reason"] == "stop")
    assert cut, "truncated rollouts have their score on their last token, too"


def test_a_bandit_is_solved(workspace):
    """A first token out of 170 that is one of ten digits."""
    optimizer = {"lr": 1e-2, "batch_size": 32, "steps": 18}
    steps = run(workspace, BANDIT | {"optimizer": optimizer})
    first, last = ([step["reward"] for step in steps[part]] for part in (slice(0, 3), slice(-3, None)))
    assert np.mean(first) < 0.2
    assert np.mean(last) > 0.7
    assert steps[-1]["entropy"] < steps[0]["entropy"]
    assert steps[-1]["kl"] > 1


def test_micro_batches_change_no_result(workspace):
    optimizer = {"lr": 1e-3, "batch_size": 6, "steps": 3}
    found = []
    for micro_tokens in (16384, 40, 1):
        steps = run(workspace, BANDIT | {"optimizer": optimizer | {"micro_tokens": micro_tokens}, "mini_batch": 4})
        found.append((world.weights(workspace, "reft"), steps))
    for weights, steps in found[1:]:
        world.assert_same_weights(found[0][0], weights, atol=2e-5)
        assert [step["reward"] for step in steps] == [step["reward"] for step in found[0][1]]


def test_each_pass_is_over_all_rollouts_in_mini_batches(workspace, monkeypatch):
    counts: list[tuple[int, int]] = []
    update = Session.update

    def counting(session: Session, step: int, losses: torch.Tensor, *rest: Any) -> dict[str, Any]:
        counts.append((step, len(losses)))
        return update(session, step, losses, *rest)

    monkeypatch.setattr(Session, "update", counting)
    optimizer = {"lr": 1e-3, "batch_size": 5, "steps": 2}
    run(workspace, {"optimizer": optimizer, "mini_batch": 2, "ppo_epochs": 3})
    assert counts == [(step, size) for step in range(2) for _ in range(3) for size in (2, 2, 1)]


def test_the_validation_chooses_a_checkpoint_and_is_never_on_test_problems(workspace):
    steps = run(workspace, {"validation": world.BY_GENERATION})
    assert [step["step"] for step in steps if step["validation_accuracy"] is not None] == [2, 4, 6]
    ppo_world.build(workspace, {"validation": world.BY_GENERATION | {"prompts": "test", "problems": "test"}})
    with pytest.raises(ValueError, match=r"ppo\.reft\.validation\.problems: 'test' holds test problems"):
        execute("ppo", "reft", train.ppo.run, workspace)


def test_what_no_checker_decides_trains_nothing_and_is_counted(workspace):
    steps = run(workspace, BANDIT | {"checker": "tests.ppo_world:Silent@1"})
    world.assert_same_weights(world.weights(workspace, "reft"), world.weights(workspace, "tiny"), atol=0)
    for step in steps:
        assert (step["n_undecided"], step["n_sequences"], step["reward"], step["loss"]) == (4, 4, None, None)
    rewards, rollouts = (world.rows(workspace, table, "reft") for table in ("rewards", "rollouts"))
    assert {(row["verdict"], row["reward"]) for row in rewards} == {("undecided", None)}
    assert {(row["score"], row["reward_to_go"]) for row in rollouts} == {(None, None)}


def test_truncated_rollouts_are_scored_and_counted_or_left_out(workspace):
    settings = BANDIT | {"sampling.explore.max_new_tokens": 1, "optimizer": {"lr": 1e-2, "batch_size": 8, "steps": 2}}
    steps = run(workspace, settings)
    assert all(step["n_truncated"] >= 7 and step["loss"] is not None for step in steps), "one token: hardly ever an end"
    run(workspace, settings | {"mask_truncated": True})
    assert {row["finish_reason"] for row in world.rows(workspace, "samples", "reft")} == {"length"}
    scores = [row["score"] for row in world.rows(workspace, "rollouts", "reft")]
    assert None not in scores, "they have their scores all the same"
    world.assert_same_weights(world.weights(workspace, "reft"), world.weights(workspace, "tiny"), atol=0)


def test_adapters_are_trained_and_off_in_the_reference(workspace):
    steps = run(workspace, OFTEN | {"lora": {"rank": 4}, "optimizer": {"lr": 1e-2, "batch_size": 8, "steps": 4}})
    assert (workspace / "data/models/reft/lora").is_dir()
    assert abs(steps[0]["kl"]) < 1e-9
    assert steps[-1]["kl_k3"] > 1e-6
    policy = load_model(workspace / "data/models/tiny").double()
    for tokens, _, rollout in drawn(workspace):
        with torch.no_grad():
            logits = policy(torch.from_numpy(np.concatenate(tokens))[None]).logits[0].log_softmax(-1)
        places = len(tokens.prompt) + np.arange(len(tokens.completion)) - 1
        assert rollout["reference_logprob"] == pytest.approx(float(logits[places, tokens.completion].sum()), abs=1e-4)


def test_beta_follows_the_kl(workspace):
    steps = run(workspace, BANDIT | {"adaptive_kl": {"target": 1.0, "horizon": 8}, "beta": 0.3})
    for before, after in pairwise(steps):
        error = min(max(before["kl"] - 1, -0.2), 0.2)
        assert after["beta"] == pytest.approx(before["beta"] * (1 + error * 4 / 8))


def test_the_loss_of_self_training_is_half_of_each(workspace):
    """At the first step, of the model that training starts from."""
    settings = OFTEN | {"algorithm": "online_st", "demos": "good"}
    steps = run(workspace, settings | {"optimizer.batch_size": 20})
    known = {prompt.prompt_id: i for i, prompt in enumerate(map(world.ask, range(10)))}
    own, gold = [], []
    for tokens, sample, rollout in drawn(workspace):
        if rollout["step"] > 0:
            continue
        i = known[sample["prompt_id"]]
        demo = completion_ids(workspace, i)
        gold.append(-world.independent_logprob(workspace, i, 0) / demo)
        if rollout["score"] == 1.0:
            own.append(-rollout["reference_logprob"] / len(tokens.completion))
        assert rollout["value"] is rollout["reward_to_go"] is None
    assert 0 < len(own) < 20, "some are right"
    expected = np.mean(own) / 2 + np.mean(gold) / 2
    run(workspace, settings | {"optimizer.batch_size": 20, "ppo_epochs": 1})
    (found, *_) = world.rows(workspace, "training", "reft")
    assert found["loss"] == pytest.approx(expected, abs=1e-4)
    assert steps[0]["loss"] < found["loss"], "the second pass starts from what the first has learnt"


def completion_ids(root: Path, i: int) -> int:
    """Tokens of the right completion of sum `i`, its ending included."""
    tokenizer = world.load_tokenizer(root / "data/models/tiny")
    rendered = world.render(tokenizer, [m.model_dump() for m in world.ask(i).messages], "", "text")
    return len(world.completion_ids(tokenizer, rendered, world.completion(i, 0), 1))


def test_right_answers_with_a_wrong_step_are_shown_or_have_no_reward(workspace):
    lucky = BANDIT | {"checker": "tests.ppo_world:Lucky@1"}
    assert {step["wrong_steps"] for step in run(workspace, lucky)} == {None}, "only where questions have options"
    steps = run(workspace, lucky | {"wrong_steps": "log"})
    assert {step["wrong_steps"] for step in steps} == {0.0}
    assert has_wrong_step("", "Step 1: 2 + 2 = 5\nStep 2: 5 + 1 = 6")
    assert not has_wrong_step("", "Step 1: 2 + 2 = 4\nStep 2: so it is 4")
    config = Stage("ppo", "reft", workspace).config
    wrong = Judged("4", "4", "correct", 1.0, True)
    task = Task("p", "q", (), "", "text", np.arange(3), "4", "number", None, "number")
    one = Drawn(task, 0, "s", Completion("2 + 2 = 5", "stop", 1, 3, (5,), None))
    with Rewarder(config, []) as rewarder:
        assert rewarder.score(one, wrong) == 1.0
        rewarder.config = config.model_copy(update={"wrong_steps": "zero"})
        assert rewarder.score(one, wrong) == 0.0
        assert rewarder.score(one, wrong._replace(wrong_step=False)) == 1.0
    choices = task._replace(choices=("a", "b"))
    auto = config.model_copy(update={"wrong_steps": "auto"})
    assert [steps_mode(auto, t) for t in (task, choices)] == ["ignore", "log"]


PROGRAMS = {
    "    return 2 + 2": ("4", "correct", 1.0),
    "    return 2 + 3": ("5", "wrong", 0.1),
    "    return 'many'": ("many", "wrong", 0.0),
    "    return 1 / 0": (None, "no_answer", 0.0),
    "    while True:\n        pass": ("undecided: limit of time", "undecided", None),
    "    import sympy\n    return sympy.Integer(4)": ("undecided: no module sympy", "undecided", None),
}
"""What follows a function's head -> its answer, verdict and reward where gold is 4."""


def test_a_program_that_hangs_does_not_end_a_step(workspace):
    ppo_world.build(workspace)
    task = Task("p", "q", (), "def solution():\n", "text", np.arange(3), "4", "program", None, "number")
    drawn = [Drawn(task, i, "s", Completion(text, "stop", 1, 3, (5,), None)) for i, text in enumerate(PROGRAMS)]
    with Rewarder(Stage("ppo", "reft", workspace).config, [task]) as rewarder:
        found = rewarder.judge(drawn)
    assert [(f.extracted, f.verdict, f.reward) for f in found] == list(PROGRAMS.values())


def test_what_counts_as_options_is_what_counts_in_the_stage_rewards(workspace):
    """The kind of the problem, not its list of choices: several may be right, and then it is of another kind."""
    ppo_world.build(workspace)
    config = Stage("ppo", "reft", workspace).config.model_copy(update={"partial": "code"})
    task = Task("p", "q", (), "", "text", np.arange(3), "4", "number", ("a", "b"), "choice")
    nothing = Completion("no idea", "stop", 1, 3, (5,), None)
    with Rewarder(config, [task]) as rewarder:
        drawn = [Drawn(task._replace(kind=kind), i, "s", nothing) for i, kind in enumerate(("choice", "latex"))]
        assert [judged.reward for judged in rewarder.judge(drawn)] == [config.partial_reward, 0.0]


@pytest.mark.parametrize(
    ("stops", "why"),
    [
        ({"max_kl": 1e-4}, r"step \d: the policy has left its reference: KL .* ppo\.reft\.stops\.max_kl is 0\.0001"),
        ({"min_entropy": 9.0}, r"step 0: the policy hardly varies any more: entropy .*\.stops\.min_entropy is 9"),
        ({"constant_reward": 2}, r"step 1: all rollouts of 2 steps had the reward 0, so nothing is learnt"),
    ],
)
def test_a_run_that_cannot_recover_stops_and_goes_on_with_another_limit(workspace, monkeypatch, stops, why):
    never = {"checker": "tests.ppo_world:Never@1"} if "constant_reward" in stops else {}
    settings = OFTEN | never | {"optimizer.lr": 1e-2}
    ppo_world.build(workspace, settings | {"stops": stops})
    with pytest.raises(ValueError, match=why):
        execute("ppo", "reft", train.ppo.run, workspace)
    before, asked = ppo_world.committed(), ppo_world.watch_draws(monkeypatch)
    steps = run(workspace, settings | {"stops": {}})
    assert before, "what was drawn is kept"
    assert not before & set(asked)
    assert [step["step"] for step in steps] == list(range(6))


def test_prompts_that_cannot_be_used_are_rejects(workspace):
    ppo_world.build(workspace, {"max_tokens": 19})  # eight to come, and prompts of ten and more
    lengths = prompt_lengths(workspace)
    world.write(workspace, "train", [world.Answer(problem_id=world.ask(i).problem_id, answer="1") for i in range(9)])
    execute("ppo", "reft", train.ppo.run, workspace)
    found = {row["prompt_id"]: row for row in rejects(workspace)}
    long = {prompt for prompt, length in lengths.items() if length + 8 > 19}
    assert long, "some are too long"
    assert {prompt for prompt, row in found.items() if row["reason"] == "over_long"} == long - {world.ask(9).prompt_id}
    assert found[world.ask(9).prompt_id]["reason"] == "no_answer"
    assert not {row["prompt_id"] for row in world.rows(workspace, "samples", "reft")} & set(found)


def test_a_run_without_a_single_usable_prompt_says_why(workspace):
    ppo_world.build(workspace, {"max_tokens": 12})
    with pytest.raises(
        ValueError, match=r"ppo\.reft\.prompts: no prompt of 'train' can .*over_long, prompt of \d+ tokens"
    ):
        execute("ppo", "reft", train.ppo.run, workspace)


def prompt_lengths(root: Path) -> dict[str, int]:
    tokenizer = world.load_tokenizer(root / "data/models/tiny")
    asked = [world.ask(i) for i in range(10)]
    rendered = [world.render(tokenizer, [m.model_dump() for m in prompt.messages], "", "text") for prompt in asked]
    return {prompt.prompt_id: len(found.ids) for prompt, found in zip(asked, rendered, strict=True)}


def rejects(root: Path) -> list[dict[str, Any]]:
    return read_table(root / "data/rejects/stage=ppo/run=reft", Reject).to_pylist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.explore.temperature": 0.8}, r"ppo\.reft\.sampling: 'explore' has temperature 0\.8, top_p 1, but"),
        ({"sampling.explore.top_p": 0.9}, r"temperature 1, top_p 0\.9, but what is learnt from must be drawn from"),
        ({"ppo.reft.sampling": "greedy"}, r"'greedy' has temperature 0"),
        ({"demos": "good"}, "gold chains are for `algorithm: online_st`, which needs them"),
        ({"algorithm": "online_st"}, "demos: gold chains"),
        ({"algorithm": "online_st", "demos": "good", "clip": 0.1}, "clip: `online_st` has neither KL penalty nor"),
        ({"mini_batch": 5}, r"mini_batch: more than optimizer\.batch_size"),
        ({"lora": {"dropout": 0.1}}, r"lora\.dropout: ratios would be those of the dropout; set it to 0"),
        ({"steps_from": "reft", "optimizer": {"lr": 1e-3, "batch_size": 4}}, "cannot take its steps from itself"),
        ({"value_model": "none", "engine": "scripted"}, "engine"),
        ({"optimizer.steps": 40_000}, r"each prompt is rolled out on 16,000 times, and sample ids number 10,000"),
    ],
)
def test_mistakes_name_place_and_remedy(workspace, changes, message):
    with pytest.raises(ValueError, match=message):
        run(workspace, changes)


def test_a_value_model_of_other_words_is_refused(workspace):
    ppo_world.build(workspace, {"value_model": "other", "models.other": world.PARAMS["models"]["tiny"]})
    other = world.model_dir(workspace / "data/models/other")
    world.write_record(other, world.initialise(world.LLAMA | {"hidden_size": 16}, ["other words"], 0, other, "config"))
    with pytest.raises(ValueError, match=r"ppo\.reft\.value_model: 'other' has another tokenizer than 'tiny'"):
        execute("ppo", "reft", train.ppo.run, workspace)


def test_a_policy_is_tried_on_sequences_as_long_as_those_to_come():
    tasks = [Task("p", "q", (), "", "text", np.arange(n), "4", "number", None, "number") for n in (5, 3, 9, 4)]
    shortest, longest = probes(tasks, 20)
    assert [len(part) for part in (*shortest, *longest)] == [3, 20, 9, 20]
    assert longest.completion.tolist() == [*range(9), *range(9), 0, 1]
