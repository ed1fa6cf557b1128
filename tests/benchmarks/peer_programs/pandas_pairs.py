"""Pairs with pandas: numbered within their prompt, and merged by number."""

import sys

import pandas as pd  # pyrefly: ignore  # not a dependency of ours


def numbered(samples: pd.DataFrame, correct: bool, column: str, name: str) -> pd.DataFrame:
    side = samples.loc[samples["correct"] == correct, ["prompt_id", column]].rename(columns={column: name})
    side[f"{name}_place"] = side.groupby("prompt_id", sort=False).cumcount()
    return side


def pairs(samples: pd.DataFrame, column: str, k: int) -> pd.DataFrame:
    chosen, rejected = numbered(samples, True, column, "chosen"), numbered(samples, False, column, "rejected")
    sizes = pd.concat(
        [
            chosen.groupby("prompt_id").size().rename("n_chosen"),
            rejected.groupby("prompt_id").size().rename("n_rejected"),
        ],
        axis=1,
        join="inner",
    ).reset_index()
    ranks = sizes.merge(pd.DataFrame({"rank": range(k)}), how="cross")
    ranks["chosen_place"] = ranks["rank"] % ranks["n_chosen"]
    ranks["rejected_place"] = ranks["rank"] % ranks["n_rejected"]
    found = ranks.merge(chosen, on=["prompt_id", "chosen_place"]).merge(rejected, on=["prompt_id", "rejected_place"])
    return found[["prompt_id", "rank", "chosen", "rejected"]].sort_values(["prompt_id", "rank"])


if __name__ == "__main__":
    _, source, target, kept, count = sys.argv
    frame = pd.read_parquet(source, columns=["prompt_id", "correct", kept])
    pairs(frame, kept, int(count)).to_parquet(target, index=False)
