"""What is never published: files that are not what they should be, lax licences, gold answers, releases nobody has."""

import json
from pathlib import Path

import pytest

from builders.publishing.plans import Content
from builders.publishing.release import release_content, snapshot_of
from tests.publish_world import EXPORT, Project, pairs, rewards

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


def content() -> Content:
    return release_content(snapshot_of(Path(), None))


DAMAGE = {
    "a bit in a shard": ("pairs/train-00000-of-00002.parquet", b"x", r"damaged"),
    "no shard": ("pairs/train-00000-of-00002.parquet", None, r"not in the local cache; .*fetch"),
}


@pytest.mark.parametrize(("path", "change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_corrupt_local_file_is_never_sent(project: Project, path: str, change: bytes | None, message: str) -> None:
    cached = project.cached(f"{EXPORT}/{path}")
    if change is None:
        cached.unlink()
    else:
        cached.write_bytes(cached.read_bytes() + change)
    with pytest.raises(ValueError, match=message):
        content()


def test_a_file_that_is_not_what_the_provenance_says_is_never_sent(project: Project) -> None:
    shard = project.root / EXPORT / "pairs/train-00000-of-00002.parquet"
    shard.write_bytes((project.root / EXPORT / "pairs/train-00001-of-00002.parquet").read_bytes())
    project.track(EXPORT)
    with pytest.raises(
        ValueError, match=r"pairs/train-00000-of-00002.parquet: damaged or changed .*`dvc repro -f export@main"
    ):
        content()


def test_a_licence_laxer_than_a_source_is_refused(project: Project) -> None:
    project.release(ONE, licence="mit", sources={"gsm8k": "mit", "theirs": "cc-by-nc-4.0"})
    with pytest.raises(ValueError, match=r"'mit' is laxer than that of a source \(cc-by-nc-4.0\)"):
        content()
    project.release(ONE, licence="cc-by-nc-4.0", sources={"gsm8k": "mit", "theirs": "cc-by-nc-4.0"})
    assert content().licence == "cc-by-nc-4.0"


def test_a_config_without_licences_is_refused(project: Project) -> None:
    path = project.root / EXPORT / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"licences": {"rewards": []}}))
    project.track(EXPORT)
    with pytest.raises(ValueError, match=r"provenance.json states no licences for 'pairs'; rebuild it"):
        content()


def test_gold_answers_of_test_splits_need_two_consents(project: Project) -> None:
    project.write_params(export={"main": {"pairs": ["irpo_0"], "test_answers": True}})
    project.commit()
    with pytest.raises(
        ValueError, match=r"holds gold answers of test splits \(export.main.test_answers\).*--test-answers"
    ):
        content()
    assert release_content(snapshot_of(Path(), None), test_answers=True).files


RELEASES = {
    "unknown": ("other", r"no release 'other' under `export` in params.yaml of HEAD \(have main, small\)"),
    "not built": ("small", r"data/export/small is not in dvc.lock of HEAD; build it with `dvc repro`"),
    "not named": (None, r"name the release with --release \(params.yaml of HEAD has main, small\)"),
    "no name": ("../main", r"no release '../main'"),
}


@pytest.mark.parametrize(("name", "message"), RELEASES.values(), ids=RELEASES)
def test_releases_that_are_not_there(project: Project, name: str | None, message: str) -> None:
    project.write_params(export={"main": {}, "small": {}})
    project.commit()
    with pytest.raises(ValueError, match=message):
        release_content(snapshot_of(Path(), None), name)
