"""`pairs_outcome`: pairs of a correct and a wrong sample of one prompt, as Iterative RPO makes them.

The paper (arXiv 2404.19733, §2) walks both lists at once and starts a list over when it ends: pair k of a prompt is
`(winners[k mod |winners|], losers[k mod |losers|])` for k < K. Both are in the order of their samples; gold solutions,
where asked for, join the winners after them. A prompt with an empty list gives no pair. With `chosen: gold` the winners
are the gold solutions alone and the losers all samples, right or wrong: the pairs of SPIN (arXiv 2401.01335, §4).
Right samples whose process is wrong by the run's `step_labels` are on neither side, and rejects (`wrong_step`).

Samples and rewards are streamed side by side, whole prompts at a time, as arrays of ids and numbers: no text is read,
memory is bounded and time is linear. (As one SQL query over the same columns, ordered lists and joins took several
times the CPU.)
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builders.step_flaws import add_flaws
from builders.streams import PROBLEM, ProblemStream, RowStream, whole_groups
from schemas import Pair, Reject, Sample, arrow_schema
from schemas.ids import digest
from schemas.sections_pairs import OutcomePairsRun
from schemas.slots import NONE
from stores.duck import Duck
from stores.progress import progress
from stores.stage import Finish, Stage, partitioned, run_stage

COLUMNS = ("sample_id", "text_hash", "n_chars", "n_tokens", "finish_reason")
SAMPLE_COLUMNS = (*COLUMNS, "prompt_id", "n_prompt_tokens")
DIGEST = ("chosen_text_hash", "rejected_text_hash")
GOLD_REWARD = 1.0
NO_GOLD = arrow_schema(Sample).empty_table().select(COLUMNS)


class Built(NamedTuple):
    """Pairs (the columns of `Pair` and of `DIGEST`) and dropped candidates of some prompts with `n_samples` samples."""

    pairs: pa.Table
    rejects: pa.Table
    n_samples: int


class _Prompts(NamedTuple):
    """The prompts of a batch: ids, prompt tokens, and for every sample the number of its prompt."""

    prompt_id: pa.ChunkedArray
    problem_id: pa.ChunkedArray
    n_prompt_tokens: pa.ChunkedArray
    group: np.ndarray
    first: np.ndarray


class _Lists(NamedTuple):
    """Rows (samples, then gold) of all prompts' lists one after the other, with every prompt's start and length."""

    rows: np.ndarray
    start: np.ndarray
    length: np.ndarray


class _Sides(NamedTuple):
    """For every pair: the number of its prompt, its rank, and the rows of its two sides."""

    group: np.ndarray
    rank: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    def where(self, mask: np.ndarray) -> "_Sides":
        return _Sides(*(column[mask] for column in self))


def build(
    samples: pa.Table, reward: np.ndarray, gold: pa.Table, config: OutcomePairsRun, flawed: np.ndarray | None = None
) -> Built:
    """All pairs of whole prompts.

    `samples` holds `SAMPLE_COLUMNS` in the order of `sample_id`; `reward` one value per sample (NaN: undecided, enters
    no pair); `gold` the `COLUMNS` of gold solutions in the order of `sample_id`; `flawed` whether each sample is right
    with a wrong step on the way (None: no sample is).
    """
    flawed = np.zeros(len(samples), dtype=bool) if flawed is None else flawed
    prompts = _prompts(samples)
    if config.chosen == "gold":  # a gold solution is better than whatever the model wrote
        reward = np.zeros(len(samples))
    endless = pc.and_(pc.equal(samples["n_chars"], 0), pc.equal(samples["finish_reason"], "length")).to_numpy()
    usable = ~np.isnan(reward) & ~endless & ~flawed
    if config.deduplicate:
        usable &= _first_of_text(prompts.group, samples["text_hash"])
    gold_lists = _gold_lists(prompts.problem_id, gold, len(samples))
    low, high = _range(prompts, reward, usable)
    high = np.maximum(high, np.where(gold_lists.length > 0, GOLD_REWARD, -np.inf))
    winners = _lists(prompts, usable & (reward - low[prompts.group] >= config.margin))
    losers = _lists(prompts, usable & (high[prompts.group] - reward >= config.margin))
    sides = _round_robin(winners, gold_lists, losers, config)
    rewards = np.concatenate([reward, np.full(len(gold), GOLD_REWARD)])
    sides = sides.where(rewards[sides.chosen] - rewards[sides.rejected] >= config.margin)
    both = pa.concat_tables([samples.select(COLUMNS), gold.select(COLUMNS)])
    over = _over_long(sides, both, prompts, config)
    rejects = [
        _one_sided(prompts, sides, high, np.isnan(reward)),
        _dropped(samples, np.isnan(reward), "undecided", "the checker could not tell"),
        _dropped(samples, endless, "empty", "cut off before any text"),
        _dropped(samples, flawed, "wrong_step", "most labels find one"),
        _over_long_pairs(sides.where(over), prompts, config),
    ]
    return Built(_pairs(sides.where(~over), prompts, both), pa.concat_tables(rejects), len(samples))


def _prompts(samples: pa.Table) -> _Prompts:
    group, first = _groups(samples["prompt_id"])
    ids = samples["prompt_id"].take(first)
    problems = pc.utf8_slice_codeunits(ids, 0, 16)
    return _Prompts(ids, problems, samples["n_prompt_tokens"].take(first), group, first)


def _groups(ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(group of every row, first row of every group) for sorted ids."""
    changed = np.ones(len(ids), dtype=bool)
    if len(ids) > 1:
        changed[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy()
    return np.cumsum(changed) - 1, np.flatnonzero(changed)


def _range(prompts: _Prompts, reward: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest usable reward of every prompt (inf and -inf where there is none)."""
    low = np.minimum.reduceat(np.where(usable, reward, np.inf), prompts.first)
    high = np.maximum.reduceat(np.where(usable, reward, -np.inf), prompts.first)
    return low, high


def _lists(prompts: _Prompts, member: np.ndarray) -> _Lists:
    rows = np.flatnonzero(member)
    length = np.bincount(prompts.group[rows], minlength=len(prompts.first))
    return _Lists(rows, np.cumsum(length) - length, length)


def _gold_lists(problem_ids: pa.ChunkedArray, gold: pa.Table, offset: int) -> _Lists:
    """The gold solutions of every prompt's problem, as rows that follow the `offset` samples."""
    if not len(gold):
        nothing = np.zeros(len(problem_ids), dtype=np.int64)
        return _Lists(np.array([], dtype=np.int64), nothing, nothing)
    owners = pc.utf8_slice_codeunits(gold["sample_id"], 0, 16)
    _, first = _groups(owners)
    lengths = np.diff([*first, len(gold)])
    place = pc.index_in(problem_ids, value_set=owners.take(first).combine_chunks()).to_numpy(zero_copy_only=False)
    found = ~np.isnan(place.astype(float))
    place = np.where(found, place, 0).astype(np.int64)
    return _Lists(np.arange(len(gold)) + offset, first[place], np.where(found, lengths[place], 0))


def _first_of_text(group: np.ndarray, hashes: pa.ChunkedArray) -> np.ndarray:
    """True for the first sample of its prompt with its text."""
    codes = pc.dictionary_encode(hashes.combine_chunks()).indices.to_numpy().astype(np.int64)
    _, first = np.unique(group * (codes.max(initial=0) + 1) + codes, return_index=True)
    mask = np.zeros(len(group), dtype=bool)
    mask[first] = True
    return mask


def _round_robin(winners: _Lists, gold: _Lists, losers: _Lists, config: OutcomePairsRun) -> _Sides:
    """Pair k of a prompt: both lists at once, each started over when it ends."""
    n_winners = winners.length + gold.length
    count = np.where((n_winners > 0) & (losers.length > 0), config.k, 0)
    if not config.repeat_pairs:
        count = np.minimum(count, np.lcm(np.maximum(n_winners, 1), np.maximum(losers.length, 1)))
    group = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(group)) - np.repeat(np.cumsum(count) - count, count)
    place = rank % n_winners[group]
    of_gold = place >= winners.length[group]
    chosen = np.empty(len(group), dtype=np.int64)
    for mask, lists, at in ((~of_gold, winners, place), (of_gold, gold, place - winners.length[group])):
        chosen[mask] = lists.rows[lists.start[group[mask]] + at[mask]]
    rejected = losers.rows[losers.start[group] + rank % losers.length[group]]
    return _Sides(group, rank, chosen, rejected)


def _over_long(sides: _Sides, both: pa.Table, prompts: _Prompts, config: OutcomePairsRun) -> np.ndarray:
    """Whether either side and its prompt exceed the token limit.

    Raises ValueError where a limit is set and a length is not known.
    """
    if config.max_tokens is None or not len(sides.group):
        return np.zeros(len(sides.group), dtype=bool)
    lengths, asked = both["n_tokens"], prompts.n_prompt_tokens
    used = pc.is_null(lengths.take(np.concatenate([sides.chosen, sides.rejected])))
    if asked.null_count or pc.any(used).as_py():
        raise ValueError("max_tokens needs token counts: name a `model` in the samples_gold and samples_import runs")
    tokens = lengths.fill_null(0).to_numpy()
    longest = np.maximum(tokens[sides.chosen], tokens[sides.rejected])
    return asked.to_numpy()[sides.group] + longest > config.max_tokens


def _pairs(sides: _Sides, prompts: _Prompts, both: pa.Table) -> pa.Table:
    chosen, rejected = both.take(sides.chosen), both.take(sides.rejected)
    zeros = pa.array(np.zeros(len(sides.group), dtype=np.int32))
    columns = {
        "prompt_id": prompts.prompt_id.take(sides.group),
        "rank": pa.array(sides.rank.astype(np.int32)),
        "problem_id": prompts.problem_id.take(sides.group),
    }
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        columns |= {
            f"{name}_sample_id": side["sample_id"],
            f"{name}_start": zeros,
            f"{name}_end": side["n_chars"],
            f"{name}_eos": pc.not_equal(side["finish_reason"], "length"),
            f"{name}_text_hash": side["text_hash"],
        }
    return pa.table(columns)


def _one_sided(prompts: _Prompts, sides: _Sides, high: np.ndarray, undecided: np.ndarray) -> pa.Table:
    """Prompts without a pair, and which side is missing; `undecided` ones are those that might have had either."""
    without = np.setdiff1d(np.arange(len(prompts.first)), sides.group)
    best = high[without]
    unclear = np.isinf(best) & np.logical_or.reduceat(undecided, prompts.first)[without]
    reason = np.where(unclear, "undecided", np.where(best >= GOLD_REWARD, "no_rejected", "no_chosen"))
    prompt_id, problem_id = prompts.prompt_id.take(without), prompts.problem_id.take(without)
    return _rejects(problem_id, prompt_id, None, pa.array(reason.tolist(), pa.string()), "")


def _dropped(samples: pa.Table, mask: np.ndarray, reason: str, detail: str) -> pa.Table:
    rows = samples.filter(mask)
    problems = pc.utf8_slice_codeunits(rows["prompt_id"], 0, 16)
    return _rejects(problems, rows["prompt_id"], rows["sample_id"], reason, detail)


def _over_long_pairs(sides: _Sides, prompts: _Prompts, config: OutcomePairsRun) -> pa.Table:
    prompt_id, problem_id = prompts.prompt_id.take(sides.group), prompts.problem_id.take(sides.group)
    ranks = pc.binary_join_element_wise(
        f"above {config.max_tokens} tokens, rank", pa.array(sides.rank).cast(pa.string()), " "
    )
    return _rejects(problem_id, prompt_id, None, "over_long", ranks)


def _rejects(
    problem_id: pa.ChunkedArray,
    prompt_id: pa.ChunkedArray,
    sample_id: pa.ChunkedArray | None,
    reason: str | pa.Array,
    detail: str | pa.Array,
) -> pa.Table:
    """One reject per prompt id; a string stands for the same value in every row."""
    schema, count = arrow_schema(Reject), len(prompt_id)
    columns = []
    for field, value in zip(schema, (problem_id, prompt_id, sample_id, reason, detail), strict=True):
        column = pa.array([value] * count, field.type) if value is None or isinstance(value, str) else value
        columns.append(column)
    return pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)


