"""A published release as a store: `Store.open("hf://ORG/NAME@v1.0")`.

Its configs are the views: `pairs`, `step_pairs`, `demos`, `samples`, `rewards`, `step_labels`, as many as it has, each
over all its runs and with texts. A config is fetched when a query first names it. DuckDB is given local paths alone.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from schemas.params import Params, parse_params
from stores.duck import Duck, literal
from stores.hub_release import HubRelease, open_hub_release
from stores.named import near
from stores.release_files import CONFIGS
from stores.revisions import Snapshot
from stores.store import HEAD, Description, RunRow, Store, meanings
from stores.views import Views


class ReleaseStore(Store):
    """The configs of one published release, read-only."""

    def __init__(self, release: HubRelease, guard: bool = False):
        self.release, self.guard, self.root = release, guard, release.directory
        self.snapshot: Snapshot | None = None
        self._views = None

    @classmethod
    def at(cls, url: str, guard: bool = False) -> "ReleaseStore":
        """The release that `hf://ORG/NAME[@REVISION]` names; raises as `open_hub_release` does."""
        return cls(open_hub_release(url), guard)

    @cached_property
    def params(self) -> Params:  # pyrefly: ignore
        """The params.yaml of its revision, as its provenance has it."""
        text = self.release.provenance.get("params")
        if not isinstance(text, str):
            raise ValueError(f"{self.release.url}: its provenance has no `params`; publish it again")
        return parse_params(text, f"params.yaml of {self.release.url}", older=True)

    @property
    def files(self) -> NoReturn:  # pyrefly: ignore
        self._refuse("the tables behind its configs")

    @property
    def revision(self) -> str | None:
        """The full commit id of the Git revision that the release was made from."""
        return self.release.provenance.get("revision")

    @property
    def configs(self) -> list[str]:
        """Names of its configs, which are its views."""
        return list(self.release.provenance["configs"])

    def runs(self, table: str | None = None) -> list[RunRow]:
        """Every run of every config, with its rows; bytes are those of the whole config, on its first run."""
        return [row for config in self.configs if table in (None, config) for row in self._runs_of(config)]

    def _runs_of(self, config: str) -> list[RunRow]:
        described = self.release.provenance["configs"][config]
        rows = described.get("rows_by_run") or dict.fromkeys(described["runs"])
        return [RunRow(config, run, "export", True, rows[run], None) for run in rows]

    def describe(self, table: str) -> Description:
        """Grain, columns, runs and an example row of a config.

        Raises ValueError for one that it lacks.
        """
        self._known(table)
        result, means = self.sql(f'select * from "{table}"'), meanings(table)
        columns = [(c, t.lower(), means.get(c, "")) for c, t in zip(result.columns, result.types, strict=True)]
        return Description(table, f"One row per {CONFIGS[table]}.", columns, self.runs(table), result.head(HEAD))

    def check(self, deep: bool = False) -> NoReturn:
        """Raises ValueError: a release has no tables to check. Its files are always checked when they are read."""
        self._refuse("`check`")

    def diff(self, old: str, new: str = "", tables: Sequence[str] = (), runs: Sequence[str] = ()) -> NoReturn:
        """Raises ValueError: versions are compared in the repository that releases are made from."""
        self._refuse("`diff`")

    def show(self, identity: str, run: str | None = None) -> NoReturn:
        """Raises ValueError: a release has no lineage to show."""
        self._refuse("`show`")

    def _refuse(self, what: str) -> NoReturn:
        made = f"the Git revision that it was made from, {self.revision}" if self.revision else "its own Git repository"
        raise ValueError(f"{self.release.url} is a published release, without {what}; use {made} (--rev)")

    @property
    def _project(self) -> Path:
        """The working directory: what a published repository has in `queries/` is no SQL of ours."""
        return Path()

    def views_in(self, duck: Duck, schema: str | None = None) -> Views:
        """The configs as views in a connection that may have those of other versions, too, each in a schema."""
        return _ConfigViews(duck, self.release, self.guard, schema)

    def _decisive_files(self, table: str, run: str | None) -> list[Path]:
        """All files that decide what `dataset` holds."""
        self._known(table)
        known = [row.run for row in self._runs_of(table)]
        if run is not None and run not in known:
            raise ValueError(f"no run '{run}' in config '{table}' of {self.release.url}{near(run, known)}")
        return self.release.files(table)

    def _known(self, config: str) -> None:
        if config not in self.configs:
            raise ValueError(f"no config '{config}' in {self.release.url}{near(config, self.configs)}")


class _ConfigViews(Views):
    """One view per config, made when a query names it. With `guard` they read through Arrow: DuckDB opens nothing.

    With a `schema` they are in it, and made for queries that name it.
    """

    def __init__(self, duck: Duck, release: HubRelease, guard: bool, schema: str | None):
        self.duck, self.release, self.guard, self.schema = duck, release, guard, schema
        self._missing = set(release.provenance["configs"])
        if schema:
            duck.execute(f'create schema if not exists "{schema}"')

    def provide(self, query: str) -> None:
        """Makes the views that a query's text names; where it names none, those whose files are cached already.

        Raises ValueError for a config that cannot be fetched, or is damaged.
        """
        words, known = set(re.findall(r"\w+", query.lower())), self.release.provenance["configs"]
        named = words if self.schema is None else set(_in_schema(self.schema, query))
        for name in known:
            if name in named or (words.isdisjoint(known) and self.release.is_cached(name)):
                self._make(name)

    def provide_rest(self) -> bool:
        """Nothing: a misspelt name fetches no further config."""
        return False

    def _make(self, name: str) -> None:
        if name not in self._missing:
            return
        files = [str(path) for path in self.release.files(name)]
        place = f'"{self.schema}".' if self.schema else ""
        self.duck.execute(f'create view {place}"{name}" as select * from {self._source(name, files)}')
        self._missing.discard(name)

    def _source(self, name: str, files: list[str]) -> str:
        if not self.guard:
            return f"read_parquet([{', '.join(map(literal, files))}])"
        import pyarrow.dataset as pads

        registered = f"{self.schema or ''}/{name}@{self.release.commit}"
        self.duck.con.register(registered, pads.dataset(files, format="parquet"))
        return f'"{registered}"'


def _in_schema(schema: str, query: str) -> list[str]:
    """The names that a query takes from a schema."""
    return re.findall(rf'\b{re.escape(schema.lower())}"?\s*\.\s*"?(\w+)', query.lower())
