"""One row class is one table: its Arrow schema and its SQL checks are derived from it.

Evolution rules, so that old versions stay readable:

* a new column is appended at the end and is nullable;
* no column changes its type or its meaning, and none is renamed: add a new one and stop filling the old one;
* a change of a table's columns raises its `version` (stored in every file) and is written down in `CHANGELOG.md`;
* a reader fills columns that an older file lacks with nulls, and refuses columns that it does not know.
"""

import types
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import annotated_types as at
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

Int8 = Annotated[int, pa.int8()]
Int32 = Annotated[int, pa.int32()]
ProblemId = Annotated[str, at.Len(16, 16)]
PromptId = Annotated[str, at.MinLen(25)]
SampleId = Annotated[str, at.MinLen(30)]

_PRIMITIVES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class Row(BaseModel):
    """A row of a table. Subclasses set `table` and `key`; fields are the columns, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    table: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Of the columns; a file says which one it was written with."""
    key: ClassVar[tuple[str, ...]] = ()
    """The columns that every file is sorted by."""
    unique: ClassVar[bool] = True
    """Whether `key` is unique within a run."""
    references: ClassVar[dict[str, str]] = {}
    """Column -> the table whose key it must be found in, followed along `run_inputs`."""
    dictionary: ClassVar[tuple[str, ...]] = ()
    """Columns of few distinct values, which Parquet stores as a dictionary."""
    sql_checks: ClassVar[dict[str, str]] = {}
    """Name -> SQL predicate over one row that must hold (or be null)."""


class Chat(BaseModel):
    """One message of a chat prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The Arrow schema of a table: one field per column, `not null` unless the annotation allows None."""
    fields = [_field(name, info) for name, info in row.model_fields.items()]
    return pa.schema(fields, metadata={"pairwright.schema_version": str(row.version), "pairwright.table": row.table})


def _field(name: str, info: FieldInfo) -> pa.Field:
    override = next((m for m in info.metadata if isinstance(m, pa.DataType)), None)
    inner, nullable = _strip_optional(info.annotation)
    return pa.field(name, override or _arrow_type(inner), nullable=nullable)


def _strip_optional(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        assert len(rest) == 1, f"a column is one type or None, not {annotation}"
        return rest[0], True
    return annotation, False


def _arrow_type(annotation: Any) -> pa.DataType:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((a for a in args[1:] if isinstance(a, pa.DataType)), None) or _arrow_type(args[0])
    if origin is Literal:
        return pa.string()
    if origin in (list, tuple):
        return pa.list_(pa.field("element", _arrow_type(args[0])))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([pa.field(n, _field(n, i).type) for n, i in annotation.model_fields.items()])
    return _PRIMITIVES[annotation]


def column_checks(row: type[Row]) -> dict[str, str]:
    """Name -> SQL predicate for every constraint of the row class; a row with a false predicate is invalid."""
    checks: dict[str, str] = {}
    for name, info in row.model_fields.items():
        inner, _ = _strip_optional(info.annotation)
        metadata = list(info.metadata)
        if get_origin(inner) is Annotated:
            metadata, inner = [*metadata, *get_args(inner)[1:]], get_args(inner)[0]
        if get_origin(inner) is Literal:
            allowed = ", ".join("'" + value.replace("'", "''") + "'" for value in get_args(inner))
            checks[f"{name}: one of its values"] = f'"{name}" in ({allowed})'
        for constraint in metadata:
            checks.update(_constraint(name, constraint))
    return checks | row.sql_checks


def _constraint(name: str, constraint: object) -> dict[str, str]:
    match constraint:
        case at.Ge(ge=bound):
            return {f"{name} >= {bound}": f'"{name}" >= {bound}'}
        case at.Le(le=bound):
            return {f"{name} <= {bound}": f'"{name}" <= {bound}'}
        case at.Len(min_length=low, max_length=high):
            upper = f' and length("{name}") <= {high}' if high is not None else ""
            return {f"{name}: length": f'length("{name}") >= {low}{upper}'}
        case at.MinLen(min_length=low):
            return {f"{name}: length": f'length("{name}") >= {low}'}
    return {}