def stream(stage: Stage) -> Iterator[Built]:
    """Pairs and rejects of a run, some whole prompts at a time.

    Raises ValueError if the rewards or labels are not those of the samples, or a sample answers no prompt.
    """
    config = stage.config
    rewards = RowStream(stage.scan("rewards", config.rewards, ["sample_id", "reward", "verdict"]))
    gold, flawed = ProblemStream(_gold(stage), "sample_id"), ProblemStream(_flawed(stage), "sample_id")
    foreign = f"rewards run '{config.rewards}' was not made from samples run '{config.samples}'"
    for samples in whole_groups(_answers(stage), "prompt_id"):
        judged = rewards.take(len(samples))
        if len(judged) != len(samples) or not pc.all(pc.equal(judged["sample_id"], samples["sample_id"])).as_py():
            raise ValueError(foreign)
        first, last = (samples["prompt_id"][row].as_py()[:PROBLEM] for row in (0, -1))
        solved, wrong = gold.between(first, last), flawed.between(first, last)
        reward = judged["reward"].to_numpy().astype(np.float64)
        bad = None if wrong is None else _right_among(judged, wrong["sample_id"])
        yield build(samples, reward, NO_GOLD if solved is None else solved, config, bad)
    if len(rewards.take(1)):
        raise ValueError(foreign)


