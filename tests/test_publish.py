"""Publishing a release to a Hub: one commit on what was read, then the tag; what is not sent, and what is refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from builders.publishing.hub_repository import HubRepository
from builders.publishing.plans import Content
from builders.publishing.publishing import Published, preview, publish
from builders.publishing.release import release_content, snapshot_of
from tests.hub_api import READ, STRANGER, WRITE, Fault, Hub, hub
from tests.publish_world import EXPORT, Project, pairs, rewards

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # in huggingface_hub, of httpx2
NAME = "team/sums"
REPO = ("datasets", NAME)
TWO = {"pairs": [pairs(3), pairs(3, 3)], "rewards": [rewards(4)]}
ONE = {"pairs": [pairs(5)], "rewards": [rewards(4)]}


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A release of two shards of pairs."""
    made = Project(tmp_path_factory.mktemp("committed"))
    made.release(TWO)
    return made


@pytest.fixture
def project(committed: Project, workspace: Path) -> Project:
    """A copy of it, which is the working directory."""
    return committed.copy(workspace)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub; what the client waits between tries is left out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub(tmp_path / "hub") as running:
        yield running


def repository(server: Hub, token: str = WRITE, name: str = NAME) -> HubRepository:
    return HubRepository(name, "dataset", HfApi(endpoint=server.endpoint, token=token))


def content() -> Content:
    return release_content(snapshot_of(Path(), None))


def send(server: Hub, tag: str | None = None, token: str = WRITE, **options: bool) -> tuple[Published, list[str]]:
    """What publishing the checkout's release did, and what it said."""
    said: list[str] = []
    return publish(repository(server, token), content(), tag, say=said.append, **options), said


def files(server: Hub, revision: str = "main") -> set[str]:
    return set(server.repositories.files(*REPO, revision))


def test_a_release_is_one_commit_and_a_tag(project: Project, server: Hub) -> None:
    done, said = send(server, "v1.0", private=True)
    assert server.repositories.settings(*REPO)["private"], "from the first moment"
    (commit, first) = server.repositories.history(*REPO)
    assert (done.commit, done.made_commit, done.made_tag, done.tag) == (commit["id"], True, True, "v1.0")
    assert commit["parent"] == first["id"]
    assert server.repositories.refs(*REPO)["tags"] == {"v1.0": commit["id"]}
    shards = {"pairs/train-00000-of-00002.parquet", "pairs/train-00001-of-00002.parquet"}
    assert (
        files(server)
        == {".gitattributes", "README.md", "provenance.json", "rewards/train-00000-of-00001.parquet"} | shards
    )
    assert said[0] == f"create  {server.endpoint}/datasets/{NAME} (private)"
    assert [line.split()[0] for line in said[1:]] == ["send"] * 5 + ["files", "commit", "tag"]


def test_it_says_which_revision_it_is(project: Project, server: Hub) -> None:
    data = project.git("rev-parse", "HEAD")
    (project.root / "README.md").write_text("later")
    project.commit("a README makes no new data")
    send(server)
    provenance = json.loads(server.repositories.content(*REPO, "provenance.json"))
    assert provenance["revision"] == data
    assert data in server.repositories.content(*REPO, "README.md").decode()
    assert data[:12] in server.repositories.history(*REPO)[0]["title"]


def test_a_second_publish_sends_nothing_and_may_add_a_tag(project: Project, server: Hub) -> None:
    first, _ = send(server)
    before = len(server.writes())
    again, said = send(server)
    assert (again.commit, again.made_commit) == (first.commit, False)
    assert [line.split()[0] for line in said] == ["keep"] * 5 + ["files"]
    assert server.writes()[before:] == []
    tagged, _ = send(server, "v1.0")
    assert (tagged.commit, tagged.made_commit, tagged.made_tag) == (first.commit, False, True)
    thrice, said = send(server, "v1.0")
    assert (thrice.commit, thrice.made_commit, thrice.made_tag) == (first.commit, False, False)
    assert said == ["keep    tag v1.0, which holds all of this"]
    assert server.writes()[before:] == [f"POST /api/datasets/{NAME}/tag/{first.commit}"]


def test_stale_shards_go_and_files_of_others_stay(project: Project, server: Hub) -> None:
    send(server, "v1.0")
    theirs = {"images/plot.png": b"png", ".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n*.png x\n"}
    server.repositories.write(*REPO, theirs)
    project.release(ONE)
    received = server.received
    done, said = send(server, "v1.1")
    assert done.made_commit
    assert files(server) == {
        ".gitattributes", "images/plot.png", "README.md", "provenance.json", "pairs/train-00000-of-00001.parquet",
        "rewards/train-00000-of-00001.parquet",
    }  # fmt: skip
    assert {path: server.repositories.content(*REPO, path) for path in theirs} == theirs
    assert [line for line in said if line.startswith(("delete", "keep"))] == [
        f"keep    rewards/train-00000-of-00001.parquet  {said[3].split('  ')[-1]}",
        "delete  pairs/train-00000-of-00002.parquet", "delete  pairs/train-00001-of-00002.parquet",
    ]  # fmt: skip
    sent = (Path(EXPORT) / "pairs/train-00000-of-00001.parquet").stat().st_size
    assert server.received - received == sent, "only what changed"
    assert "pairs/train-00001-of-00002.parquet" in files(server, "v1.0"), "a version stays what it was"


