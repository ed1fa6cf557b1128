"""Changes of the second version of a `tests.diff_world.World`, each for one reason of a difference."""

from collections.abc import Callable, Iterable, Sequence

import pytest

from schemas import Reject
from schemas.ids import text_hash
from tests.diff_world import World, asked_again, drawn_again, index, rename
from tests.small_store import problems, prompts

FIRST = min(problem.problem_id for problem in problems())


def given(cases: Iterable[tuple], quick: Sequence[str] = ()) -> list:
    """Cases by their first value; those that are not named are for the slow tier."""
    marks = [() if case[0] in quick else pytest.mark.slow for case in cases]
    return [pytest.param(*case[1:], id=case[0], marks=mark) for case, mark in zip(cases, marks, strict=True)]


def of_first(row) -> bool:
    """Whether a row is of the first problem."""
    identity = getattr(row, "problem_id", None) or getattr(row, "prompt_id", None) or row.sample_id
    return identity.startswith(FIRST)


def lose_problem(world: World) -> None:
    world.params(lambda p: p["problems"]["train"].update(limit=1))
    for table, run in world.tables:
        world.drop(table, run, of_first)


def ask_otherwise(**values) -> Callable[[World], None]:
    """All prompts are asked otherwise, and all samples and pairs are of the new ones."""

    def change(world: World) -> None:
        new = {old.prompt_id: asked_again(old, **values) for old in prompts()}
        world.write("prompts", "train", list(new.values()))
        for table, run in (("samples", "irpo_0"), ("pairs", "irpo_0")):
            renamed = []
            for row in world.tables[table, run]:
                texts = {k: v for k, v in row.model_dump().items() if isinstance(v, str)}
                for old, prompt in new.items():
                    texts = {k: v.replace(old, prompt.prompt_id) for k, v in texts.items()}
                renamed.append(row.model_copy(update=texts))
            world.write(table, run, renamed)

    return change


def draw_otherwise(**values) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.edit("samples", "irpo_0", lambda row: drawn_again(row, **values))
        rename(world, "-abcdef01-", "-fedcba10-")

    return change


def fewer_samples(world: World) -> None:
    world.params(lambda p: p["samples"]["irpo_0"].update(n=2))
    world.drop("samples", "irpo_0", lambda row: row.index == 2)
    world.drop("pairs", "irpo_0", lambda row: row.rank == 1)


def retell(world: World) -> None:
    """The last letter of a wrong sample is another one."""
    old = next(s for s in world.rows("samples", "irpo_0") if of_first(s) and s.index == 1)
    text = old.text[:-1] + "5"
    world.update("samples", "irpo_0", lambda s: s == old, text=text, text_hash=text_hash(text))


def judge(cause: Callable[[World], None], verdict: str = "correct") -> Callable[[World], None]:
    """The second sample of the first problem is found right, so that it is rejected no more."""

    def change(world: World) -> None:
        reward = float(verdict == "correct")
        world.update("rewards", "irpo_0", lambda r: of_first(r) and index(r) == 1, verdict=verdict, reward=reward)
        world.drop("pairs", "irpo_0", lambda p: of_first(p) and p.rank == 0)
        cause(world)

    return change


def new_checker(world: World) -> None:
    world.update("rewards", "irpo_0", lambda r: True, checker_version="2")


def new_gold(world: World) -> None:
    world.update("answers", "train", of_first, answer="4")


def new_extractor(world: World) -> None:
    world.update("predictions", "irpo_0", of_first, extracted="8", extractor_version="2")


def rank_again(world: World) -> None:
    """One sample becomes right, so that the other pair of its prompt comes first."""
    judge(new_checker)(world)
    world.update("pairs", "irpo_0", of_first, rank=0)


def smaller_k(world: World) -> None:
    world.params(lambda p: p["pairs_outcome"]["irpo_0"].update(k=1))
    world.drop("pairs", "irpo_0", lambda row: row.rank == 1)


def dropped(reason: str, detail: str, **settings) -> Callable[[World], None]:
    """The first pair of the first problem is a reject of the stage, whose settings differ (or not)."""

    def change(world: World) -> None:
        world.params(lambda p: p["pairs_outcome"]["irpo_0"].update(settings))
        world.drop("pairs", "irpo_0", lambda p: of_first(p) and p.rank == 0)
        asked = next(p for p in prompts() if of_first(p))
        row = Reject(problem_id=FIRST, prompt_id=asked.prompt_id, reason=reason, detail=detail)  # type: ignore[arg-type]
        world.reject("pairs_outcome", "irpo_0", [row])

    return change


def vanish(world: World) -> None:
    world.drop("pairs", "irpo_0", lambda p: of_first(p) and p.rank == 0)


def margin(world: World) -> None:
    world.params(lambda p: p["pairs_outcome"]["irpo_0"].update(margin=0.5))
    vanish(world)


def other_span(world: World) -> None:
    world.update("pairs", "irpo_0", lambda p: of_first(p) and p.rank == 0, chosen_start=3)
