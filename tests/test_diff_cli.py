"""`pairwright diff` on real revisions: names, formats, and what it says of versions that are not here."""

import csv
import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stores.diff_printing import markdown
from stores.store import Store
from tests.small_store import build, prompts, rows, write
from tests.test_store_cli import Terminal
from tests.versions import Project


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v1.0: the small store; v1.1: one pair less; the checkout: another one less."""
    root = tmp_path_factory.mktemp("versions")
    build(root)
    write(root, "samples", "none", [])
    project = Project(root)
    project.commit(tag="v1.0")
    pairs = rows()["pairs", "irpo_0"]
    write(root, "pairs", "irpo_0", pairs[1:])
    project.commit(tag="v1.1")
    write(root, "pairs", "irpo_0", pairs[2:])
    return root


@pytest.fixture
def root(versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAIRWRIGHT_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.chdir(versions)
    return versions


@pytest.fixture
def pairwright(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_two_revisions_as_json(root: Path, pairwright: Terminal) -> None:
    code, out, err = pairwright("diff", "v1.0", "v1.1", "--rows", "--format", "json")
    assert (code, err) == (0, "")
    got = json.loads(out)
    with Store.open(rev="v1.0") as store:
        assert got["old"] == {"name": "v1.0", "revision": store.revision}
    reason = {"reason": "other", "detail": "no recorded cause"}
    assert got["counts"] == [{"table": "pairs", "run": "irpo_0", "change": "removed", **reason, "rows": 1}]
    assert got["runs"] == [{"table": "pairs", "run": "irpo_0", "state": "differs", "old_rows": 4, "new_rows": 3}]
    (row,) = got["rows"]
    assert (row["prompt_id"], row["place"], row["change"]) == (prompts()[0].prompt_id, "rank 0", "removed")
    assert got["funnel"] == [
        {"stage": "pairs_outcome", "run": "irpo_0", "table": "pairs", "reason": "kept", "old": 4, "new": 3}
    ]


def test_the_checkout_is_what_a_version_is_compared_with(root: Path, pairwright: Terminal) -> None:
    _, out, _ = pairwright("diff", "v1.0", "--format", "csv")
    assert [row["rows"] for row in csv.DictReader(io.StringIO(out))] == ["2"]
    _, out, _ = pairwright("diff", "v1.0", "workspace", "--format", "csv", "--rows")
    assert [row["place"] for row in csv.DictReader(io.StringIO(out))] == ["rank 0", "rank 0"]


@pytest.mark.slow
def test_sections_of_the_table(root: Path, pairwright: Terminal) -> None:
    code, out, _ = pairwright("diff", "v1.0", "v1.1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "v1.0 -> v1.1"
    assert [line for line in lines if line in ("rows by reason", "runs", "params", "funnel", "rows")] == [
        "rows by reason", "runs", "params", "funnel",
    ]  # fmt: skip


@pytest.mark.slow
def test_markdown_is_for_a_review(root: Path, pairwright: Terminal) -> None:
    _, out, _ = pairwright("diff", "v1.0", "v1.1", "--format", "md")
    assert "| pairs | irpo\\_0 | removed | other | no recorded cause | 1 |" in out.splitlines()
    assert "### Params\n\nNone.\n" in out


def test_markdown_of_foreign_text_stays_in_its_cell() -> None:
    given = [("a|b\n<img>", "[x](y) `z` \x1b[31m", None)]
    assert list(markdown(["a", "b", "c"], given))[2] == (
        "| a\\|b \\<img\\> | \\[x\\](y) \\`z\\` \\\\x1b\\[31m |  |"
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], ["--rows"]], ids=["counts", "rows"])
def test_parquet_goes_to_a_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary, rows: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pairwright", "diff", "v1.0", "--format", "parquet", *rows])
    from stores.cli import main

    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    (tmp_path / "diff.parquet").write_bytes(capfdbinary.readouterr().out)
    table = pq.read_table(tmp_path / "diff.parquet")
    assert table["reason"].to_pylist() == ["other"] * (2 if rows else 1)


@pytest.mark.slow
def test_the_other_tables(root: Path, pairwright: Terminal) -> None:
    _, out, _ = pairwright("diff", "v1.0", "v1.1", "--table", "samples", "--table", "pairs", "--format", "json")
    got = {(run["table"], run["run"]): run["state"] for run in json.loads(out)["runs"]}
    assert got == {
        ("samples", "irpo_0"): "equal", ("samples", "irpo_1"): "not built in v1.0 and v1.1",
        ("samples", "gold"): "equal", ("pairs", "irpo_0"): "differs",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v0.9"], "no tag, branch, commit or experiment 'v0.9'"),
        (["--", "--upload-pack=x"], "'--upload-pack=x' cannot name a revision"),
        (["v1.0", "--run", "x"], "no run 'x' of pairs in either version (have irpo_0)"),
        (["v1.0", "--table", "x"], "no table 'x' (have problems, "),
    ],
)
def test_a_mistake_is_one_line(root: Path, pairwright: Terminal, arguments: list[str], message: str) -> None:
    code, out, err = pairwright("diff", *arguments)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"pairwright: {message}")


@pytest.mark.slow
def test_what_is_equal_by_its_hash_is_not_even_needed(root: Path, tmp_path: Path, pairwright: Terminal) -> None:
    """Samples of both versions are one file of the cache, which is not here; what differs must be."""
    copied = shutil.copytree(root, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copied)
        project = Project.__new__(Project)
        project.root, project.cache = copied, copied / ".dvc" / "cache"
        project.forget("data/samples/run=irpo_0")
        assert json.loads(pairwright("diff", "v1.0", "v1.1", "--format", "json")[1])["counts"][0]["rows"] == 1
        got = json.loads(pairwright("diff", "v1.0", "--table", "rewards", "--format", "json")[1])
        assert [(change["stage"], change["old"]) for change in got["funnel"]] == [("pairs_outcome", 4)]
        shutil.rmtree(copied / ".dvc" / "cache" / "files")
        code, _, err = pairwright("diff", "v1.0", "v1.1")
        assert (code, len(err.splitlines())) == (1, 1)
        assert "pairwright fetch" in err
