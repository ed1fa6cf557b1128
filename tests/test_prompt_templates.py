"""Templates become messages: literal filling, options, a user's own files, demonstrations as turns or as text."""

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.prompts import Template, build, fill, load_template, messages_of
from schemas.ids import prompt_id
from tests.test_prompts import CHOICE, PLAIN, demonstration

# --- templates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["final_answer", "boxed", "question_answer"])
def test_shipped_templates(name: str) -> None:
    template, label = load_template(name)
    assert label.startswith(f"{name}@")
    assert len(label) == len(name) + 9
    (message,) = messages_of(template, "What is {choices} of {question}?", None, [], "chat")
    assert message["content"].count("What is {choices} of {question}?") == 1
    assert template.style == "natural"
    assert template.prefill == ""


def test_question_answer_text() -> None:
    template, _ = load_template("question_answer")
    (message,) = messages_of(template, "How many?", None, [], "text")
    assert message == {"role": "user", "content": "Question: How many?\nAnswer:\n"}


@pytest.mark.parametrize("options", [3, 4, 5])
def test_choice_final_answer_lists_the_options_that_a_problem_has(options: int) -> None:
    template, _ = load_template("choice_final_answer")
    (message,) = messages_of(template, "Which?", [f"option {i}" for i in range(options)], [], "chat")
    assert re.findall(r"^\((\w)\) option", message["content"], re.MULTILINE) == list("ABCDE"[:options])
    assert message["content"].endswith("Final answer: (letter)")


@pytest.mark.parametrize(
    ("name", "choices", "style", "asked", "prefill"),
    [
        ("reft_natural", None, "natural", "Question:\nHow?\nAnswer reasoning:\n", ""),
        ("reft_program", None, "program", "Question:\nHow?\nAnswer reasoning:\n", ""),
        ("reft_natural_choice", ["1", "2"], "natural", "Question:\nHow?\n(A) 1\n(B) 2\nAnswer reasoning:\n", ""),
        ("reft_program_choice", ["1", "2"], "program", "Question:\nHow?\n(A) 1\n(B) 2\nAnswer reasoning:\n", ""),
        (
            "reft_program_start", None, "program", "Question:\nHow?\nAnswer reasoning:\n",
            'def solution():\n    """How?"""\n',
        ),
        (
            "reft_program_choice_start", ["1", "2"], "program", "Question:\nHow?\n(A) 1\n(B) 2\nAnswer reasoning:\n",
            'def solution():\n    """How?\n(A) 1\n(B) 2"""\n',
        ),
        ("weak_to_strong", None, "natural", "Question: How?\nAnswer:", ""),
    ],
)  # fmt: skip
def test_templates_of_the_papers(name: str, choices: list[str] | None, style: str, asked: str, prefill: str) -> None:
    (prompt,) = build([{"problem_id": "0" * 16, "question": "How?", "choices": choices}], load_template(name), "text")
    assert [message.content for message in prompt.messages] == [asked]
    assert (prompt.style, prompt.prefill) == (style, prefill)
    assert prompt.prompt_id == prompt_id("0" * 16, [{"role": "user", "content": asked}], prefill, "text")


def test_step_dpo_begins_the_first_step() -> None:
    template, _ = load_template("step_dpo")
    assert template.prefill == "Let's think step by step.\nStep 1: "
    assert r"\boxed{}" in template.user


def test_prefills_are_filled_in_demonstrations_too() -> None:
    template = Template(style="program", user="{question}", prefill="# {question}\n")
    shown_first, answered, asked = messages_of(template, "how?", None, [demonstration(1)], "chat")
    assert (shown_first["content"], asked["content"]) == ("question 1", "how?")
    assert answered["content"] == "# question 1\nanswer 1"


HEAD, BODY = 'def solution():\n    """question 1"""\n', "    legs = 2 * 4\n    return legs"
OTHER_HEAD = 'def solution():\n    """Question  1."""\n'
PROGRAMS = [
    # the template, a demonstration's text, what is shown
    ("reft_program_start", BODY, HEAD + BODY),
    ("reft_program_start", HEAD + BODY, HEAD + BODY),
    ("reft_program_start", OTHER_HEAD + BODY, OTHER_HEAD + BODY),
    ("reft_program", HEAD + BODY, HEAD + BODY),
]


@pytest.mark.parametrize(("name", "text", "expected"), PROGRAMS)
def test_programs_are_shown_whole_and_once(name: str, text: str, expected: str) -> None:
    """Whether a run's gold programs have their head or leave it to the prompt."""
    shown = demonstration(1)._replace(completion=text)
    template, _ = load_template(name)
    messages = messages_of(template, "how?", None, [shown], "chat")
    asked = "Question:\n{}\nAnswer reasoning:\n"
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", asked.format("question 1")), ("assistant", expected), ("user", asked.format("how?")),
    ]  # fmt: skip
    joined = "".join(m["content"] for m in messages_of(template, "how?", None, [shown], "text"))
    assert joined == f"{asked.format('question 1')}{expected}\n\n{asked.format('how?')}"


