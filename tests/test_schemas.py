"""Row classes: the Arrow schemas and SQL checks that are derived from them, and deterministic ids."""

import hashlib
from typing import Annotated, Any, ClassVar, Literal

import annotated_types as at
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from schemas import TABLES, Chat, Pair, Prompt, Row, Sample, arrow_schema, column_checks
from schemas.base import Int8, Int32
from schemas.ids import MAX_INDEX, digest, problem_id, prompt_id, sample_id, text_hash
from stores.duck import Duck
from tests import small_store


class Toy(Row):
    """One row per toy: a column of every kind."""

    table: ClassVar = "toys"
    key: ClassVar = ("name",)
    sql_checks: ClassVar = {"low is below high": "low < high"}

    name: Annotated[str, at.Len(2, 4)] = Field(description="name")
    nick: Annotated[str, at.MinLen(2)] | None = Field(description="nick")
    kind: Literal["ball", "child's"] = Field(description="kind")
    low: Annotated[Int32, at.Ge(0)] = Field(description="low")
    high: Annotated[float, at.Le(10)] = Field(description="high")
    tiny: Int8 | None = Field(default=None, description="tiny")
    big: int | None = Field(default=None, description="big")
    flags: list[bool] = Field(default=[], description="flags")
    chats: list[Chat] | None = Field(default=None, description="chats")


TOY: dict[str, Any] = {"name": "abc", "nick": None, "kind": "ball", "low": 1, "high": 2.5}


def test_the_arrow_schema_follows_the_annotations() -> None:
    chat = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = arrow_schema(Toy)
    assert schema.remove_metadata() == pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            pa.field("nick", pa.string()),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("low", pa.int32(), nullable=False),
            pa.field("high", pa.float64(), nullable=False),
            pa.field("tiny", pa.int8()),
            pa.field("big", pa.int64()),
            pa.field("flags", pa.list_(pa.field("element", pa.bool_())), nullable=False),
            pa.field("chats", pa.list_(pa.field("element", chat))),
        ]
    )
    assert schema.metadata == {b"pairwright.schema_version": b"1", b"pairwright.table": b"toys"}


def test_the_schema_of_samples_is_written_out() -> None:
    assert [(f.name, str(f.type), f.nullable) for f in arrow_schema(Sample)][-7:] == [
        ("text_hash", "string", False),
        ("n_chars", "int32", False),
        ("n_tokens", "int32", True),
        ("n_prompt_tokens", "int32", True),
        ("token_ids", "list<element: int32>", True),
        ("finish_reason", "string", False),
        ("logprobs", "list<element: float>", True),
    ]


@pytest.mark.parametrize(
    ("update", "broken"),
    [
        ({}, []),
        ({"name": "a"}, ["name: length"]),
        ({"name": "abcde"}, ["name: length"]),
        ({"nick": "x"}, ["nick: length"]),
        ({"kind": "child's"}, []),
        ({"kind": "doll"}, ["kind: one of its values"]),
        ({"low": -1}, ["low >= 0"]),
        ({"high": 10.5}, ["high <= 10"]),
        ({"low": 3}, ["low is below high"]),
        ({"low": -1, "high": -2.0}, ["low >= 0", "low is below high"]),
    ],
)
def test_the_sql_checks_find_what_the_row_class_forbids(update: dict[str, Any], broken: list[str]) -> None:
    values: dict[str, Any] = {**TOY, "tiny": None, "big": None, "flags": [], "chats": None, **update}
    row = Toy.model_construct(None, **values)
    with Duck() as duck:
        duck.register("t", pa.Table.from_pylist([row.model_dump(warnings=False)], schema=arrow_schema(Toy)))
        found = [n for n, p in column_checks(Toy).items() if duck.table(f"from t where not ({p})").num_rows]
    assert found == broken
    valid = not set(broken) - {"low is below high"}  # a rule across columns is SQL only
    if valid:
        Toy.model_validate({**TOY, **update})
    else:
        with pytest.raises(ValidationError):
            Toy.model_validate({**TOY, **update})


