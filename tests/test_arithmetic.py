"""Generated word problems: every chain holds, words are known, streams of different seeds are disjoint."""

import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.arithmetic import MAX_STEPS, SEED_BUCKETS, WordProblem, choosing, generate, options
from builders.arithmetic_words import vocabulary
from builders.checkers.program import ReftProgramChecker
from schemas.ids import digest

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def check_chain(problem: WordProblem) -> None:
    """Each step computes right, from numbers that the question or an earlier step states; the last is the answer."""
    equations = EQUATION.findall(problem.chain)
    assert len(equations) == problem.steps == problem.chain.count(".") == problem.chain.count("=")
    known = [int(number) for number in re.findall(r"\d+", problem.question)]
    for a, sign, b, result in equations:
        assert SIGNS[sign](int(a), int(b)) == int(result)
        for operand in (int(a), int(b)):
            assert operand in known, problem
            known.remove(operand)
            known += [operand] if operand not in known else []
        assert 0 <= int(result) <= 999
        known.append(int(result))
    assert equations[-1][3] == problem.answer


@settings(max_examples=40)
@given(seed=st.integers(0, 10**9), low=st.integers(1, MAX_STEPS), more=st.integers(0, 3))
def test_every_chain_holds(seed: int, low: int, more: int) -> None:
    problems = generate(seed, (low, min(low + more, MAX_STEPS)), 25)
    for problem in problems:
        assert low <= problem.steps <= low + more
        check_chain(problem)


def test_every_number_of_a_question_is_used() -> None:
    for problem in generate(3, (2, 4), 500):
        used = [int(number) for equation in EQUATION.findall(problem.chain) for number in (equation[0], equation[2])]
        for number in re.findall(r"\d+", problem.question):
            assert int(number) in used, problem


def test_default_problems_are_short_and_mostly_below_200() -> None:
    problems = generate(0, (2, 4), 2_000)
    assert max(len(problem.question.split()) for problem in problems) <= 45
    answers = [int(problem.answer) for problem in problems]
    assert sum(answer <= 200 for answer in answers) / len(answers) > 0.97
    shares = [sum(problem.steps == n for problem in problems) / len(problems) for n in (2, 3, 4)]
    assert all(0.28 < share < 0.39 for share in shares), "step counts come in equal shares"
    kinds = {tuple(equation[1] for equation in EQUATION.findall(problem.chain)) for problem in problems}
    assert len(kinds) > 40, "orders of operations vary"


def test_a_seed_gives_the_same_problems_everywhere() -> None:
    assert generate(0, (2, 4), 1)[0] == WordProblem(
        "Hugo buys 3 cups for 3 coins each and 2 beads for 4 coins each. How many coins does Hugo pay?",
        "The cups cost 3 * 3 = 9. The beads cost 2 * 4 = 8. Hugo pays 9 + 8 = 17.",
        "17",
        3,
        "def solution():\n"
        '    """Hugo buys 3 cups for 3 coins each and 2 beads for 4 coins each. How many coins does Hugo pay?"""\n'
        "    cups = 3 * 3\n    beads = 2 * 4\n    price = cups + beads\n    return price",
    )
    problems = generate(7, (1, 6), 300)
    assert digest([list(problem[:4]) for problem in problems]) == "9cb16762cbc26135"
    assert digest([problem.program for problem in problems]) == "f0c7fcd4971d68b7"


def test_windows_of_one_stream_share_nothing() -> None:
    whole = generate(5, (2, 4), 1_500)
    assert whole[600:] == generate(5, (2, 4), 900, skip=600)
    assert len({problem.question for problem in whole}) == len(whole)


def test_seeds_of_different_remainder_share_nothing() -> None:
    streams = [{p.question for p in generate(seed, (1, 1), 400)} for seed in range(SEED_BUCKETS)]
    assert sum(map(len, streams)) == len(set().union(*streams)) == 400 * SEED_BUCKETS


UNIT = re.compile(r"[A-Za-z]+|[^\sA-Za-z\d]")


def test_vocabulary_covers_every_seed() -> None:
    plain, known = (set(UNIT.findall(" ".join(vocabulary(programs)))) for programs in (False, True))
    assert plain < known
    assert "solution" not in plain
    for seed in range(3):
        for problem in generate(seed, (1, 6), 1_000):
            assert set(UNIT.findall(f"{problem.question} {problem.chain}")) <= plain
            program = choosing(problem.program, options(problem, 5)[0])
            assert set(UNIT.findall(f"{problem.program} {program}")) <= known


def test_programs_are_the_chains_by_other_means() -> None:
    """One assignment per step with its operation and result; each names what an earlier step found, and the answer."""
    for seed in range(3):
        for problem in generate(seed, (1, 6), 300):
            lines = problem.program.split("\n")
            assert lines[:2] == ["def solution():", f'    """{problem.question}"""']
            values: dict[str, int] = {}
            steps = [line.split() for line in lines[2:-1]]
            for (variable, _, a, sign, b), equation in zip(steps, EQUATION.findall(problem.chain), strict=True):
                found = [str(values.get(operand, operand)) for operand in (a, b)]
                assert (found[0], sign, found[1]) == equation[:3]
                known = re.findall(r"\d+", problem.question)
                assert all(operand in values or operand in known for operand in (a, b)), "only numbers of the question"
                values[variable] = int(equation[3])
            assert lines[-1] == f"    return {steps[-1][0]}"


def test_programs_run_to_their_answers() -> None:
    with ReftProgramChecker() as checker:
        for seed, steps in ((0, (2, 4)), (1, (1, 6)), (2, (5, 8))):
            problems = generate(seed, steps, 300)
            assert [checker.extract("", problem.program) for problem in problems] == [p.answer for p in problems]
            chosen = [(choosing(p.program, options(p, 4)[0]), options(p, 4)[1]) for p in problems[:50]]
            assert all(checker.extract("", program) == letter for program, letter in chosen)


@pytest.mark.parametrize("steps", [(0, 2), (3, 2), (2, 9)])
def test_steps_out_of_range(steps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"steps: \[.*\] must be \[least, most\] within 1\.\.8"):
        generate(0, steps, 1)


def test_an_exhausted_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.arithmetic._PATIENCE", 3)
    with pytest.raises(ValueError, match=r"only \d+ distinct problems found; lower `limit`"):
        generate(0, (1, 1), 1_000)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_options_are_different_numbers_with_the_answer_among_them(count: int) -> None:
    for problem in generate(1, (1, 3), 200):
        choices, letter = options(problem, count)
        assert len(set(choices)) == count
        assert choices["ABCDE".index(letter)] == problem.answer
        assert (choices, letter) == options(problem, count)
        assert min(map(int, choices)) >= 0


def test_the_right_option_is_not_always_the_same() -> None:
    letters = [options(problem, 4)[1] for problem in generate(1, (1, 3), 400)]
    assert {letter for letter in "ABCD" if letters.count(letter) > 40} == set("ABCD")
