"""The revision of a release's data, in its card."""


def stamped_card(card: str, revision: str) -> str:
    """A release's card that also says which Git revision its data is of."""
    return (
        f"{card.rstrip()}\n\n## Version\n\nMade from Git revision `{revision}`. `provenance.json` has its params, the"
        " runs of each config and the SHA-256 of every file.\n"
    )
