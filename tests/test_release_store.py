"""A published release opened as a store: its configs as views, checked, and without a network once they are cached."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from typer.testing import CliRunner

from builders.publishing.hub_repository import HubRepository
from builders.publishing.publishing import publish
from builders.publishing.release import release_content, snapshot_of
from stores import cli
from stores.duck import Duck
from stores.release_files import parse_provenance
from stores.store import Store
from tests.hub_api import WRITE, Hub, hub
from tests.publish_world import Project, pairs, rewards

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub, of httpx2
NAME = "team/sums"
ATTACKS = {
    "copy": "copy (select 1) to 'out.csv'",
    "copy in a CTE": "with x as (copy (select 1) to 'out.csv') select 1",
    "a file": "select * from read_text('params.yaml')",
    "the release's own file": "select * from read_parquet('{file}')",
    "overwrite the cache": "with x as (copy (select 1) to '{file}') select 1",
    "network": "select * from read_csv('http://127.0.0.1:9/x.csv')",
    "install": "install httpfs",
    "set": "set enable_external_access = true",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str]]:
    """A Hub with a release of two shards of pairs, tagged v1.0, and another on main; and the first one's revision."""
    root = tmp_path_factory.mktemp("published")
    project, commits = Project(root / "project"), []
    with hub(root / "hub") as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAIRWRIGHT_LEDGER", str(root / "ledger"))
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        repo = HubRepository(NAME, "dataset", HfApi(endpoint=running.endpoint, token=WRITE))
        for n, tag in ((6, "v1.0"), (4, None)):
            commits.append(project.release({"pairs": [pairs(n - 2), pairs(2, n - 2)], "rewards": [rewards(n)]}))
            publish(repo, release_content(snapshot_of(project.root, None)), tag)
        yield running, commits[0]


@pytest.fixture
def server(published: tuple[Hub, str], tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub that this process's client asks, with an empty cache of its own."""
    running, _ = published
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.endpoint)
    template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    running.asked.clear()
    return running


def test_configs_are_views_and_only_what_is_asked_is_fetched(server: Hub, published: tuple[Hub, str]) -> None:
    with Store.open(f"hf://{NAME}@v1.0") as store:
        assert store.sql("select count(*), max(chosen) from pairs").fetchall() == [(6, " It is 6.")]
        assert not [line for line in server.asked if "rewards/" in line]
        joined = "select count(*) from pairs, rewards where pairs.rank = 0"
        assert store.sql(joined).fetchall() == [(36,)]
        assert store.revision == published[1]
    with Store.open(rev=f"hf://{NAME}") as store:
        assert store.sql("select count(*) from pairs").fetchall() == [(4,)]


def test_two_versions_are_schemas_of_one_connection(server: Hub) -> None:
    old, new = (Store.open(f"hf://{NAME}{version}") for version in ("@v1.0", ""))
    with Duck() as duck:
        for store, schema in ((old, "v1_0"), (new, "r_main")):
            store.views_in(duck, schema).provide("select count(*) from v1_0.pairs, r_main.pairs")  # type: ignore[attr-defined]
        query = "select (select count(*) from v1_0.pairs) as old, (select count(*) from r_main.pairs) as new"
        assert duck.table(query).to_pylist() == [{"old": 6, "new": 4}]


def test_it_describes_itself(server: Hub) -> None:
    store = Store.open(f"hf://{NAME}@v1.0")
    assert [(row.table, row.run, row.rows) for row in store.runs()] == [
        ("pairs", "irpo_0", 6), ("rewards", "irpo_0", 3), ("rewards", "irpo_1", 3),
    ]  # fmt: skip
    found = store.describe("rewards")
    assert found.grain == "One row per sample: the verdict on its answer."
    assert [column for column, _, _ in found.columns] == ["sample_id", "verdict", "reward", "run"]
    assert {column: meaning for column, _, meaning in found.columns}["verdict"]
    assert found.example == {"sample_id": "s0", "verdict": "correct", "reward": 1.0, "run": "irpo_0"}


def test_a_dataset_of_a_run(server: Hub) -> None:
    found = Store.open(f"hf://{NAME}@v1.0").dataset("rewards", run="irpo_1")
    assert found["sample_id"] == ["s1", "s3", "s5"]


def test_what_is_cached_needs_no_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "select count(*) from pairs"
    Store.open(f"hf://{NAME}@v1.0").sql(query).fetchall()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server.asked.clear()
    store = Store.open(f"hf://{NAME}@v1.0", guard=True)
    assert store.sql(query).fetchall() == [(6,)]
    assert server.asked == []
    with pytest.raises(ValueError, match=r"not \(wholly\) in the Hub's local cache|HF_HUB_OFFLINE") as error:
        store.sql("select * from rewards")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_its_sql_can_be_guarded(server: Hub, attack: str) -> None:
    store = Store.open(f"hf://{NAME}@v1.0", guard=True)
    assert store.sql("select count(*) from pairs").fetchall() == [(6,)]
    (file, *_) = store.release.files("pairs")  # type: ignore[attr-defined]
    before = file.read_bytes()
    with pytest.raises(ValueError) as error:
        store.sql(attack.format(file=file)).fetchall()
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before
    assert not Path("out.csv").exists()


def test_a_query_that_was_published_is_never_run(server: Hub) -> None:
    store = Store.open(f"hf://{NAME}@v1.0", guard=True)
    published, own = store.root / "queries", Path("queries")
    for folder, text in ((published, "select 'theirs' as whose"), (own, "select 'ours' as whose")):
        folder.mkdir()
        (folder / "mine.sql").write_text(f"-- One row.\n{text}", encoding="utf-8")
    (published / "theirs.sql").write_text("-- One row.\nselect 1", encoding="utf-8")
    assert store.query("mine").fetchall() == [("ours",)]
    with pytest.raises(ValueError, match="no query 'theirs'"):
        store.query("theirs")
    done = CliRunner().invoke(cli.app, ["query", "mine", "--rev", f"hf://{NAME}@v1.0", "--format", "csv"])
    assert done.stdout.split() == ["whose", "ours"]


