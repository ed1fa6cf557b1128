"""`pairwright publish`: prints what `builders.publishing` does, or would do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stores.plain import printable

if TYPE_CHECKING:
    from builders.publishing.plans import Content


def publish(
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the Hub; made if needed.")],
    release: Annotated[
        str | None, typer.Option(help="The release: an entry of `export` in params (default: the only one).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Publish this model run instead of a data set.")] = None,
    rev: Annotated[str | None, typer.Option(help="A tag, branch or commit (default: what is checked out).")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag for the published version, such as v1.0.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private from the start.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent and deleted; send nothing.")
    ] = False,
    test_answers: Annotated[
        bool, typer.Option("--test-answers", help="Allow a release that holds gold answers of test splits.")
    ] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Merge a model's LoRA adapter into its base.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Licence of a model (default: that of its training data).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite files that were written or changed by others on the Hub.")
    ] = False,
) -> None:
    """Publishes a data set release, or a trained model, on the Hugging Face Hub: one commit, then the tag.

    A second run sends nothing that is there already. Files of others are left alone, and a change that somebody makes
    meanwhile is refused, not overwritten.
    """
    from stores.hub_names import repository as checked_repository
    from stores.hub_names import tag as checked_tag

    checked_repository(repository)
    if tag is not None:
        checked_tag(tag)
    if model is not None:
        _refuse_together(model="model", release=release, test_answers=test_answers)
        from builders.publishing.model import model_content

        with model_content(Path(), model, rev, merge, licence, repository) as content:
            _publish(repository, content, tag, private, dry_run, replace)
        return
    _refuse_together(merge=merge, licence=licence)
    from builders.publishing.release import release_content, snapshot_of

    content = release_content(snapshot_of(Path(), rev), release, test_answers, repository)
    _publish(repository, content, tag, private, dry_run, replace)


def _refuse_together(model: str | None = None, **given: object) -> None:
    wrong = [name.replace("_", "-") for name, value in given.items() if value]
    if wrong:
        raise ValueError(f"--{wrong[0]} {'does not go with' if model else 'is for'} --model; leave it out")


def _publish(repository: str, content: "Content", tag: str | None, private: bool, dry_run: bool, replace: bool) -> None:
    from builders.publishing.hub_repository import HubRepository
    from builders.publishing.publishing import preview, publish

    repo = HubRepository(repository, content.kind)
    if not dry_run:
        done = publish(repo, content, tag, private, replace, say=lambda line: print(printable(line), flush=True))
        opened = f"  (hf://{repository}{f'@{done.tag}' if done.tag else ''})" if content.kind == "dataset" else ""
        print(f"{'published' if done.made_commit else 'nothing to send'}: {done.url}{opened}")
        return
    for line in preview(repo, content, tag, private, replace):
        print(printable(line))