def _answers(stage: Stage) -> Iterator[pa.Table]:
    for samples in stage.scan("samples", stage.config.samples, SAMPLE_COLUMNS):
        if samples["prompt_id"].null_count:
            raise ValueError(f"samples run '{stage.config.samples}' answers no prompts: name its `prompts` run")
        yield samples


def _gold(stage: Stage) -> Iterable[pa.Table]:
    """The gold samples that join the winners; none where the run names none."""
    return () if stage.config.gold == NONE else stage.scan("samples", stage.config.gold, COLUMNS)


def _flawed(stage: Stage) -> Iterator[pa.Table]:
    """The samples whose process is wrong by the run's step labels, in order."""
    if stage.config.step_labels == NONE:
        return
    with Duck() as duck:
        duck.view("samples", "samples", [stage.dir("samples", stage.config.samples)], stage.scope)
        add_flaws(duck, stage)
        yield from duck.batches("select sample_id from step_flaws order by sample_id")


def _right_among(judged: pa.Table, ids: pa.ChunkedArray) -> np.ndarray:
    """Whether each judged sample is correct and one of `ids`."""
    right = pc.equal(judged["verdict"].cast(pa.string()), "correct")
    return pc.and_(right, pc.is_in(judged["sample_id"], value_set=ids.combine_chunks())).to_numpy()