def test_another_revision_is_published_without_a_checkout(project: Project, server: Hub) -> None:
    project.git("tag", "data-1")
    old = project.git("rev-parse", "HEAD")
    project.release(ONE)
    (project.root / "params.yaml").write_text("unfinished: work\n")
    made = release_content(snapshot_of(Path(), "data-1"))
    publish(repository(server), made)
    assert json.loads(server.repositories.content(*REPO, "provenance.json"))["revision"] == old
    assert "pairs/train-00001-of-00002.parquet" in files(server)


def test_what_is_not_committed_is_not_published(project: Project, server: Hub) -> None:
    project.write_params(seed=1)
    with pytest.raises(ValueError, match=r"params.yaml has changes that are not committed.* `git commit`.* or .*--rev"):
        content()


@pytest.mark.parametrize("kind", ["another commit", "another release"])
def test_a_tag_that_names_something_else_is_refused_before_anything_is_sent(
    project: Project, server: Hub, kind: str
) -> None:
    send(server)
    if kind == "another commit":
        first = server.repositories.history(*REPO)[-1]["id"]
        server.repositories.tag(*REPO, "v1.0", first)
    else:
        server.repositories.tag(*REPO, "v1.0", "main")
        project.release(ONE)
    before = server.writes()
    with pytest.raises(ValueError, match=r"team/sums: tag 'v1.0' is there, at \w{12}, and holds something else"):
        send(server, "v1.0")
    assert server.writes() == before


def test_a_tag_named_as_a_branch_is_refused(project: Project, server: Hub) -> None:
    done, _ = send(server)
    server.repositories.branch(*REPO, "dev", done.commit)
    with pytest.raises(ValueError, match="team/sums: 'dev' is the name of a branch there"):
        send(server, "dev")
    assert server.repositories.refs(*REPO)["tags"] == {}


def test_a_concurrent_change_is_refused_and_stays(project: Project, server: Hub) -> None:
    send(server)
    project.release(ONE)
    server.faults.append(
        Fault(
            f"POST /api/datasets/{NAME}/preupload", times=1, call=lambda: server.repositories.write(*REPO, {"a": b"1"})
        )
    )
    with pytest.raises(
        ValueError, match=r"changed since it was read, and nothing was overwritten; run the command again"
    ):
        send(server)
    assert server.repositories.history(*REPO)[0]["title"] == "by somebody else"
    assert "pairs/train-00001-of-00002.parquet" in files(server)
    send(server)
    assert "pairs/train-00001-of-00002.parquet" not in files(server)
    assert server.repositories.content(*REPO, "a") == b"1"


FOREIGN = {
    "a card of others": (
        {"README.md": b"# Mine\n"},
        "'README.md' is there and was not written by `pairwright publish`",
    ),
    "data of others": (
        {"rewards/train-00000-of-00001.parquet": b"x"},
        "'rewards/train-00000-of-00001.parquet' is there and was not written",
    ),
    "a provenance of others": ({"provenance.json": b"[1]"}, "'provenance.json' is there and was not written"),
}


@pytest.mark.parametrize(("there", "message"), FOREIGN.values(), ids=FOREIGN)
def test_files_that_others_wrote_are_not_overwritten_unasked(
    project: Project, server: Hub, there: dict[str, bytes], message: str
) -> None:
    server.repositories.create(*REPO)
    server.repositories.write(*REPO, there)
    with pytest.raises(ValueError, match=rf"^team/sums: {re.escape(message)}.*--replace"):
        send(server)
    assert len(server.repositories.history(*REPO)) == 2
    send(server, replace=True)
    assert b"configs" in server.repositories.content(*REPO, "README.md")


def test_a_card_that_was_edited_on_the_hub_is_not_overwritten_unasked(project: Project, server: Hub) -> None:
    send(server)
    server.repositories.write(*REPO, {"README.md": server.repositories.content(*REPO, "README.md") + b"\nBy hand.\n"})
    project.release(ONE)
    with pytest.raises(ValueError, match=r"'README.md' was changed on the Hub since it was published"):
        send(server)
    send(server, replace=True)
    assert b"By hand" not in server.repositories.content(*REPO, "README.md")


def test_a_file_of_others_that_would_be_read_as_data_is_refused(project: Project, server: Hub) -> None:
    send(server)
    server.repositories.write(*REPO, {"pairs/train-extra.parquet": b"x"})
    with pytest.raises(
        ValueError, match=r"'pairs/train-extra.parquet' is not of this release, and readers would take it"
    ):
        send(server)


