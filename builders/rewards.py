"""`rewards`: one row per sample, its verdict: predictions joined with gold answers.

Each distinct (extracted answer, gold answer) is compared once, whatever the number of samples that state it; texts are
not read. `undecided` (the checker ran out of time or crashed) has no reward, and is never treated as wrong. So has a
sample whose problem has no gold answer; a reject with the reason `no_answer` tells the two apart.
"""

import pyarrow as pa
import pyarrow.compute as pc

from builders.checkers import get_checker
from schemas import Reward
from stores.duck import Duck, sql_file
from stores.progress import progress
from stores.stage import Stage, run_stage


def judge(predictions: pa.Table, answers: pa.Table) -> pa.Table:
    """`rewards` rows of `predictions` (`sample_id`, `extracted`, `extractor`), in the order of sample_id.

    `answers` needs `problem_id`, `answer`. The checker is the one that extracted. As in the stage, a sample whose
    problem has no gold answer is undecided.
    """
    with Duck() as duck:
        duck.register("predictions", predictions)
        duck.register("answers", answers)
        compare(duck)
        return duck.table(sql_file(__file__, "rewards"))


def compare(duck: Duck) -> None:
    """Adds the tables `comparisons` and `checkers`, which `rewards.sql` joins with `predictions` and `answers`."""
    pairs = duck.table(sql_file(__file__, "rewards_pairs"))
    names = duck.table("select distinct split_part(extractor, ':', 1) as checker from predictions order by all")
    versions, compared = [], [pairs.slice(0, 0).append_column("matches", pa.array([], pa.bool_()))]
    with progress("rewards", len(pairs), "answers") as bar:
        for name in names["checker"].to_pylist():
            mine = pairs.filter(pc.equal(pairs["checker"], name))
            with get_checker(name) as checker:
                found = checker.matches(_tuples(mine), bar.advance)
                versions.append(checker.version)
            compared.append(mine.append_column("matches", pa.array(found, pa.bool_())))
    duck.register("comparisons", pa.concat_tables(compared))
    duck.register("checkers", names.append_column("version", pa.array(versions, pa.string())))


def _tuples(pairs: pa.Table) -> list[tuple[str, str]]:
    return list(zip(pairs["extracted"].to_pylist(), pairs["gold"].to_pylist(), strict=True))


def run(stage: Stage) -> None:
    """Writes the rewards of one predictions run."""
    config = stage.config
    with Duck() as duck:
        duck.view("predictions", "predictions", [stage.dir("predictions", config.predictions)])
        duck.view("answers", "answers", [stage.dir("answers", config.problems)])
        compare(duck)
        stage.write(Reward, duck.batches(sql_file(__file__, "rewards")))
        stage.reject(duck.table(sql_file(__file__, "rewards_rejects")))


if __name__ == "__main__":
    run_stage("rewards", run)
