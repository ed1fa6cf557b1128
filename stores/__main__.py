"""`pairwright`, the same as `python -m stores`."""

import importlib.abc
import sys
from collections.abc import Sequence
from types import ModuleType

from stores import cli


class _WithoutPandas(importlib.abc.MetaPathFinder):
    """pyarrow and DuckDB import pandas where it is installed, to recognise data frames: a third of a query's time."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not needed here", name=fullname)


def main() -> None:
    """Runs the command line."""
    if sys.argv[1:2] == ["sql"]:
        sys.meta_path.insert(0, _WithoutPandas())
    cli.main()


if __name__ == "__main__":
    main()
