"""Parts of a release: lookups in sorted runs, licences, counts, and text in a card."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from builders.exporting import lookups, rows
from builders.exporting.card_text import plain, stamped
from builders.exporting.licences import LEVELS, covering, laxer, level, settle
from builders.exporting.lookups import Lookup
from builders.exporting.provenance import params_text
from builders.exporting.tally import Tally
from builders.exporting.texts import spans
from schemas import TABLES, Prediction, arrow_schema
from schemas.params import STAGES, Params, load_params, parse_params
from stores import parquet
from stores.parquet import part_files, write_table
from stores.release_files import read_provenance
from tests import export_world as world
from tests.conftest import REPOSITORY


def written(directory: Path, keys: Sequence[str], answer: str) -> tuple[str, list[Path]]:
    """A run of predictions whose samples are these keys."""
    labels = {"normalised": None, "extractor": "number", "extractor_version": "1"}
    found = [labels | {"sample_id": key, "extracted": f"{answer} {key}"} for key in keys]
    write_table(directory, Prediction, [pa.Table.from_pylist(found, arrow_schema(Prediction))])
    return answer, part_files(directory)


@pytest.mark.parametrize("group_rows", [1, 3, 100])
def test_rows_are_found_by_key_in_the_first_run_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", group_rows)
    every = [f"{i:04d}" for i in range(0, 60, 2)]
    runs = [written(tmp_path / "a", every[::2], "a"), written(tmp_path / "b", every, "b")]
    lookup = Lookup(runs, Prediction, ("extracted",))
    for asked in (["0000", "0002", "0000"], ["0058", "0040", "0042"], ["0004"], [], ["0000", "0058"]):
        found = lookup.take(lookup.find(pa.array(asked, pa.string())))
        assert found.column("extracted").to_pylist() == [f"{'a' if int(k) % 4 == 0 else 'b'} {k}" for k in asked]
        assert len(found.rows) == len(set(asked))
    assert lookup.find(pa.array(["0001", "0002", "9999"])).tolist()[::2] == [-1, -1]


def test_only_groups_that_hold_a_wanted_row_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    keys = [f"{i:04d}" for i in range(100)]
    lookup = Lookup([written(tmp_path, keys, "a")], Prediction, ("extracted",))
    read: list[list[str]] = []
    reading = type(lookup._groups[0]).read
    monkeypatch.setattr(type(lookup._groups[0]), "read", lambda g, c: read.append([str(g.number), *c]) or reading(g, c))
    for asked in (["0011", "0029"], ["0029", "0030"]):
        lookup.take(lookup.find(pa.array(asked)))
    assert [r for r in read if "sample_id" in r] == [[str(n), "sample_id"] for n in (1, 2, 3)]
    assert [r for r in read if "extracted" in r] == [[str(n), "extracted"] for n in (1, 2, 3)]


def test_few_keys_are_kept_however_many_groups_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(lookups, "KEPT_KEYS", 25)
    keys = [f"{i:04d}" for i in range(100)]
    lookup = Lookup([written(tmp_path, keys, "a")], Prediction, ("extracted",))
    assert lookup.find(pa.array(["0099", "0001", "0050"])).tolist() == [99, 1, 50]
    assert sum(map(len, lookup._keys.values())) == 20


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = written(tmp_path, [f"{i:04d}" for i in range(100)], "a")
    content = bytearray(run[1][0].read_bytes())
    content[4:200] = bytes(196)
    run[1][0].write_bytes(content)
    lookup = Lookup([run], Prediction, ("extracted",))
    with pytest.raises(ValueError, match=r"part-00000.parquet: not a readable Parquet file"):
        lookup.find(pa.array(["0001"]))


def test_how_inputs_are_cut_changes_no_byte(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of one row, and one pair joined at a time."""
    world.build()
    changes = {"samples": [], "demos": [], "rewards": [], "step_labels": []}
    whole = bytes_of(world.release(**changes))
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "ROW_GROUP_ROWS", 1)
        world.build()
    monkeypatch.setattr(rows, "SLICE_BYTES", 1)
    assert bytes_of(world.release(**changes)) == whole


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        ("abc", 0, 3, "abc"),
        ("abc", 1, 2, "b"),
        ("é🐈\u200d⬛x", 1, 4, "🐈\u200d⬛"),
        ("e\u0301x", 1, 2, "\u0301"),
        ("abc", 3, 3, ""),
        ("abc", 1, None, "bc"),
    ],
)
def test_spans_are_code_points(text: str, start: int, end: int | None, expected: str) -> None:
    numbers = (pa.array([3, value], pa.int32()) for value in (len(text), start, end))
    n_chars, starts, ends = numbers
    starts = pa.array([0, start], pa.int32())
    assert spans(pa.array(["xyz", text]), n_chars, starts, ends).to_pylist() == ["xyz", expected]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC0-1.0", "public-domain"),
        ("Apache-2.0", "permissive"),
        ("CC BY 4.0", "attribution"),
        ("cc-by-sa-4.0", "share-alike"),
        ("CC-BY-NC-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("cc-by-nd-4.0", "no-derivatives"),
        ("see their page", "unknown"),
    ],
)
def test_levels(licence: str, expected: str) -> None:
    assert level(licence) == expected
    assert expected in LEVELS