def capped(stage: Stage) -> Finish | None:
    """Keeps at most `max_pairs` of a run's pairs, where that is set."""
    return None if stage.config.max_pairs is None else partial(_capped, stage)


def _capped(stage: Stage, pairs: Iterator[pa.Table], total: int) -> Iterator[pa.Table]:
    """A uniform subsample, seeded; the others are rejects."""
    limit, seen = stage.config.max_pairs, 0
    if total <= limit:
        yield from pairs
        return
    seed = int(digest([stage.params.seed, stage.name]), 16)
    keep = np.zeros(total, dtype=bool)
    keep[np.random.default_rng(seed).choice(total, limit, replace=False)] = True
    for batch in pairs:
        mask = keep[seen : seen + len(batch)]
        seen += len(batch)
        stage.reject(_above_cap(batch.filter(~mask), limit))
        yield batch.filter(mask)


def _above_cap(pairs: pa.Table, limit: int) -> pa.Table:
    ranks = pc.binary_join_element_wise(f"above {limit} pairs, rank", pairs["rank"].cast(pa.string()), " ")
    return _rejects(pairs["problem_id"], pairs["prompt_id"], None, "capped", ranks)


@partitioned(finish=capped)
def run(stage: Stage) -> None:
    """Writes one pairs run."""

    def pairs() -> Iterator[pa.Table]:
        with progress(f"pairs {stage.name}", stage.rows("samples", stage.config.samples), "samples") as bar:
            for built in stream(stage):
                stage.reject(built.rejects)
                bar.advance(built.n_samples)
                yield built.pairs

    stage.write(Pair, pairs(), digest=DIGEST)


if __name__ == "__main__":
    run_stage("pairs_outcome", run)
