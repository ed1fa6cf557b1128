"""What a release may be licensed as: never laxer than what its sources ask for.

Terms are ordered: public domain < permissive (keep the notice) < attribution < share-alike < non-commercial <
no-derivatives = unknown. The strictest
source sets the least; and since a licence further up may lack a term of one further down (CC BY-NC has no share-alike),
the card's licence must also have every term that any source has. Names are the Hub's (lower-case SPDX).

A licence that is not listed is `unknown`: whatever it asks for, only a licence that allows least, or `other` and
`unknown`, which promise nothing, is as strict.
"""

import re
from collections.abc import Iterable

LEVELS = ("public-domain", "permissive", "attribution", "share-alike", "non-commercial", "no-derivatives", "unknown")
"""Terms, laxest first; the last two are equally strict."""

_TERMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("mit", "isc", "bsd", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "zlib", "cdla-permissive-1.0",
         "cdla-permissive-2.0", "bsl-1.0"), ()),
    **dict.fromkeys(("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by"), ("attribution",)),
    **dict.fromkeys(("cc-by-sa-3.0", "cc-by-sa-4.0", "odbl", "gfdl", "cdla-sharing-1.0", "gpl", "gpl-2.0", "gpl-3.0",
                     "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0"), ("attribution", "share-alike")),
    **dict.fromkeys(("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"), ("attribution", "non-commercial")),
    **dict.fromkeys(("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
                    ("attribution", "share-alike", "non-commercial")),
    "cc-by-nd-4.0": ("attribution", "share-alike", "no-derivatives"),
    **dict.fromkeys(("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
                    ("attribution", "share-alike", "non-commercial", "no-derivatives")),
}  # fmt: skip
"""Licence -> its terms beside the notice. No-derivatives has share-alike: what may not be changed is not relicensed."""
_PUBLIC = ("cc0-1.0", "pddl", "unlicense", "wtfpl")
_STRICTEST = frozenset({"permissive", *_TERMS["cc-by-nc-nd-4.0"]})
_SILENT = ("other", "unknown")
"""Names that grant nothing."""
_COVERING = ("mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")


def identifier(name: str) -> str:
    """The Hub's name of a licence: `CC BY-SA 4.0` is `cc-by-sa-4.0`."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def is_known(name: str) -> bool:
    return identifier(name) in {*_TERMS, *_PUBLIC}


def terms(name: str) -> frozenset[str]:
    """What a licence asks for; an unknown one may ask for anything."""
    if identifier(name) in _PUBLIC:
        return frozenset()
    return frozenset({"permissive", *_TERMS.get(identifier(name), _STRICTEST)})


def level(name: str) -> str:
    """How strict a licence is, in one word of `LEVELS`."""
    if not is_known(name):
        return "unknown"
    return max(terms(name), key=LEVELS.index, default=LEVELS[0])


def laxer(licence: str, sources: Iterable[str]) -> list[str]:
    """The sources that ask for more than a licence does, sorted."""
    own = frozenset(LEVELS) if identifier(licence) in _SILENT else terms(licence)
    unknown = is_known(licence) and own != _STRICTEST
    return sorted({s for s in sources if not terms(s) <= own or (unknown and not is_known(s))})


def covering(sources: Iterable[str]) -> str | None:
    """The licence of one of the sources that covers those of all; None if none does, or one is unknown."""
    named = sorted({identifier(source) for source in sources})
    fit = [name for name in named if is_known(name) and not laxer(name, named)]
    return min(fit, key=lambda name: (LEVELS.index(level(name)), name), default=None)


def settle(stated: str | None, sources: Iterable[str], place: str) -> str:
    """The licence of a release, in the Hub's name.

    Raises ValueError, naming `place`, for one that is laxer than the strictest source, one that nobody knows, and where
    none is stated and the sources do not settle it.
    """
    found = sorted(set(sources))
    if stated is None:
        return _settled(found, place)
    licence = identifier(stated)
    if not is_known(licence) and licence not in _SILENT:
        raise ValueError(f"{place}: licence '{stated}' is not known here; name it as the Hub does, or say `other`")
    if strict := laxer(licence, found):
        named = ", ".join(f"{s} ({level(s)})" for s in strict)
        raise ValueError(
            f"{place}: licence '{licence}' is laxer than that of a source: {named}; use {_remedy(found)}, or leave the"
            " rows of that source out"
        )
    return licence


def _settled(sources: list[str], place: str) -> str:
    if not sources:
        return "unknown"
    if licence := covering(sources):
        return licence
    unknown = [s for s in sources if not is_known(s)]
    why = f"the licence of a source is not known ({', '.join(unknown)})" if unknown else (
        f"no source's licence has the terms of all ({', '.join(sources)})"
    )  # fmt: skip
    raise ValueError(f"{place}: {why}; state the release's own: {_remedy(sources)}")


def _remedy(sources: list[str]) -> str:
    """Licences that are as strict as these sources."""
    fit = [name for name in _COVERING if not laxer(name, sources)]
    return " or ".join(f"`licence: {name}`" for name in [*fit[:1], "other"])