def test_a_gitignore_on_the_hub_leaves_nothing_out(project: Project, server: Hub) -> None:
    server.repositories.create(*REPO)
    server.repositories.write(*REPO, {".gitignore": b"*.parquet\nprovenance.json\n"})
    send(server)
    assert {"provenance.json", "pairs/train-00000-of-00002.parquet"} <= files(server)


def test_long_trees_come_in_pages(project: Project, server: Hub) -> None:
    send(server)
    server.page = 2
    assert not send(server)[0].made_commit


def test_a_public_repository_does_not_become_private(project: Project, server: Hub) -> None:
    send(server)
    with pytest.raises(ValueError, match="team/sums is public; make it private in its settings"):
        send(server, private=True)


def test_a_dry_run_says_everything_and_changes_nothing(project: Project, server: Hub) -> None:
    made = content()
    lines = preview(repository(server), made, "v1.0", private=True)
    assert lines[0].startswith(f"create  {server.endpoint}/datasets/{NAME} (private")
    assert re.fullmatch(r"files   5 to send \([0-9.]+ kB\), 0 kept, 0 to delete; licence mit", lines[-3])
    assert lines[-2:] == ["tag     v1.0", "dry run: nothing was sent"]
    send(server)
    project.release(ONE)
    before = server.writes()
    lines = preview(repository(server), content())
    assert "delete  pairs/train-00001-of-00002.parquet" in lines
    assert any(line.startswith("keep    rewards/") for line in lines)
    assert server.writes() == before


def test_a_dry_run_without_a_network_says_what_would_be_sent(project: Project, server: Hub) -> None:
    repo = HubRepository(NAME, "dataset", HfApi(endpoint="http://127.0.0.1:9", token=WRITE))
    lines = preview(repo, content(), "v1.0")
    assert sum(line.startswith("send") for line in lines) == 5
    assert re.match(
        r"dry run: nothing was sent, and the Hub not asked: .* no answer from http://127.0.0.1:9", lines[-1]
    )


TOKENS = {
    "wrong": ("hf_nonsense", r"the Hub refuses your token; log in with `hf auth login`"),
    "of others": (STRANGER, r"cannot be created: your token has no permission for that \(You don't have the rights"),
    "for reading": (READ, r"cannot be created: your token has no permission for that"),
}


@pytest.mark.parametrize(("token", "message"), TOKENS.values(), ids=TOKENS)
def test_a_token_that_will_not_do_is_one_line_that_does_not_show_it(
    project: Project, server: Hub, token: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        send(server, token=token)
    assert "\n" not in str(error.value)
    assert token not in str(error.value)


def test_a_revoked_permission_is_one_line(project: Project, server: Hub) -> None:
    first, _ = send(server)
    server.tokens[WRITE] = server.tokens[READ]
    project.release(ONE)
    with pytest.raises(ValueError, match=r"team/sums cannot be changed: your token has no permission .* write token"):
        send(server)
    assert server.repositories.resolve(*REPO, "main") == first.commit


FAULTS = {
    "the server fails": (Fault("POST .*/commit/", status=500), "the Hub fails (500); run the command again later"),
    "uploads fail": (Fault("PUT /lfs/", status=503), "the Hub fails (503)"),
    "the connection is cut in an upload": (Fault("PUT /lfs/", cut="before"), "no answer from http://127.0.0.1"),
    "too many requests": (
        Fault("GET .*/tree/", status=429),
        "too many requests; run the command again in some minutes",
    ),
    "the answer to the commit is lost": (Fault("POST .*/commit/", cut="after"), "no answer from http://127.0.0.1"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_after_a_fault_the_same_command_completes(project: Project, server: Hub, fault: Fault, message: str) -> None:
    first, _ = send(server, "v1.0")
    project.release(ONE)
    server.faults.append(fault)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        send(server, "v1.1")
    assert "\n" not in str(error.value)
    history = server.repositories.history(*REPO)
    assert history[0]["id"] == first.commit or fault.cut == "after", "whole or not at all"
    server.faults.clear()
    done, _ = send(server, "v1.1")
    assert server.repositories.refs(*REPO)["tags"] == {"v1.0": first.commit, "v1.1": done.commit}
    assert len(server.repositories.history(*REPO)) == 3, "one commit for each version"


def test_a_tag_that_fails_after_the_commit_is_set_by_the_next_run(project: Project, server: Hub) -> None:
    server.faults.append(Fault("POST .*/tag/", status=500, times=1))
    with pytest.raises(ValueError, match=r"tagged 'v1.0'.*\(commit \w{12} is published; the same command again sets"):
        send(server, "v1.0")
    before = server.received
    done, _ = send(server, "v1.0")
    assert (done.made_commit, done.made_tag, server.received) == (False, True, before)
