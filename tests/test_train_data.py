"""From ids to token arrays: what resolves, what is scored, and what is refused."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from builders.model_files import load_tokenizer
from schemas import Demo, Sample
from stores.stage import Stage
from tests import training_world as world
from train.data import Reader, hash_tokens, load_demos, load_pairs
from train.packing import Tokens
from train.tables import Tables


@dataclass
class World:
    root: Path

    def __post_init__(self):
        self.tokenizer = load_tokenizer(self.root / "data/models/tiny")

    def text(self, ids: np.ndarray) -> str:
        return str(self.tokenizer.decode(ids.tolist()))

    def source(self, section: str, run: str, table: str, key: str, max_tokens: int) -> tuple[Tables, Reader]:
        stage = Stage(section, run, self.root)
        reader = Reader.of(stage)._replace(tokenizer=self.tokenizer, max_tokens=max_tokens)
        return Tables(stage, table, key), reader

    def pairs(self, limit: int | None = None, max_tokens: int = 100):
        return load_pairs(*self.source("preference", "dpo", "pairs", "sums", max_tokens), limit)

    def demos(self, max_tokens: int = 100):
        return load_demos(*self.source("sft", "warm", "demos", "good", max_tokens))


@pytest.fixture
def store(workspace: Path) -> World:
    world.build(workspace, count=6)
    return World(workspace)


def test_a_pair_is_two_completions_of_one_prompt(store):
    by_prompt = {pair.chosen_span.prompt_id: pair for pair in store.pairs()}
    assert len(by_prompt) == 6
    pair = by_prompt[world.ask(2).prompt_id]
    assert store.text(pair.chosen.prompt) == "Question: What is 2 plus 5?\nAnswer:"
    assert pair.chosen.prompt.tolist() == pair.rejected.prompt.tolist()
    assert store.text(pair.chosen.completion) == " Final answer: 7<eos>"
    assert store.text(pair.rejected.completion) == " 2 plus 2 is easy. Final answer: 8<eos>"
    good = world.drawn(2)[0]
    assert pair.chosen_span == (good.prompt_id, good.sample_id, 0, len(" Final answer: 7"), True)


@pytest.mark.parametrize(
    ("changes", "chosen", "rejected"),
    [
        ({"chosen_eos": False}, " Final answer: 7", " 2 plus 2 is easy. Final answer: 8<eos>"),
        ({"rejected_end": 10, "rejected_eos": False}, " Final answer: 7<eos>", " 2 plus 2 "),
        ({"rejected_start": 18}, " Final answer: 7<eos>", " Final answer: 8<eos>"),
        ({"rejected_start": 4, "rejected_end": 4}, " Final answer: 7<eos>", "<eos>"),
    ],
)
def test_only_the_span_is_scored(store, changes, chosen, rejected):
    world.write(store.root, "sums", [world.pair(2, **changes)])
    (pair,) = store.pairs()
    assert store.text(pair.chosen.completion) == chosen
    assert store.text(pair.rejected.completion) == rejected


def test_spans_count_code_points(store):
    good, bad = world.drawn(0)
    text = "🐈 e\u0301 Final answer: 3"
    world.write(store.root, "drawn", [sample(good, text=text, n_chars=len(text)), bad])
    world.write(store.root, "sums", [world.pair(0, chosen_start=4, chosen_end=len(text))])
    assert store.text(store.pairs()[0].chosen.completion) == " Final answer: 3<eos>"


def sample(like: Sample, **changes) -> Sample:
    return Sample(**like.model_dump() | changes)


@pytest.mark.parametrize(("reason", "ending"), [("stop", "<eos>"), ("length", "")])
def test_a_demo_ends_where_its_sample_ended_by_itself(store, reason, ending):
    world.write(store.root, "drawn", [sample(world.drawn(0)[0], finish_reason=reason)])
    world.write(store.root, "good", [Demo(prompt_id=world.ask(0).prompt_id, sample_id=world.drawn(0)[0].sample_id)])
    (demo,) = store.demos()
    assert store.text(demo.tokens.completion) == " Final answer: 3" + ending


def test_samples_of_gold_runs_and_prompts_of_demos_are_found_through_params(store):
    gold = {"problems": "train", "ending": "", "model": "none"}
    outcome = {"samples": "drawn", "rewards": "drawn", "step_labels": "none", "gold": "human", "k": 1}
    demos = {"samples": "human", "prompts": "train"}
    changes = {"samples_gold.human": gold, "pairs_outcome.sums": outcome, "demos_gold.good": demos, "demos_correct": {}}
    world.set_params(store.root, changes)
    like = world.drawn(1)[0]
    human = sample(like, sample_id=f"{like.problem_id}-11111111-0000", prompt_id=None, model="gold")
    world.write(store.root, "human", [human])
    world.write(store.root, "sums", [world.pair(1, chosen_sample_id=human.sample_id)])
    world.write(store.root, "good", [Demo(prompt_id=like.prompt_id or "", sample_id=human.sample_id)])
    stage = Stage("preference", "dpo", store.root)
    assert Tables(stage, "pairs", "sums").source_runs("samples") == ["drawn", "human"]
    assert store.text(store.pairs()[0].chosen.completion) == " Final answer: 5<eos>"
    assert store.text(store.demos()[0].tokens.completion) == " Final answer: 5<eos>"


@pytest.mark.parametrize("order", [("drawn", "again"), ("again", "drawn")])
def test_an_id_that_several_runs_have_is_of_the_first_by_name(store, monkeypatch, order):
    """As in the store's views and in releases, however params order the runs."""
    again = [s.model_copy(update={"text": s.text.upper()}) for i in range(6) for s in world.drawn(i)]
    world.write(store.root, "again", again)
    found = Tables.source_runs
    monkeypatch.setattr(Tables, "source_runs", lambda t, table: order if table == "samples" else found(t, table))
    source, _ = store.source("preference", "dpo", "pairs", "sums", 100)
    assert {pair.chosen.text.isupper() for pair in source.pairs()} == {True}


