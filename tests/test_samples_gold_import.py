"""The stages `samples_gold` and `samples_import`."""

import csv
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import pairs_outcome, prompts, samples_gold, samples_import
from builders import problems as make_problems
from builders.checkers.program import ReftProgramChecker
from builders.model_files import load_tokenizer, write_record
from builders.models import initialise
from builders.steps import split_steps
from schemas import Reward, Sample, Solution
from schemas.ids import digest, sample_id, text_hash
from stores.paths import run_dir
from stores.stage import execute
from tests import stage_world as world

CATS, SUM, HARD = world.problem("Legs of 2 cats?"), world.problem("  What is\n3 + 4? "), world.problem("Is P = NP?")
PROMPTS = {p.problem_id: world.prompt(p) for p in (CATS, SUM)}
TINY = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip
ENDING = "\n#### {answer} {x}"


def write_tokenizer(directory: Path) -> None:
    """A model directory with a tokenizer of whitespace words, which would truncate and pad if it were let."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    directory.mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(directory / "tokenizer.json"))


def gold(model: str = "none", ending: str = ENDING) -> None:
    world.write_params(samples_gold={"gold": {"problems": "train", "ending": ending, "model": model}})
    execute("samples_gold", "gold", samples_gold.run)


@pytest.fixture
def problems(workspace: Path) -> None:
    world.write("problems", "train", [CATS, SUM, HARD])
    world.write("answers", "train", [world.answer(CATS, "8"), world.answer(SUM, "7")])
    world.write("prompts", "train", list(PROMPTS.values()))
    world.write(
        "solutions",
        "train",
        [world.solution(CATS, "2 × 4 {y}"), world.solution(CATS, "4 + 4", 1), world.solution(SUM, "3 + 4 = 7")],
    )


def test_gold_solutions_become_samples_with_their_ending(problems: None) -> None:
    gold()
    found = {(row["problem_id"], row["index"]): row for row in world.read("samples", "gold")}
    assert {key: row["text"] for key, row in found.items()} == {
        (CATS.problem_id, 0): "2 × 4 {y}\n#### 8 {x}",
        (CATS.problem_id, 1): "4 + 4\n#### 8 {x}",
        (SUM.problem_id, 0): "3 + 4 = 7\n#### 7 {x}",
    }
    fingerprint = digest(["gold", "natural", ENDING])
    for (problem, index), row in found.items():
        assert row == row | {
            "sample_id": sample_id(problem, fingerprint, index), "prompt_id": None, "model": "gold",
            "model_fingerprint": "gold", "temperature": None, "seed": None, "finish_reason": "stop",
            "text_hash": text_hash(row["text"]), "n_chars": len(row["text"]), "n_tokens": None, "token_ids": None,
        }  # fmt: skip
    assert world.rejects("samples_gold", "gold") == [(HARD.problem_id, None, "no_solution", "")]


def test_gold_tokens_count_the_ending(problems: None) -> None:
    write_tokenizer(run_dir("models", "base"))
    gold(model="base")
    assert {row["text"]: row["n_tokens"] for row in world.read("samples", "gold")} == {
        "2 × 4 {y}\n#### 8 {x}": 8,
        "4 + 4\n#### 8 {x}": 7,
        "3 + 4 = 7\n#### 7 {x}": 9,
    }


def test_a_model_without_a_tokenizer_is_named(problems: None) -> None:
    run_dir("models", "base").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not there; name a model with a tokenizer"):
        gold(model="base")


def test_a_solution_without_a_gold_answer_needs_none_if_the_ending_does_not(problems: None) -> None:
    world.write("answers", "train", [world.answer(CATS, "8")])
    gold()
    assert (SUM.problem_id, None, "no_answer", "") in world.rejects("samples_gold", "gold")
    assert {row["problem_id"] for row in world.read("samples", "gold")} == {CATS.problem_id}
    gold(ending="")
    assert [row["text"] for row in world.read("samples", "gold") if row["problem_id"] == SUM.problem_id] == [
        "3 + 4 = 7"
    ]


NUMBERED = [
    # a solution, the same with its steps numbered
    ("4 legs each.\n2 * 4 = 8.", "4 legs each.\nStep 2: 2 * 4 = 8."),
    ("4 legs each.\n\n  2 * 4 = 8. So 8.\n", "4 legs each.\nStep 2: 2 * 4 = 8. So 8."),
    ("One line. It has 3.5 legs, .5 more. So 4!", "One line.\nStep 2: It has 3.5 legs, .5 more.\nStep 3: So 4!"),
    ("It costs $5.  The rest is $6.25. Done.", "It costs $5.\nStep 2: The rest is $6.25.\nStep 3: Done."),
    ("So $x = 3. Y$ holds. \"Yes.\" (It does.) $z$ too.",
     "So $x = 3. Y$ holds.\nStep 2: \"Yes.\"\nStep 3: (It does.)\nStep 4: $z$ too."),
    ("Mr. Tam (e.g. 3) has No. 4, J. Low 5. So 9.", "Mr. Tam (e.g. 3) has No. 4, J. Low 5.\nStep 2: So 9."),
    ("1. Add.  2. Divide.", "1. Add.\nStep 2: 2. Divide."),
    ("\\[\na\n\\]\nSo\n```\nx = 1\ny = 2\n```", "\\[\na\n\\]\nStep 2: So\nStep 3: ```\nx = 1\ny = 2\n```"),
    ("See [asy]\ndraw(a);\ndraw(b);\n[/asy]\nSo 8.", "See [asy]\ndraw(a);\ndraw(b);\n[/asy]\nStep 2: So 8."),
    ("Step 1: Add.\n**Step 2:** Divide.\nStep 7: Done.", "Add.\nStep 2: Divide.\nStep 3: Done."),
    ("one step", "one step"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("solution", "expected"), NUMBERED)
def test_steps_are_numbered_after_the_first(solution: str, expected: str) -> None:
    numbered = samples_gold.number_steps(solution)
    assert numbered == expected
    found = [numbered[step.start : step.end].strip() for step in split_steps("Step 1: ", numbered)]
    assert found == [part.partition(": ")[2] for part in f"Step 1: {numbered}".split("\nStep ") if solution]


def test_numbered_solutions_have_ids_of_their_own_and_end_as_others_do(problems: None) -> None:
    world.write("solutions", "train", [world.solution(CATS, "4 + 4\nis 8."), world.solution(SUM, "It is 7. Yes.")])
    gold()
    plain = {row["problem_id"]: row["sample_id"] for row in world.read("samples", "gold")}
    run = {"problems": "train", "ending": ENDING, "model": "none", "numbered": True}
    world.write_params(samples_gold={"gold": run})
    execute("samples_gold", "gold", samples_gold.run)
    rows = {row["problem_id"]: row for row in world.read("samples", "gold")}
    assert rows[CATS.problem_id]["text"] == "4 + 4\nStep 2: is 8.\n#### 8 {x}"
    assert rows[SUM.problem_id]["text"] == "It is 7.\nStep 2: Yes.\n#### 7 {x}"
    assert all(row["sample_id"] != plain[problem] for problem, row in rows.items())


def test_bare_ones_are_the_ending_alone_with_ids_of_their_own(problems: None) -> None:
    run = {"problems": "train", "ending": "A: {answer}", "model": "none"}
    world.write_params(samples_gold={"gold": run, "bare": run | {"bare": True}})
    for name in ("gold", "bare"):
        execute("samples_gold", name, samples_gold.run)
    gold, bare = world.read("samples", "gold"), world.read("samples", "bare")
    assert [row["text"] for row in bare] == [row["text"][row["text"].rindex("A: ") :] for row in gold]
    assert not {row["sample_id"] for row in gold} & {row["sample_id"] for row in bare}
    world.write_params(samples_gold={"bare": run | {"bare": True, "numbered": True}})
    with pytest.raises(ValueError, match="numbered: `bare` samples have no steps; remove one of the two"):
        execute("samples_gold", "bare", samples_gold.run)


def test_programs_are_not_numbered(problems: None) -> None:
    run = {"problems": "train", "ending": "", "model": "none", "numbered": True, "style": "program"}
    world.write_params(samples_gold={"gold": run})
    with pytest.raises(ValueError, match=r"samples_gold.gold: numbered: the lines of a program are no steps"):
        execute("samples_gold", "gold", samples_gold.run)


BODIES = [
    # a program, the same without its head
    (
        'def solution():\n    """Legs of 2 cats?"""\n    legs = 2 * 4\n    return legs',
        "    legs = 2 * 4\n    return legs",
    ),
    ('def solution():\n    """Legs  of\n2 cats?"""\n    # """no"""\n    return 8', '    # """no"""\n    return 8'),
    ("def solution():\n    return 8", "    return 8"),
    ('def solution():\n    """Legs of 2 cats?"""\n', None),
    ("ans = 8", None),
]


@pytest.mark.parametrize(("program", "body"), BODIES)
def test_the_body_of_a_program_is_what_its_head_leaves(problems: None, program: str, body: str | None) -> None:
    written = Solution(problem_id=CATS.problem_id, style="program", index=0, text=program)
    world.write("solutions", "train", [world.solution(CATS, "2 * 4"), written])
    run = {"problems": "train", "ending": "", "model": "none", "style": "program"}
    world.write_params(samples_gold={"whole": run, "body": run | {"body": True}})
    for name in ("whole", "body"):
        execute("samples_gold", name, samples_gold.run)
    whole, cut = (
        [(row["sample_id"], row["text"]) for row in world.read("samples", name)] for name in ("whole", "body")
    )
    assert [text for _, text in whole] == [program]
    assert [text for _, text in cut] == ([] if body is None else [body])
    assert not {sample for sample, _ in whole} & {sample for sample, _ in cut}
    rejects = world.rejects("samples_gold", "body")
    assert ((CATS.problem_id, None, "no_solution", "") in rejects) == (body is None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"style": "natural"}, "body: only programs have a head to leave out"),
        ({"style": "program", "bare": True}, "body: `bare` samples have no program"),
    ],
)
def test_only_programs_have_a_body(problems: None, fields: dict[str, Any], message: str) -> None:
    run = {"problems": "train", "ending": "", "model": "none", "body": True}
    world.write_params(samples_gold={"gold": run | fields})
    with pytest.raises(ValueError, match=f"samples_gold.gold: {message}"):
        execute("samples_gold", "gold", samples_gold.run)


@pytest.mark.parametrize(("template", "body"), [("reft_program", False), ("reft_program_start", True)])
def test_generated_programs_continue_their_prompts_and_run_to_gold(workspace: Path, template: str, body: bool) -> None:
    """What a model is taught under a prompt is what the checker executes: prefill and text together."""
    made = {"source": "arithmetic", "path": "data/none", "split": "train", "steps": [2, 4], "limit": 60}
    asked = {"template": template, "rendering": "text", "demo_samples": "none", "demo_problems": "none"}
    gold = {"style": "program", "ending": "", "body": body, "model": "none"}
    seeds = {"train": 0, "seed_1": 1, "seed_2": 2}
    world.write_params(
        problems={name: made | {"seed": seed} for name, seed in seeds.items()},
        prompts={name: asked | {"problems": name} for name in seeds},
        samples_gold={f"{name}_gold": gold | {"problems": name} for name in seeds},
    )
    with ReftProgramChecker() as checker:
        for name in seeds:
            execute("problems", name, make_problems.run)
            execute("prompts", name, prompts.run)
            execute("samples_gold", f"{name}_gold", samples_gold.run)
            texts = {row["problem_id"]: row["text"] for row in world.read("samples", f"{name}_gold")}
            prefills = {row["problem_id"]: row["prefill"] for row in world.read("prompts", name)}
            golds = {row["problem_id"]: row["answer"] for row in world.read("answers", name)}
            questions = {row["problem_id"]: row["question"] for row in world.read("problems", name)}
            assert {key: checker.extract(prefills[key], text) for key, text in texts.items()} == golds
            for key, text in texts.items():
                head = f'def solution():\n    """{questions[key]}"""\n'
                assert prefills[key] == (head if body else "")
                assert (prefills[key] + text).startswith(head)
                assert (prefills[key] + text).count("def solution") == 1


def test_numbering_real_solutions_loses_nothing_and_is_read_again(shared_data: Path) -> None:
    count = 0
    for name in ("openai_gsm8k_x4", "qwen25math_math100x8"):
        table = pq.read_table(shared_data / "model_samples" / f"{name}.problems.parquet")
        for solution in table["gold_solution"].to_pylist():
            numbered = samples_gold.number_steps(solution)
            markers = re.findall(r"^Step (\d+): ", numbered, re.MULTILINE)
            assert markers == [str(i) for i in range(2, len(markers) + 2)]
            assert len(split_steps("Step 1: ", numbered)) == len(markers) + 1
            written = re.sub(r"^Step \d+: ", "", numbered, flags=re.MULTILINE)
            assert "".join(written.split()) == "".join(solution.split())
            count += 1
    assert count > 1_400


ROWS = [
    {"q": "Legs of 2 cats?", "out": "It is 8.", "who": "m1", "why": "stop"},
    {"q": "What is\n3 + 4?\n", "out": 'It is 7, "so",\n\u2028 done ü', "who": "m1", "why": "length"},
    {"q": "Legs of 2 cats?", "out": "It is 9.", "who": "m2", "why": None},
    {"q": "Legs of 2 cats?", "out": "It is 8.", "who": "m1", "why": "stop"},
    {"q": "Legs of 9 cats?", "out": "It is 36.", "who": "m1", "why": "stop"},
    {"q": "Legs of 2 cats?", "out": " \n", "who": "m1", "why": "stop"},
    {"q": "Is P = NP?", "out": "No.", "who": "m1", "why": "stop"},
]
COLUMNS = {"question": "q", "text": "out", "model": "who", "finish_reason": "why"}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_jsonl_gz(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def imported(name: str = "file.jsonl", columns: dict[str, str] | None = None, **settings: str) -> None:
    run = {"problems": "train", "prompts": "train", "path": name, "columns": columns or COLUMNS, "model": "none"}
    world.write_params(samples_import={"file": run | settings})
    execute("samples_import", "file", samples_import.run)


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("file.jsonl", write_jsonl),
        ("file.jsonl.gz", write_jsonl_gz),
        ("file.csv", write_csv),
        ("file.parquet", write_parquet),
    ],
)
def test_a_file_becomes_samples_of_its_problems_prompts(
    problems: None, name: str, writer: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    writer(Path(name), ROWS)
    imported(name)
    cats, added = PROMPTS[CATS.problem_id].prompt_id, PROMPTS[SUM.problem_id].prompt_id
    first, second = digest(["import", "m1"]), digest(["import", "m2"])
    found = world.read("samples", "file")
    assert {(r["sample_id"], r["text"], r["model"], r["model_fingerprint"], r["finish_reason"]) for r in found} == {
        (sample_id(cats, first, 0), "It is 8.", "m1", first, "stop"),
        (sample_id(cats, first, 1), "It is 8.", "m1", first, "stop"),
        (sample_id(cats, second, 0), "It is 9.", "m2", second, "stop"),
        (sample_id(added, first, 0), ROWS[1]["out"], "m1", first, "length"),
    }
    assert all(r["n_chars"] == len(r["text"]) and r["text_hash"] == text_hash(r["text"]) for r in found)
    assert sorted(world.rejects("samples_import", "file"), key=lambda r: r[3]) == [
        (None, None, "unknown_problem", "row 5"),
        (CATS.problem_id, None, "empty", "row 6"),
        (HARD.problem_id, None, "unknown_prompt", "row 7"),
    ]
    assert len(found) + 3 == len(ROWS)


def test_without_prompts_samples_answer_problems(problems: None) -> None:
    write_tokenizer(run_dir("models", "base"))
    write_jsonl(Path("file.jsonl"), ROWS)
    imported(prompts="none", model="base")
    found = world.read("samples", "file")
    assert {row["prompt_id"] for row in found} == {None}
    assert {row["text"]: row["n_tokens"] for row in found} == {
        "It is 8.": 4,
        "It is 9.": 4,
        "No.": 2,
        ROWS[1]["out"]: 6,
    }
    assert all(row["sample_id"].startswith(f"{row['problem_id']}-") for row in found)


def counting_model(words: list[str]) -> None:
    """A model directory with a tokenizer that has a chat template."""
    initialise(TINY, words, 0, run_dir("models", "base"), "models.base")
    write_record(run_dir("models", "base"), {"source": "config"})


@pytest.mark.parametrize("rendering", ["text", "chat"])
def test_with_prompts_and_a_model_prompt_tokens_are_counted_as_engines_do(problems: None, rendering: str) -> None:
    asked = world.prompt(CATS, prefill="So 2").model_copy(update={"rendering": rendering})
    world.write("prompts", "train", [asked])
    counting_model([CATS.question, "It is 8. user assistant system: So 2 9"])
    write_jsonl(Path("file.jsonl"), ROWS[:1] + ROWS[2:3])
    imported(model="base")
    tokenizer = load_tokenizer(run_dir("models", "base"))
    text = CATS.question
    if rendering == "chat":
        message = [{"role": "user", "content": text}]
        text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    expected = len(tokenizer.encode(text + "So 2", add_special_tokens=False))
    assert expected > 6
    assert [row["n_prompt_tokens"] for row in world.read("samples", "file")] == [expected] * 2
    imported()
    assert [row["n_prompt_tokens"] for row in world.read("samples", "file")] == [None] * 2


def test_imported_samples_can_be_limited_in_tokens(problems: None) -> None:
    counting_model([CATS.question, SUM.question, "It is 8 9 7. so done"])
    write_jsonl(Path("file.jsonl"), [ROWS[0], ROWS[2]])
    imported(model="base")
    samples = world.read("samples", "file")
    fields = {"checker": "n", "checker_version": "1"}
    verdicts = [{"verdict": "correct", "reward": 1.0}, {"verdict": "wrong", "reward": 0.0}]
    judged = [fields | v | {"sample_id": s["sample_id"]} for s, v in zip(samples, verdicts, strict=True)]
    world.write("rewards", "judged", [Reward.model_validate(row) for row in judged])
    need = max(row["n_tokens"] + row["n_prompt_tokens"] for row in samples)
    for limit, count in ((need, 1), (need - 1, 0)):
        run = {
            "samples": "drawn",
            "rewards": "judged",
            "step_labels": "none",
            "gold": "none",
            "k": 1,
            "max_tokens": limit,
        }
        world.write("samples", "drawn", [Sample.model_validate(row) for row in samples])
        world.write_params(
            predictions={"p": {"samples": "drawn", "prompts": "train", "problems": "train"}},
            rewards={"judged": {"predictions": "p", "problems": "train"}}, pairs_outcome={"o": run},
        )  # fmt: skip
        execute("pairs_outcome", "o", pairs_outcome.run)
        assert len(world.read("pairs", "o")) == count


def test_rows_find_problems_by_id_and_bring_their_index(problems: None) -> None:
    write_csv(
        Path("file.csv"),
        [{"id": CATS.problem_id, "t": "8", "n": "12"}, {"id": CATS.problem_id, "t": "9", "n": "3"}],
    )
    imported("file.csv", {"problem_id": "id", "text": "t", "index": "n"})
    assert [(row["index"], row["text"], row["model"]) for row in world.read("samples", "file")] == [
        (3, "9", "imported"),
        (12, "8", "imported"),
    ]


def test_the_order_of_the_file_only_moves_indices(problems: None) -> None:
    rows = [{"q": q, "out": f"{q} {i}", "n": i} for i in range(300) for q in ("Legs of 2 cats?", "What is\n3 + 4?")]
    columns = {"question": "q", "text": "out", "index": "n"}
    written = []
    for order in (rows, rows[::-1]):
        write_jsonl(Path("file.jsonl"), order)
        imported(columns=columns)
        written.append((run_dir("samples", "file") / "part-00000.parquet").read_bytes())
    assert len(world.read("samples", "file")) == 600
    assert written[0] == written[1]


QUESTIONS = {"question": "q", "text": "out"}
MISTAKES: list[tuple[str, str | bytes, dict[str, str], str]] = [
    ("file.txt", "", COLUMNS, r"file\.txt: not a kind of file that is read"),
    ("none.jsonl", "", COLUMNS, r"none\.jsonl: no such file"),
    ("file.jsonl", '{"q": "a"}', COLUMNS, r"row 1 has no column 'out' \(mapped as `text`; have 'q'\)"),
    ("file.jsonl", '\n{"q": }', COLUMNS, r"row 2 is not JSON"),
    ("file.jsonl", "[1]", COLUMNS, r"row 1 is no JSON object"),
    ("file.jsonl", '{"q": "a", "out": 5}', {"question": "q", "text": "out"}, r"row 1: 'out' is no text but 5"),
    ("file.jsonl", b"\xff\xfe\x00", COLUMNS, r"not readable as UTF-8"),
    ("file.jsonl.gz", b"\x1f\x8b\x08 not really", COLUMNS, r"file\.jsonl\.gz: not readable"),
    ("file.parquet", b"PAR1 no", COLUMNS, r"not a readable Parquet file"),
    ("file.csv", "q,out,i\na,b,x\n", {"question": "q", "text": "out", "index": "i"}, r"row 1: index 'x' is no number"),
    ("file.csv", "q,out,i\na,b,10000\n", {"question": "q", "text": "out", "index": "i"}, r"index '10000'"),
    ("file.jsonl", '{"q": "a", "out": "b"}\n{"q": "a", "out": "\\ud83d"}', QUESTIONS, r"row 2: 'out' has half of"),
    ("file.jsonl", '{"q": "\\udc00", "out": "b"}', QUESTIONS, r"row 1: 'q' has half of"),
    (
        "file.jsonl",
        '{"q": "a", "out": "b", "who": "\\udc00"}',
        QUESTIONS | {"model": "who"},
        r"row 1: 'who' has half",
    ),
    (
        "file.csv",
        "q,out,f\na,b,died\n",
        {"question": "q", "text": "out", "finish_reason": "f"},
        r"row 1: finish_reason",
    ),
    (
        "file.csv",
        "q,out,i\nLegs of 2 cats?,b,1\nLegs of 2 cats?,c,1\n",
        {"question": "q", "text": "out", "index": "i"},
        r"row 2: an earlier row has the same problem, model and index",
    ),
]


@pytest.mark.parametrize(("name", "content", "columns", "message"), MISTAKES)
def test_mistakes_in_a_file_name_the_row(
    problems: None, name: str, content: str | bytes, columns: dict[str, str], message: str
) -> None:
    if not name.startswith("none"):
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message) as error:
        imported(name, columns)
    assert "\n" not in str(error.value)
    assert not run_dir("samples", "file").exists()


def test_several_prompts_of_a_problem_are_an_error(problems: None) -> None:
    world.write("prompts", "train", [*PROMPTS.values(), world.prompt(CATS, words=" Think.")])
    write_jsonl(Path("file.jsonl"), ROWS)
    with pytest.raises(ValueError, match="row 1: its problem has several prompts"):
        imported()


def test_a_question_of_several_problems_is_an_error(problems: None) -> None:
    world.write("problems", "train", [CATS, world.problem("Legs of 2 cats? ")])
    write_jsonl(Path("file.jsonl"), ROWS)
    with pytest.raises(ValueError, match="row 1: its question is that of several problems; map `problem_id`"):
        imported(prompts="none")


def test_more_samples_than_ids_can_number_are_an_error(problems: None) -> None:
    write_jsonl(Path("file.jsonl"), [{"q": "Legs of 2 cats?", "out": "8"}] * 10_001)
    with pytest.raises(ValueError, match="sample index 10000"):
        imported(columns={"question": "q", "text": "out"})
