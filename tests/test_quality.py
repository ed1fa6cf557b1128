"""`quality`: what is found among problems, what is dropped, and what names the rest."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import yaml
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import quality
from builders.overlap import near
from builders.overlap.sketches import Bands, bands_for, language, ngrams, signatures, sketch
from builders.overlap.words import tokens, words
from builders.reporting.quality import measure_quality, quality_tables
from schemas import Problem
from schemas.params import parse_params
from stores.buckets import divided
from stores.duck import Duck
from stores.stage import execute
from stores.store import Store
from stores.views import Views
from tests import stage_world as world
from tests.pipeline import EMPTY

AGAINST = dict.fromkeys("abcd", "none")
LONG = "A farmer has 12 cows and 7 sheep, and sells 3 of the cows to a friend who lives behind the old mill by a river."
OTHER = "Maria bakes 24 muffins on Monday, gives half of them away, and bakes twice as many as are left on each day."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How many cats?", "how many cats"),
        ("  HOW\tmany\n“cats”…", "how many cats"),
        ("a well-known two-digit number", "a well known two digit number"),
        ("It costs $1.50, or 1,000!", "it costs 1.50 or 1 000 !"),
        ("Hi! At 10:30, a ratio of 3:4", "hi at 10:30 a ratio of 3:4"),
        ("3-4", "3 - 4"),
        ("x − 5²", "x - 5 ^ 2"),
        ("1½ cups", "1 1 / 2 cups"),
        (r"$\frac{1}{2}$", r"\ frac { 1 } { 2 }"),
        ("ｆｕｌｌ　ｗｉｄｔｈ？", "full width"),
        ("Straße É e\u0301", "strasse é é"),
        ("猫は2匹。", "猫 は 2 匹"),
        ("हिन्दी", "हिन्दी"),
        ("\ufeffhow\u200b many\u00ad", "how many"),
        ("It's the dogs' “Anna’s”", "it s the dogs anna s"),
        ("f'(x) + f''(3)", "f ' ( x ) + f ' ' ( 3 )"),
        ("f′(x) = g’(x)", "f ' ( x ) = g ' ( x )"),
        ("Is n! even? Stop!", "is n ! even stop"),
        ("costs .5 or $.75. 5 more", "costs .5 or .75 5 more"),
    ],
)
def test_normalised_tokens(text: str, found: str) -> None:
    assert tokens(text) == found.split()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3+4", "3-4"),
        ("(2+3)*4", "2+3*4"),
        ("1.5", "15"),
        ("5²", "52"),
        ("1½", "11/2"),
        ("3/4", "3 4"),
        (".5 + 2", "5 + 2"),
        ("f'(3)", "f(3)"),
        ("find n!", "find n"),
    ],
)
def test_mathematics_survives_normalisation(a: str, b: str) -> None:
    assert tokens(a) != tokens(b)


def test_words_are_no_symbols() -> None:
    assert words(tokens("If x + 2 = 5, what is x?")) == ["if", "x", "2", "5", "what", "is", "x"]


def test_bands_for_every_similarity_that_params_allow() -> None:
    for similarity in (0.3, 0.6, 0.99, 1.0):
        count, rows = bands_for(similarity)
        assert 1 < count * rows <= 128


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=5))
def test_signatures_are_those_of_datasketch(shingles: list[list[int]]) -> None:
    flat = np.array([value for text in shingles for value in text], np.uint32)
    found = signatures(flat, np.cumsum([len(text) for text in shingles], dtype=np.int64))
    for text, row in zip(shingles, found, strict=True):
        theirs = MinHash(num_perm=128, seed=1, scheme="affine32", hashfunc=lambda value: value)
        theirs.update_batch(text) if text else None
        assert row.tolist() == theirs.hashvalues.tolist()


def test_ngrams_stay_inside_their_text() -> None:
    hashes = np.array([1, 2, 3, 1, 2, 3, 4], np.uint64)
    found, begins = ngrams(hashes, np.array([3, 3, 7]), 3)
    assert begins.tolist() == [0, 3, 4]
    assert found[0] == found[1] != found[2]


@settings(max_examples=50)
@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=6))
def test_similarity_is_jaccard_of_word_trigrams(texts: list[str]) -> None:
    def shingles(text: str) -> set[tuple[str, ...]]:
        found = words(tokens(text))
        return {tuple(found[i : i + 3]) for i in range(max(len(found) - 2, 1))} if found else set()

    made = sketch([str(i) for i in range(len(texts))], texts, ["s"] * len(texts), Bands(2, 2))
    sizes = np.diff(made.shingle_ends, prepend=0)
    assert sizes.tolist() == [len(shingles(text)) for text in texts]
    places = np.flatnonzero(sizes)
    a, b = np.repeat(places, len(places)), np.tile(places, len(places))
    for i, j, similar in zip(a, b, near.jaccard(made, a, made, b), strict=True):
        left, right = shingles(texts[i]), shingles(texts[j])
        assert similar == pytest.approx(len(left & right) / len(left | right))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (LONG, "en"),
        ("Ein Bauer hat 12 Kühe und verkauft 3 davon. Wie viele Kühe hat er noch?", "de"),
        ("农夫有十二头牛，卖掉三头。他还剩多少头牛？", "zh"),
        (r"$\frac{1}{2} + x^2 = 3$", "und"),
        ("12 + 5", "und"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert language(text) == code


def write(**runs: Sequence[str | Problem]) -> dict[str, Problem]:
    """Writes runs of problems; returns question -> problem."""
    found = {}
    for name, given_ in runs.items():
        rows = [world.problem(q) if isinstance(q, str) else q for q in given_]
        world.write("problems", name, rows)
        found |= {row.question: row for row in rows}
    return found


def examine(tests: str = "", **given_: Any) -> list[dict[str, Any]]:
    """Builds `quality.clean` of `train` against some runs; returns the findings."""
    row = {"problems": "train", "against": AGAINST | dict(zip("abcd", tests.split(), strict=False))} | given_
    problems = dict.fromkeys(("train", *tests.split()), world.PROBLEMS)
    world.write_params(problems=problems, quality={"clean": row})
    execute("quality", "clean", quality.run)
    return world.read("findings", "clean")


def kept() -> set[str]:
    return {row["question"] for row in world.read("problems", "clean")}


def test_nothing_is_found_among_different_problems(workspace: Any) -> None:
    write(train=[LONG, OTHER, "What is 3 + 4?"], test=["How tall is the tower of the town hall?"])
    assert examine("test", drop=["duplicate", "near_duplicate", "contaminated"]) == []
    assert kept() == {LONG, OTHER, "What is 3 + 4?"}
    assert world.rejects("quality", "clean") == []


def test_of_copies_in_the_run_the_first_stays(workspace: Any) -> None:
    copies = [LONG, LONG.upper(), LONG.replace(" ", "  ") + "!"]
    made = write(train=[*copies, OTHER])
    first, *rest = sorted(made[text].problem_id for text in copies)
    rows = examine(drop=["duplicate"])
    assert [(r["problem_id"], r["other_problem_id"], r["kind"], r["reason"]) for r in rows] == [
        (identity, first, "duplicate", "duplicate") for identity in rest
    ]
    assert {(r["other_run"], r["similarity"], r["passage"], r["dropped"]) for r in rows} == {("train", 1.0, None, True)}
    assert {row["problem_id"] for row in world.read("problems", "clean")} == {first, made[OTHER].problem_id}
    assert world.rejects("quality", "clean") == [
        (identity, None, "duplicate", f"duplicate of {first} in train (1.00)") for identity in rest
    ]


def test_without_drop_there_are_findings_and_all_problems(workspace: Any) -> None:
    write(train=[LONG, LONG.upper()])
    (row,) = examine()
    assert row["dropped"] is False
    assert kept() == {LONG, LONG.upper()}
    assert world.rejects("quality", "clean") == []


def test_near_duplicates_have_their_similarity(workspace: Any) -> None:
    made = write(train=[LONG, LONG.replace("river", "sea"), OTHER])
    (row,) = examine(drop=["near_duplicate"])
    total = len(words(tokens(LONG))) - 2
    assert (row["kind"], row["reason"]) == ("near_duplicate", "near_duplicate")
    assert row["similarity"] == pytest.approx((total - 1) / (total + 1), abs=1e-6)
    assert len(kept()) == 2
    assert made[OTHER].question in kept()
    assert examine(similarity=0.95) == []


@pytest.mark.parametrize(
    ("test", "kinds"),
    [
        (LONG, {"duplicate", "shared_ngram"}),
        (LONG.casefold().replace(",", " ,"), {"duplicate", "shared_ngram"}),
        (LONG.replace("12", "13"), {"near_duplicate", "shared_ngram"}),
        (f"Read this first, it is long enough to hide the rest of what there is. {LONG} Now answer with one number.",
         {"shared_ngram"}),
        (" ".join(LONG.split()[:9]), {"shared_ngram"}),
        (" ".join(LONG.split()[:7]), set()),
        (" ".join(reversed(LONG.split())), set()),
    ],
)  # fmt: skip
def test_test_problems_are_found_in_training_problems(workspace: Any, test: str, kinds: set[str]) -> None:
    made = write(train=[LONG, OTHER], test=["What else?", test], others=["Nothing of it."])
    rows = examine("others test", drop=["contaminated"])
    assert {row["kind"] for row in rows} == kinds
    assert {(r["problem_id"], r["other_run"], r["other_problem_id"], r["reason"]) for r in rows} <= {
        (made[LONG].problem_id, "test", made[test].problem_id, "contaminated")
    }
    assert kept() == ({OTHER} if kinds else {LONG, OTHER})
    assert [reason for _, _, reason, _ in world.rejects("quality", "clean")] == ["contaminated"] * bool(kinds)


def test_a_shared_passage_is_shown_with_how_much_it_covers(workspace: Any) -> None:
    begins = LONG.split(", and sells")[0]
    test = f"{begins}, and keeps 3 of the cows for a friend who lives behind an old mill by his road."
    write(train=[LONG], test=[test])
    rows = {row["kind"]: row for row in examine("test", ngram=8, coverage=0)}
    found = rows["shared_ngram"]
    assert found["passage"] == "a farmer has 12 cows and 7 sheep and"
    assert found["similarity"] == pytest.approx(9 / len(words(tokens(test))), abs=1e-6)
    assert examine("test", ngram=8) == []


def test_a_phrase_of_the_test_set_contaminates_nothing(workspace: Any) -> None:
    phrase = "Solve this problem with care and write down each of your steps so that we can follow them:"
    write(train=[f"{phrase} {OTHER}"], test=[f"{phrase} what is {i} times {i + 1}?" for i in range(11)])
    assert examine("test") == []
    write(test=[f"{phrase} what is {i} times {i + 1}?" for i in range(10)])
    assert [row["kind"] for row in examine("test")] == ["shared_ngram"]


def test_problems_with_more_candidates_than_are_compared_are_counted(
    workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "In a box are red and blue balls of two sizes and I take some of them out, so how many are left"
    test = [f"{template} {name} {'x' * (n + 1)} y{n} z{n}?" for n, name in enumerate("abcdefgh")]
    alike = f"{template} of"
    monkeypatch.setattr(quality, "bands_for", lambda _: Bands(16, 1))
    unsure = []
    for similarity, crowd in ((0.95, 8), (0.95, 7), (0.5, 7)):
        monkeypatch.setattr(near, "CROWD", crowd)
        write(train=[alike, OTHER], test=test)
        examine("test", similarity=similarity)
        rows = {row["problems_run"]: row["n_unsure"] for row in world.read("text_statistics", "clean")}
        unsure.append(rows)
    assert unsure == [{"train": 0, "test": 0}, {"train": 1, "test": 0}, {"train": 0, "test": 0}]


def test_options_are_part_of_a_question(workspace: Any) -> None:
    def choice(*options: str) -> Problem:
        made = world.problem(f"Which of these is right? {options[0]}").model_dump()
        return Problem.model_validate(made | {"question": "Which of these is right?", "choices": list(options)})

    a, b = choice("the red one that is old", "blue"), choice("a green one which is new", "grey")
    write(train=[a, b])
    assert examine() == []


def test_problems_without_words_are_no_near_duplicates(workspace: Any) -> None:
    write(train=["+ - *", "* - +", "?!", "…"])
    assert [row["kind"] for row in examine()] == ["duplicate"]


def test_a_problem_is_rejected_once(workspace: Any) -> None:
    made = write(train=[LONG, LONG.upper()], test=[LONG.lower()])
    rows = examine("test", drop=["contaminated", "duplicate"])
    second = max(made[LONG].problem_id, made[LONG.upper()].problem_id)
    assert len(rows) == 5
    assert [(identity == second, reason) for identity, _, reason, _ in world.rejects("quality", "clean")] in (
        [(False, "contaminated"), (True, "duplicate")],
    )
    assert kept() == set()


def test_statistics_by_run_source_and_language(workspace: Any) -> None:
    german = "Ein Bauer hat 12 Kühe und verkauft 3 davon. Wie viele Kühe hat er noch?"
    write(train=[LONG, LONG.upper(), german], test=[OTHER])
    examine("test", drop=["duplicate"])
    rows = {(r["problems_run"], r["source"], r["language"]): r for r in world.read("text_statistics", "clean")}
    assert set(rows) == {("train", "made", "en"), ("train", "made", "de"), ("test", "made", "en")}
    english = rows["train", "made", "en"]
    assert (english["n"], english["n_dropped"], rows["test", "made", "en"]["n_dropped"]) == (2, 1, 0)
    assert english["chars_median"] == english["chars_max"] == len(LONG)
    assert english["words_p90"] == len(words(tokens(LONG)))


def test_an_empty_run_has_empty_tables(workspace: Any) -> None:
    write(train=[], test=[])
    assert examine("test") == []
    assert world.read("text_statistics", "clean") == []


APPLES = "{} has {} apples and buys {} more of them at the market on the way home, how many does she have?"
NAMES = ["Ann", "Bob", "Cleo", "Dan", "Eve"]


def in_parts(function: Any, stage: Any, rows: int) -> Any:
    """As `by_range`, in this process."""
    for part in divided(stage.scope, 5):
        yield from function(stage.narrowed(part, []))


def test_parts_do_not_matter(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [APPLES.format(name, i, i * 3) for name in NAMES for i in range(20)]
    write(train=train, test=train[::7])
    whole = examine("test")
    monkeypatch.setattr(quality, "by_range", in_parts)
    assert examine("test") == whole
    assert {row["problem_id"] for row in whole if row["kind"] == "duplicate"} == {
        world.problem(question).problem_id for question in train[::7]
    }


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [APPLES.format(name, i, i * 3) for name in NAMES for i in range(20)]
    write(train=train, test=train[::7])
    alone = examine("test")
    monkeypatch.setattr("builders.parallel.MIN_ROWS", 30)
    monkeypatch.setenv("PAIRWRIGHT_WORKERS", "2")
    assert examine("test") == alone


def test_the_store_finds_the_problems_of_findings_that_were_dropped(workspace: Any) -> None:
    write(train=[LONG, LONG.upper()], test=[LONG.lower()])
    examine("test", drop=["contaminated", "duplicate"])
    with Store.open() as store:
        found = [v for v in store.check() if v.table in ("findings", "problems", "text_statistics")]
        assert found == []
        sources = store.sql(
            "select input_run from run_sources where \"table\" = 'findings' and input_table = 'problems'"
        )
        assert {run for (run,) in sources.fetchall()} == {"clean", "train", "test"}


def test_the_report_says_what_was_found(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "CROWD", 0)
    test = f"{LONG} Then say <b>why</b>, in as many words as you like, and what you would do with what is left."
    write(train=[LONG, LONG.upper(), OTHER, test.replace("12", "13")], test=[test])
    examine("test", drop=["duplicate"])
    with Store.open() as store:
        views = Views(Duck(), store.params, store.files)
        views.provide("findings text_statistics")
        measured = measure_quality(views.duck, store.params)
    assert {name: measured["clean"][name] for name in ("problems", "n", "n_dropped", "n_unsure")} == {
        "problems": "train", "n": 4, "n_dropped": 1, "n_unsure": 3
    }  # fmt: skip
    counts = [(row["kind"], row["other_run"], row["n"], row["n_dropped"]) for row in measured["clean"]["findings"]]
    assert counts == [("duplicate", "train", 1, 1), ("shared_ngram", "test", 3, 0)]
    page = str(quality_tables(measured))
    assert "3 problems of clean have no near-duplicate in a test set" in page
    assert re.search("shared_ngram<.*>test<.*>3<.*>75.0", page)


QUALITY = {"clean": {"problems": "train", "against": AGAINST | {"a": "test"}}}
PROBLEMS = dict.fromkeys(("train", "test"), world.PROBLEMS)


def params(**sections: Any) -> dict[str, Any]:
    return EMPTY | {"problems": PROBLEMS, "quality": QUALITY} | sections


def test_prompts_may_ask_what_was_kept() -> None:
    prompts = {"clean": world.PROMPTS | {"problems": "clean"}}
    assert parse_params(yaml.safe_dump(params(prompts=prompts))).prompts["clean"].problems == "clean"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rewards": {"r": {"predictions": "p", "problems": "clean"}}},
         "rewards.r.problems: 'clean' is of quality, which has no answers (name 'train', which it was made of)"),
        ({"samples_gold": {"g": {"problems": "twice", "ending": "", "model": "none"}},
          "quality": QUALITY | {"twice": {"problems": "clean", "against": AGAINST}}},
         "samples_gold.g.problems: 'twice' is of quality, which has no solutions (name 'train', which it was made of)"),
        ({"quality": {"clean": {"problems": "train", "against": AGAINST | {"b": "train"}}}},
         "quality.clean: against: 'train' is what is examined"),
        ({"quality": {"clean": {"problems": "train", "against": AGAINST | {"b": "test", "d": "test"}}}},
         "quality.clean: against: 'test' is named twice; name each run once"),
        ({"quality": {"train": {"problems": "test", "against": AGAINST}}},
         "quality.train: table 'problems' already has a run 'train' from 'problems'; rename one"),
        ({"quality": {"clean": {"problems": "train", "against": AGAINST, "drop": ["ugly"]}}}, "quality.clean.drop.0: "),
        ({"quality": {"clean": {"problems": "train"}}}, "quality.clean.against: missing"),
    ],
)  # fmt: skip
def test_a_mistake_in_params_names_the_remedy(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_params(yaml.safe_dump(params(**sections)))
    assert any(message in line for line in str(error.value).splitlines()), error.value
