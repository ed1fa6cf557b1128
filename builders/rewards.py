"""`rewards`: one row per sample, its verdict: predictions joined with gold answers.

Each distinct (extracted answer, gold answer) is compared once, whatever the number of samples that state it; texts are
not read. `undecided` (the checker ran out of time or crashed) has no reward, and is never treated as wrong. So has a
sample whose problem has no gold answer; a reject with the reason `no_answer` tells the two apart.

What a verdict is worth, `checkers.partial` decides: 1 or 0, and with `partial` something in between for a wrong answer.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builders.checkers import Checker, get_checker, partial
from schemas import Reward
from schemas.sections import RewardsRun
from schemas.slots import PartialRule
from stores.duck import Duck, literal, sql_file
from stores.progress import Progress, progress
from stores.stage import Stage, partitioned, run_stage

_CHECKERS = "select distinct regexp_replace(extractor, ':[^:]*$', '') as checker from predictions order by all"
_COMPARED = pa.schema(
    [
        ("checker", pa.string()),
        ("extracted", pa.string()),
        ("gold", pa.string()),
        ("matches", pa.bool_()),
        ("numbers", pa.bool_()),
    ]
)
_WORTH = pa.schema(
    [("verdict", pa.string()), ("numbers", pa.bool_()), ("options", pa.bool_()), ("reward", pa.float64())]
)
_CHOICES = "select problem_id from problems where answer_kind = 'choice'"
_NO_CHOICES = "select ''::varchar as problem_id where false"


def judge(predictions: pa.Table, answers: pa.Table) -> pa.Table:
    """`rewards` rows of `predictions` (`sample_id`, `extracted`, `extractor`), in the order of sample_id.

    `answers` needs `problem_id`, `answer`. The checker is the one that extracted. As in the stage, a sample whose
    problem has no gold answer is undecided. A wrong answer has no partial reward.
    """
    with Duck() as duck, tempfile.TemporaryDirectory() as directory:
        duck.register("predictions", predictions)
        duck.register("answers", answers)
        compare(duck, Path(directory))
        weigh(duck)
        return duck.table(sql_file(__file__, "rewards"))


def weigh(duck: Duck, rule: PartialRule = "none", amount: float = 0.0) -> None:
    """Adds the tables `worth`, what each verdict is worth, and `choices`, the problems with options where it matters.

    These are found in the view `problems`, unless the rule is `none`.
    """
    columns = zip(*partial.cases(rule, amount), strict=True)
    duck.register("worth", pa.table(dict(zip(_WORTH.names, columns, strict=True)), schema=_WORTH))
    duck.execute(f"create temp table choices as {_NO_CHOICES if rule == 'none' else _CHOICES}")


def compare(duck: Duck, directory: Path, numeric: bool = False) -> None:
    """Adds the tables `comparisons` and `checkers`, which `rewards.sql` joins with `predictions` and `answers`.

    Comparisons are made a batch at a time and kept in a file of `directory`, for there may be one per sample.
    `numeric` asks whether both answers are numbers, too, which takes its time and only some rules want to know.
    """
    names = duck.table(_CHECKERS)
    pairs = sql_file(__file__, "rewards_pairs")
    duck.execute(f"create temp table stated as {pairs}")
    total = duck.table("select count(*) as n from stated")["n"][0].as_py()
    path = directory / "comparisons.parquet"
    with ExitStack() as stack:
        checkers = {name: stack.enter_context(get_checker(name)) for name in names["checker"].to_pylist()}
        bar = stack.enter_context(progress("rewards", total, "answers"))
        file = stack.enter_context(pq.ParquetWriter(path, _COMPARED))
        for batch in duck.batches("select * from stated"):
            for compared in _compared(checkers, batch, bar, numeric):
                file.write_table(compared)
        versions = [checker.version for checker in checkers.values()]
    duck.execute(f"create or replace view comparisons as select * from read_parquet({literal(str(path))})")
    duck.register("checkers", names.append_column("version", pa.array(versions, pa.string())))


def _compared(checkers: dict[str, Checker], pairs: pa.Table, bar: Progress, numeric: bool) -> Iterator[pa.Table]:
    """Answers and what each came to, checker by checker."""
    for name in pairs["checker"].unique().to_pylist():
        mine = pairs.filter(pc.equal(pairs["checker"], name))
        golds = list(zip(mine["extracted"].to_pylist(), mine["gold"].to_pylist(), strict=True))
        found = checkers[name].matches(golds, bar.advance)
        numbers = [numeric and partial.are_numbers(*pair) for pair in golds]
        compared = mine.append_column("matches", pa.array(found, pa.bool_()))
        yield compared.append_column("numbers", pa.array(numbers, pa.bool_())).cast(_COMPARED)


@partitioned()
def run(stage: Stage) -> None:
    """Writes the rewards of one predictions run."""
    config: RewardsRun = stage.config
    stage.scratch.mkdir(parents=True, exist_ok=True)
    with Duck() as duck:
        duck.view("predictions", "predictions", [stage.dir("predictions", config.predictions)], stage.scope)
        duck.view("answers", "answers", [stage.dir("answers", config.problems)], stage.scope)
        if config.partial != "none":
            duck.view("problems", "problems", [stage.dir("problems", config.problems)], stage.scope)
        compare(duck, stage.scratch, numeric=config.partial == "paper")
        weigh(duck, config.partial, config.partial_reward)
        stage.write(Reward, duck.batches(sql_file(__file__, "rewards")))
        for rejects in duck.batches(sql_file(__file__, "rewards_rejects")):
            stage.reject(rejects)


if __name__ == "__main__":
    run_stage("rewards", run)