def test_a_damaged_file_is_never_read_and_comes_again_once_it_is_gone(server: Hub) -> None:
    (file, *_) = Store.open(f"hf://{NAME}@v1.0").release.files("pairs")  # type: ignore[attr-defined]
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: damaged, .* delete this file"):
        Store.open(f"hf://{NAME}@v1.0").sql("select * from pairs")
    file.unlink()
    assert Store.open(f"hf://{NAME}@v1.0").sql("select count(*) from pairs").fetchall() == [(6,)]


def test_a_misspelt_config_fetches_nothing(server: Hub) -> None:
    store = Store.open(f"hf://{NAME}@v1.0")
    server.asked.clear()
    with pytest.raises(ValueError, match="pair does not exist"):
        store.sql("select * from pair")
    with pytest.raises(ValueError, match=r"no config 'pair' in hf://team/sums@\w{12} \(did you mean 'pairs'\?\)"):
        store.describe("pair")
    assert server.asked == []


def test_what_a_release_cannot_do_names_its_revision(server: Hub) -> None:
    store = Store.open(f"hf://{NAME}@v1.0")
    for act in (store.check, lambda: store.show("0" * 16), lambda: store.diff("a", "b"), lambda: store.files):
        with pytest.raises(ValueError, match=rf"is a published release, without .*{store.revision} \(--rev\)"):
            act()


WRONG = {
    "no repository": ("hf://team/other@v1.0", "cannot be read: there is none of this name, and not logged in"),
    "no revision": (f"hf://{NAME}@v9", r"hf://team/sums@v9 cannot be read: it has no such revision"),
    "no name": ("hf://sums", "'sums' is no repository of the Hub; give ORG/NAME"),
    "a path": ("hf://team/../../etc", "is no repository of the Hub"),
    "a path as revision": (f"hf://{NAME}@../main", "'../main' is no tag, branch or commit"),
}


@pytest.mark.parametrize(("url", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_opened_is_one_line(server: Hub, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) if "\\" not in message else message) as error:
        Store.open(url)
    assert "\n" not in str(error.value)


PLANTED = {
    "a file outside": {"pairs": {"rows": 1, "runs": ["r"], "files": {"pairs/../../../secret.parquet": "0" * 64}}},
    "another config's file": {
        "pairs": {"rows": 1, "runs": ["r"], "files": {"rewards/train-00000-of-00001.parquet": "0" * 64}}
    },
    "a run that is no name": {
        "pairs": {"rows": 1, "runs": ["r\u001b[2J"], "files": {"pairs/train-00000-of-00001.parquet": "0" * 64}}
    },
    "runs that are none": {"pairs": {"rows": 1, "files": {"pairs/train-00000-of-00001.parquet": "0" * 64}}},
    "rows that are no count": {
        "pairs": {
            "runs": ["r"],
            "rows_by_run": {"r": "x\n"},
            "files": {"pairs/train-00000-of-00001.parquet": "0" * 64},
        }
    },
    "a config as SQL": {'pairs" as select 1; --': {"rows": 1, "runs": [], "files": {}}},
}


@pytest.mark.parametrize("configs", PLANTED.values(), ids=PLANTED)
def test_names_in_a_provenance_of_others_are_checked(server: Hub, configs: dict) -> None:
    with pytest.raises(ValueError, match=r"no config of a release|has no data file of a|`runs`|`rows_by_run`"):
        Store.open(planted(server, {"format": 1, "configs": configs}))


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"format": 1, "configs": {}, "revision": "main\n"}, "its `revision` is no commit"),
        ({"format": 1, "configs": {}, "revision": ["a"]}, "its `revision` is no commit"),
        ({"format": 1, "configs": {}}, "its provenance has no `params`"),
        ({"format": 1, "configs": {}, "params": {"seed": 0}}, "its provenance has no `params`"),
    ],
)
def test_a_provenance_of_others_is_no_traceback(server: Hub, provenance: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = Store.open(planted(server, provenance)).params


def test_a_huge_provenance_is_not_parsed() -> None:
    with pytest.raises(ValueError, match=r"there: no provenance of a release \(67,108,865 bytes"):
        parse_provenance(b" " * (64 * 2**20 + 1), "there")


def planted(server: Hub, provenance: dict) -> str:
    """The name of a repository with somebody else's provenance."""
    name = f"team/planted_{len(server.repositories.names())}"
    server.repositories.create("datasets", name)
    server.repositories.write("datasets", name, {"provenance.json": json.dumps(provenance).encode()})
    return f"hf://{name}"


def test_a_repository_without_a_release_is_none(server: Hub) -> None:
    server.repositories.create("datasets", "team/plain")
    with pytest.raises(ValueError, match=r"hf://team/plain: holds no release \(no provenance.json\)"):
        Store.open("hf://team/plain")


def test_a_newer_format_is_named(server: Hub) -> None:
    with pytest.raises(ValueError, match="format 2, and this version reads 1"):
        Store.open(planted(server, {"format": 2, "configs": {}}))


def test_the_files_are_those_of_the_provenance(server: Hub) -> None:
    release = Store.open(f"hf://{NAME}@v1.0").release  # type: ignore[attr-defined]
    expected = release.provenance["configs"]["pairs"]["files"]
    found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in release.files("pairs")]
    assert found == list(expected.values())