def test_the_body_of_a_program_alone_is_no_demonstration() -> None:
    shown = demonstration(1)._replace(completion=BODY)
    with pytest.raises(
        ValueError, match=r"demo_samples: sample sample 1 is the body of a function without its head; use"
    ):
        messages_of(load_template("reft_program")[0], "how?", None, [shown], "chat")


def test_a_completion_that_has_the_start_is_not_given_it_again() -> None:
    shown = demonstration(1, choices=["1", "2"])._replace(completion="Let us see. It is 2.")
    _, _, answered, _ = messages_of(CHOICE, "how?", ["1", "2"], [shown], "chat")
    assert answered["content"] == "Let us see. It is 2."


# --- a user's own templates --------------------------------------------------------------------------------------

FEW_SHOT = "style: natural\nuser: '{question} ...'\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with the template `few_shot`; returns its name."""
    name = f"user_templates_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name / "prompts").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "few_shot.yaml").write_text(FEW_SHOT)
    (tmp_path / name / "prompts" / "inner.yaml").write_text("user: nothing asked\nstyle: natural")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_template_of_ones_own(package: str) -> None:
    stated = f"{package}:few_shot@{hashlib.sha256(FEW_SHOT.encode()).hexdigest()[:8]}"
    template, label = load_template(stated)
    assert (template.user, label) == ("{question} ...", stated)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{package}:few_shot", "write '{package}:few_shot@{hash}', the hash of the file .*have no hash"),
        ("{package}:few_shot@", "write '{package}:few_shot@{hash}', .* \\(have no hash\\)"),
        ("{package}:few_shot@01234567", "write '{package}:few_shot@{hash}', .* \\(have '01234567'\\)"),
        ("{package}:fewshot@{hash}", "the package '{package}' has no 'fewshot.yaml' \\(did you mean 'few_shot'"),
        ("{package}:other", "the package '{package}' has no 'other.yaml' \\(have few_shot\\)"),
        ("no_such_package_here:few_shot", "cannot import the package 'no_such_package_here'; install it"),
        (":few_shot", "cannot import the package ''"),
        ("{package}.prompts:inner@1261d64d", "{package}.prompts/inner.yaml asks nothing"),
    ],
)
def test_mistakes_in_naming_ones_own_template(package: str, name: str, message: str) -> None:
    known = {"package": package, "hash": hashlib.sha256(FEW_SHOT.encode()).hexdigest()[:8]}
    with pytest.raises(ValueError, match=message.format(**known)):
        load_template(name.format(**known))


def test_boxed_keeps_other_braces() -> None:
    template, _ = load_template("boxed")
    assert r"\boxed{}" in messages_of(template, "$1$?", None, [], "chat")[0]["content"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("style: natural\nuser: hello", "template: x.yaml asks nothing: `user` needs {question}"),
        ("style: natural\nuser: '{question}'\nprefil: a", "template: x.yaml is no template: .*prefil"),
        ("user: '{question}'", "template: x.yaml is no template: .*style"),
        ("a: [", "template: x.yaml is no template"),
        ("", "template: x.yaml is no template"),
    ],
)
def test_bad_templates(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_template("x", tmp_path)
    assert "\n" not in str(error.value)


def test_unknown_templates_are_guessed() -> None:
    with pytest.raises(ValueError, match=r"no 'final_anwser' in builders/templates \(did you mean 'final_answer'\?\)"):
        load_template("final_anwser")
    with pytest.raises(ValueError, match=r"\(have boxed, choice_final_answer, final_answer, "):
        load_template("zzz")


@given(question=st.text(), choices=st.lists(st.text(), min_size=1, max_size=5))
def test_filling_is_literal(question: str, choices: list[str]) -> None:
    filled = fill("<{question}|{other}|{}|{choices}>", question=question, choices="".join(choices))
    assert filled == f"<{question}|{{other}}|{{}}|{''.join(choices)}>"


# --- messages ----------------------------------------------------------------------------------------------------


def test_chat_demonstrations_are_turns() -> None:
    demos = [demonstration(1, choices=["x", "y"]), demonstration(2, choices=["z"])]
    assert messages_of(CHOICE, "which?", ["1", "2", "3"], demos, "chat") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question 1\n(A) x\n(B) y"},
        {"role": "assistant", "content": "Let us see. answer 1"},
        {"role": "user", "content": "question 2\n(A) z"},
        {"role": "assistant", "content": "Let us see. answer 2"},
        {"role": "user", "content": "which?\n(A) 1\n(B) 2\n(C) 3"},
    ]


def test_text_demonstrations_are_joined() -> None:
    template = Template(style="natural", system="Solve.", user=PLAIN.user, demo="{completion} END", separator="\n###\n")
    messages = messages_of(template, "how?", None, [demonstration(1)], "text")
    assert "".join(message["content"] for message in messages) == (
        "Solve.\n###\nQ: question 1\nA:\nanswer 1 END\n###\nQ: how?\nA:\n"
    )


def test_options_and_templates_go_together() -> None:
    with pytest.raises(ValueError, match="template: it leaves out the problem's options; use another template"):
        messages_of(PLAIN, "which?", ["a"], [], "chat")
    with pytest.raises(ValueError, match=r"template: it shows \{choices\}, which the problem has not"):
        messages_of(CHOICE, "which?", None, [], "chat")
