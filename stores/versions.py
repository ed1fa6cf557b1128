"""Several versions in one query: each revision is a schema, as in `select … from v1_0.pairs join workspace.pairs …`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from stores.query import Parameters, Result, connect, run_query
from stores.store import Store

_TAKEN = ("information_schema", "main", "pg_catalog", "system", "temp")
"""DuckDB's own schemas. In `main` it looks for every table whose version is not said."""


class Versions:
    """Stores by the name of their schema. The views of an only one are there without the schema, too."""

    def __init__(self, stores: Mapping[str, Store], guard: bool = False):
        self.stores = dict(stores)
        self._duck = connect(guard)
        self._views = [store.views_in(self._duck, schema) for schema, store in self.stores.items()]
        if len(self.stores) == 1:
            self._views += [store.views_in(self._duck) for store in self.stores.values()]

    def __enter__(self) -> "Versions":
        return self

    def __exit__(self, *_: object) -> None:
        self._duck.con.close()

    def sql(self, query: str, params: Parameters = None) -> Result:
        """The answer to one query, as `Store.sql` gives it; a table is named with its schema.

        Raises ValueError as `Store.sql` does; a note of it lists the schemas where a table is not found.
        """
        try:
            return run_query(self._duck.con, query, params, self._views)
        except ValueError as error:
            if "does not exist" in str(error):
                error.add_note(f"(the versions are the schemas {', '.join(self.stores)})")
            raise


def open_versions(revs: Iterable[str], root: Path | str = Path(), guard: bool = False) -> Versions:
    """Several versions for SQL: tags, branches, commits, DVC experiments, or `workspace`; see `Store.open`.

    Raises ValueError for what is no version, and for two whose schemas would have one name.
    """
    names: dict[str, str] = {}
    for rev in revs:
        other = names.setdefault(schema_name(rev).casefold(), rev)
        if other is not rev:
            both = f"'{other}' and '{rev}' would both be the schema {schema_name(rev)}"
            raise ValueError(f"{both}; name one by its commit")
    return Versions({schema_name(rev): Store.open(root, guard, rev) for rev in names.values()}, guard)


def schema_name(rev: str) -> str:
    """A revision as an SQL identifier: `v1.0` is `v1_0`, `feature/x` is `feature_x`, `0450af5` and `main` are
    `r_0450af5` and `r_main`, since the latter is DuckDB's own schema."""
    name = re.sub(r"\W", "_", rev)
    return f"r_{name}" if name[:1].isdecimal() or name.casefold() in _TAKEN else name
