"""Pairs with Polars: lists by prompt, gathered by rank, exploded; lazily, with the streaming engine."""

import sys

import polars as pl  # pyrefly: ignore  # not a dependency of ours


def pairs(path: str, column: str, k: int) -> pl.LazyFrame:
    def nth(side: str) -> pl.Expr:
        return pl.col(side).list.gather(pl.int_ranges(0, k) % pl.col(side).list.len())

    return (
        pl.scan_parquet(path)
        .select("prompt_id", "correct", column)
        .group_by("prompt_id", maintain_order=True)
        .agg(chosen=pl.col(column).filter(pl.col("correct")), rejected=pl.col(column).filter(~pl.col("correct")))
        .filter(pl.col("chosen").list.len() > 0, pl.col("rejected").list.len() > 0)
        .select("prompt_id", rank=pl.int_ranges(0, k), chosen=nth("chosen"), rejected=nth("rejected"))
        .explode("rank", "chosen", "rejected")
    )


if __name__ == "__main__":
    _, source, target, kept, count = sys.argv
    pairs(source, kept, int(count)).sink_parquet(target)
