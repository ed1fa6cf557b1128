"""The quality of problems: findings and lengths, as numbers and as a table."""

from typing import Any

from builders.reporting.markup import Markup, fragment, table, tag
from builders.reporting.tables import EMPTY, percent
from builders.reporting.views import report_rows
from schemas.params import Params
from stores.duck import Duck

QUALITY_DEFINITIONS = {
    "duplicate": "a problem whose text is that of another one, up to case, spaces, punctuation and Unicode forms",
    "near_duplicate": "a problem whose word 3-grams are similar to another one's (Jaccard, `quality.<run>.similarity`)",
    "shared_ngram": "a problem whose n-grams of words (`quality.<run>.ngram`) cover at least `quality.<run>.coverage` "
    "of a test problem's words; similarity is that share. Problems of one template are among them: look first",
}
_UNSURE = (
    "{} problems of {} have no near-duplicate in a test set among those that they were compared with, but so many test "
    "problems of one template were candidates that not all were compared."
)
_LENGTHS = ("chars_median", "chars_p90", "chars_max", "words_median", "words_p90", "words_max")


def measure_quality(duck: Duck, params: Params) -> dict[str, dict[str, Any]]:
    """Run of quality -> problems examined and dropped, findings by kind and other run, and lengths by language."""
    texts: dict[str, list[dict[str, Any]]] = {}
    for row in duck.table("select * from text_statistics order by run, problems_run, source, language").to_pylist():
        texts.setdefault(row.pop("run"), []).append(row)
    findings: dict[str, list[dict[str, Any]]] = {}
    for row in report_rows(duck, "findings"):
        findings.setdefault(row.pop("run"), []).append(row)
    return {
        run: _examined(params.quality[run].problems, texts[run])
        | {"findings": findings.get(run, []), "texts": texts[run]}
        for run in params.quality
        if run in texts
    }


def _examined(problems: str, texts: list[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in texts if row["problems_run"] == problems]
    return {"problems": problems} | {name: sum(row[name] for row in own) for name in ("n", "n_dropped", "n_unsure")}


def quality_tables(quality: dict[str, dict[str, Any]]) -> Markup:
    """Findings of each run, then the lengths of problems by source and language."""
    found = [
        [run, one["problems"], row["kind"], row["other_run"], f"{row['n']:,}", percent(row["n"] / one["n"]),
         f"{row['mean_similarity']:.2f}", f"{row['n_dropped']:,}"]
        for run, one in quality.items()
        for row in one["findings"]
    ]  # fmt: skip
    texts = {(row["problems_run"], row["source"], row["language"]): row for q in quality.values() for row in q["texts"]}
    lengths = [[*key, f"{row['n']:,}", *(f"{row[name]:,}" for name in _LENGTHS)] for key, row in texts.items()]
    if not lengths:
        return EMPTY
    header = ["run", "problems", "finding", "in", "problems with it", "share", "mean similarity", "dropped"]
    unsure = [tag("p", _UNSURE.format(f"{one['n_unsure']:,}", run), class_="note")
              for run, one in quality.items() if one["n_unsure"]]  # fmt: skip
    nothing = tag("p", "No copies were found.", class_="note")
    return fragment(
        table(header, found, 4) if found else nothing,
        *unsure,
        table(["problems", "source", "language", "n", *(name.replace("_", ", ") for name in _LENGTHS)], lengths, 3),
    )
