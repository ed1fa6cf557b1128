"""Sources of problems: one module per published data set, which says how a row becomes a record."""

from builders.sources import gsm8k, math
from builders.sources.base import Record, Source

SOURCES: dict[str, Source] = {"gsm8k": gsm8k.SOURCE, "math": math.SOURCE}
"""Sources that have files. Generated problems come from `builders.arithmetic`."""

__all__ = ["SOURCES", "Record", "Source"]