def test_rows_are_frozen_and_closed() -> None:
    toy = Toy.model_validate(TOY)
    with pytest.raises(ValidationError):
        toy.low = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Toy.model_validate({**TOY, "colour": "red"})


def test_a_column_is_one_type_or_none() -> None:
    class Mixed(Row):
        value: int | str

    with pytest.raises(AssertionError, match="a column is one type or None"):
        arrow_schema(Mixed)


@pytest.mark.parametrize("row_class", TABLES.values(), ids=TABLES)
def test_every_table_is_whole(row_class: type[Row]) -> None:
    fields = row_class.model_fields
    assert TABLES[row_class.table] is row_class
    assert (row_class.__doc__ or "").startswith("One row per ")
    assert all(info.description for info in fields.values())
    assert row_class.key
    assert {*row_class.key, *row_class.dictionary, *row_class.references} <= set(fields)
    assert set(row_class.references.values()) <= set(TABLES)
    assert not arrow_schema(row_class).field(row_class.key[0]).nullable or not row_class.unique


@pytest.mark.parametrize("row_class", TABLES.values(), ids=TABLES)
def test_checks_of_every_table_are_sql(row_class: type[Row]) -> None:
    with Duck() as duck:
        duck.register("t", arrow_schema(row_class).empty_table())
        for predicate in column_checks(row_class).values():
            assert duck.table(f"from t where not ({predicate})").num_rows == 0


def test_references_point_at_the_first_key_column() -> None:
    """`stores.checks` looks a reference up by the first column of the other table's key."""
    for row_class in TABLES.values():
        for column, target in row_class.references.items():
            assert column.endswith(TABLES[target].key[0])


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_ids_are_the_same_on_every_machine() -> None:
    """They are hashes of these very bytes."""
    problem = problem_id("gsm8k", "What is 1 + 1 é?", None)
    prompt = prompt_id(problem, [{"role": "user", "content": "Q"}], "Let", "chat")
    assert problem == sha('["gsm8k","What is 1 + 1 é?",null]')[:16]
    assert prompt == problem + "-" + sha('[[{"content":"Q","role":"user"}],"Let","chat"]')[:8]
    assert sample_id(prompt, "0123456789abcdef", 7) == f"{prompt}-01234567-0007"
    assert text_hash("8 é") == sha("8 é")[:16]


def test_ids_hash_all_that_they_stand_for() -> None:
    assert len({problem_id(*given) for given in PROBLEMS}) == len(PROBLEMS)
    assert len({prompt_id("p", *given) for given in PROMPTS}) == len(PROMPTS)


PROBLEMS = [
    ("a", "q", None),
    ("b", "q", None),
    ("a", "r", None),
    ("a", "q", []),
    ("a", "q", ["x"]),
    ("a", "q", ["x", "y"]),
]
USER, SYSTEM = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
PROMPTS = [
    ([USER], "", "chat"),
    ([USER], "", "text"),
    ([USER], "x", "chat"),
    ([SYSTEM], "", "chat"),
    ([USER, USER], "", "chat"),
]


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=4))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))
    assert digest(value, 40).startswith(digest(value))


@pytest.mark.parametrize("index", [-1, MAX_INDEX])
def test_an_index_that_the_width_cannot_sort_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="a prompt takes at most 10000 samples"):
        sample_id("p", "0" * 16, index)


def test_ids_sort_as_their_parts_do() -> None:
    ids = [sample_id("p", "f" * 16, i) for i in (0, 9, 10, 999, 9999)]
    assert ids == sorted(ids)


def test_ids_of_real_rows_fit_their_types() -> None:
    """The least lengths of the id types are those that the functions make."""
    rows = small_store.rows()
    for row in [
        *rows["prompts", "train"],
        *rows["samples", "irpo_0"],
        *rows["samples", "gold"],
        *rows["pairs", "irpo_0"],
    ]:
        type(row).model_validate(row.model_dump())
    with pytest.raises(ValidationError):
        Prompt.model_validate(rows["prompts", "train"][0].model_dump() | {"prompt_id": "0" * 24})
    with pytest.raises(ValidationError):
        Pair.model_validate(rows["pairs", "irpo_0"][0].model_dump() | {"rank": -1})