@pytest.mark.parametrize(
    ("licence", "sources", "expected"),
    [
        ("mit", ["CC0-1.0", "Apache-2.0"], []),
        ("cc0-1.0", ["MIT"], ["MIT"]),
        ("mit", ["CC-BY-SA-4.0", "MIT"], ["CC-BY-SA-4.0"]),
        ("cc-by-nc-4.0", ["CC-BY-SA-4.0"], ["CC-BY-SA-4.0"]),
        ("cc-by-nc-sa-4.0", ["CC-BY-SA-4.0", "CC-BY-NC-4.0", "mit"], []),
        ("cc-by-nc-sa-4.0", ["unknown"], ["unknown"]),
        ("cc-by-nc-nd-4.0", ["unknown", "CC-BY-SA-4.0"], []),
        ("other", ["unknown", "cc-by-nd-4.0"], []),
    ],
)
def test_a_licence_may_not_be_laxer_than_a_source(licence: str, sources: list[str], expected: list[str]) -> None:
    assert laxer(licence, sources) == expected


@pytest.mark.parametrize(
    ("stated", "sources", "expected"),
    [
        (None, ["CC0-1.0", "MIT"], "mit"),
        (None, ["CC0-1.0"], "cc0-1.0"),
        (None, ["Apache-2.0", "CC-BY-SA-4.0"], "cc-by-sa-4.0"),
        ("CC BY-SA 4.0", ["CC-BY-SA-4.0"], "cc-by-sa-4.0"),
        ("other", ["unknown"], "other"),
    ],
)
def test_the_licence_of_a_release(stated: str | None, sources: list[str], expected: str) -> None:
    assert settle(stated, sources, "export.r.licence") == expected


@pytest.mark.parametrize(
    ("stated", "sources", "said"),
    [
        (
            None,
            ["unknown"],
            "export.r.licence: the licence of a source is not known (unknown); state the release's own",
        ),
        (None, ["cc-by-sa-4.0", "cc-by-nc-4.0"], "no source's licence has the terms of all"),
        ("mit", ["unknown"], "use `licence: cc-by-nc-nd-4.0` or `licence: other`"),
        ("mit", ["cc-by-4.0", "cc-by-nc-4.0"], "cc-by-nc-4.0 (non-commercial); use `licence: cc-by-nc-4.0` or"),
        ("wishful", [], "licence 'wishful' is not known here"),
    ],
)
def test_a_licence_that_does_not_do(stated: str | None, sources: list[str], said: str) -> None:
    assert stated is not None or covering(sources) is None
    with pytest.raises(ValueError, match=re.escape(said)):
        settle(stated, sources, "export.r.licence")


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_pass_rates_are_of_prompts_however_the_rows_arrive(size: int) -> None:
    verdicts = {"a": "+-+", "b": "--", "c": "+?", "d": "?"}
    names = {"+": "correct", "-": "wrong", "?": "undecided"}
    ids = [f"{asked}-abcdef01-{i:04d}" for asked, signs in verdicts.items() for i in range(len(signs))]
    found = [names[sign] for signs in verdicts.values() for sign in signs]
    tally = Tally()
    for start in range(0, len(ids), size):
        tally.count_verdicts("r", pa.array(ids[start : start + size]), pa.array(found[start : start + size]))
    assert tally.pass_rates() == {"r": Counter({(2, 3): 1, (0, 2): 1, (1, 1): 1, (0, 0): 1})}


def test_lengths_add_up() -> None:
    tally = Tally()
    for lengths in ([0, 1, 9], [999_999]):
        tally.count_lengths("text", np.array(lengths))
    assert int(tally.lengths["text"].sum()) == 4


def test_names_cannot_mark_up_the_card() -> None:
    assert plain("a|b\n# <img src=x> [x](y) `z`") == r"a\|b \# \<img src=x\> \[x\](y) \`z\`"


def test_a_stamp_leaves_a_description_alone() -> None:
    card = "<!-- revision -->mine<!-- /revision --> and <!-- revision -->Not stamped.<!-- /revision --> end"
    assert stamped(card, "1" * 40, None).startswith("<!-- revision -->mine<!-- /revision --> and <!-- revision -->Rev")


def test_a_stamp_takes_the_place_of_another() -> None:
    card = 'load_dataset("ORG/NAME") <!-- revision -->Not stamped.<!-- /revision --> end'
    once = stamped(card, "1" * 40, None)
    assert once == stamped(stamped(card, "2" * 40, None), "1" * 40, None)
    assert stamped(once, "1" * 40, "a/b").startswith('load_dataset("a/b")')


def params_files() -> list[Path]:
    return [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "recipes").glob("*.yaml"))]


@pytest.mark.parametrize("path", params_files(), ids=lambda path: path.name)
def test_params_in_a_release_read_as_they_did(path: Path) -> None:
    params = load_params(path)
    assert parse_params(params_text(params)) == params


def test_a_place_on_ones_own_disk_is_not_published() -> None:
    paths = {"a": "/home/ada/secret/m", "b": "~/secret/m", "c": "../../secret/m", "d": "inputs/m", "e": "data/none"}
    model = {"vocabulary": "none"}
    models: dict[str, Any] = {name: model | {"path": path} for name, path in paths.items()}
    models["e"] |= {"script": ["/home/ada"]}
    sections = {section: {} for section in STAGES} | {"seed": 0, "report": {}, "sampling": {}, "models": models}
    text = params_text(Params.model_validate(sections))
    found = {name: run["path"] for name, run in yaml.safe_load(text)["models"].items()}
    assert found == {"a": "m", "b": "m", "c": "m", "d": "inputs/m", "e": "data/none"}
    assert "/home/ada\n" in text  # a completion, no path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no release"),
        ("{", "no provenance of a release"),
        ("[]", "no `format`"),
        ('{"format": 1}', "no `configs`"),
        ('{"format": 2, "configs": {}}', "format 2, and this version reads 1; update it"),
    ],
)
def test_a_foreign_record_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_provenance(tmp_path)


def test_every_table_of_a_config_is_there() -> None:
    from schemas.sections_export import CONFIGS, TABLE_OF

    assert set(TABLE_OF) == set(CONFIGS)
    assert set(TABLE_OF.values()) <= set(TABLES)