def test_a_limit_takes_evenly_spaced_pairs(store):
    everything = [pair.name for pair in store.pairs()]
    assert [pair.name for pair in store.pairs(limit=3)] == [everything[i] for i in (0, 2, 5)]
    assert [pair.name for pair in store.pairs(limit=99)] == everything


def test_the_hash_of_tokens_sees_every_boundary():
    def tokens(*parts):
        return [Tokens(np.array(p, np.int32), np.array(c, np.int32)) for p, c in parts]

    one, other = ([1, 2], [3]), ([4], [5])
    kinds = [tokens(one), tokens(([1], [2, 3])), tokens(one, other), tokens(other, one)]
    assert len({hash_tokens(kind) for kind in kinds}) == len(kinds)
    assert hash_tokens(kinds[0]) == hash_tokens(tokens(([1, 2], [3])))


def lose_samples(root: Path):
    world.write(root, "drawn", [s for i in range(5) for s in world.drawn(i)])


def lose_prompts(root: Path):
    world.write(root, "train", [world.ask(i) for i in range(5)])


def cut_a_text(root: Path):
    cut = [sample(s, text="", n_chars=0) for s in world.drawn(0)[:1]]
    world.write(
        root, "drawn", [*cut, *(s for i in range(6) for s in world.drawn(i) if s.sample_id != cut[0].sample_id)]
    )


def lose_pairs(root: Path):
    from schemas import Pair
    from stores.parquet import rows_to_table, write_table

    write_table(root / "data/pairs/run=sums", Pair, [rows_to_table(Pair, [])])


def empty_prompt(root: Path):
    silent = [p.model_copy(update={"messages": []}) for p in map(world.ask, range(6))]
    world.write(root, "train", silent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_samples, r"pairs run 'sums': sample \S+ is not in its samples \('drawn'\); rebuild the run with `dvc"),
        (lose_prompts, r"pairs run 'sums': prompt \S+ is not in its prompts \('train'\); rebuild"),
        (cut_a_text, r"pairs run 'sums': pair \(\S+, rank 0\): span 0:16 is not inside sample \S+ \(0 code points\)"),
        (lose_pairs, r"pairs run 'sums' is empty: .*data/rejects/stage=pairs_outcome/run=sums.*pairs_outcome.sums"),
        (empty_prompt, r"prompt \S+ renders to no tokens, so nothing predicts .*; give its template a text"),
    ],
)
def test_lost_rows_are_errors_that_name_the_run_and_the_remedy(store, damage, message):
    damage(store.root)
    with pytest.raises(ValueError, match=message):
        store.pairs()


def test_what_exceeds_the_models_positions_is_named_with_the_limit(store):
    path = store.root / "data/models/tiny/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 12}))
    with pytest.raises(ValueError, match=r"pair \(.*the limit is 12; set pairs_outcome.sums.max_tokens .* no more pos"):
        store.pairs()
    with pytest.raises(ValueError, match=r"demo \(.*the limit is 12; leave it out of demos_correct.good"):
        store.demos()


def test_a_chat_ends_as_its_template_does_where_the_model_stops_there(store):
    world.write(store.root, "train", [world.ask(i).model_copy(update={"rendering": "chat"}) for i in range(6)])
    store.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} Question{% endfor %}"
    path = store.root / "data/models/tiny/generation_config.json"
    ends = json.loads(path.read_text())["eos_token_id"], store.tokenizer.encode(" Question")[0]
    for ids, ending in (([ends[0]], ends[0]), (list(ends), ends[1])):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ids}))
        assert {pair.chosen.completion[-1] for pair in store.pairs()} == {ending}


def test_what_is_too_long_is_named_with_the_limit_and_the_remedy(store):
    longest = max(s.length for pair in store.pairs() for s in pair.sequences)
    assert len(store.pairs(max_tokens=longest)) == 6
    message = rf"pair \(\S+, rank 0\): prompt and completion have {longest} tokens, the limit is {longest - 1}; "
    with pytest.raises(ValueError, match=message + r"set pairs_outcome.sums.max_tokens to at most that, or raise pref"):
        store.pairs(max_tokens=longest - 1)
    with pytest.raises(ValueError, match=r"demo \(.*leave it out of demos_correct.good, or raise sft.warm.max_tokens"):
        store.demos(max_tokens=15)
