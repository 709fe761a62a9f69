"""The schemes that column files write entities in: which one it is, the entities meant, and what breaks it.

IO: `I-X` on each token of an entity. IOB1: the same, but `B-X` on the first token of one right after another of its
label. BIO (IOB2): `B-X` on each first token. BIOES (IOBES): `E-X` on the last of several, `S-X` on a single one.
BILOU: the same with `L-X` and `U-X`.

The entities that tags mean do not depend on the scheme: one begins at B, S and U and where no other is open, and ends
after E, L, S and U, before the next begins, and where the label changes. Only what counts as broken depends on it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from nermodel.tags import Span

SCHEMES = ("BIO", "IO", "IOB1", "BIOES", "BILOU")  # of two that fit equally, the first is taken
_NONE = Span(-1, -1, "")


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities that tags of any scheme mean, in order."""
    spans: list[Span] = []
    start = -1  # of the entity that is open
    for at, tag in enumerate((*tags, "O")):
        prefix, label = tag[0], tag[2:]
        if start >= 0 and (prefix in "OBSU" or label != tags[start][2:]):
            spans.append(Span(start, at, tags[start][2:]))
            start = -1
        if prefix != "O" and start < 0:
            start = at
        if prefix in "ESLU":
            spans.append(Span(start, at + 1, label))
            start = -1
    return spans


def scheme_of(sentences: Iterable[tuple[Sequence[str], Sequence[Span]]]) -> str:
    """The scheme that the fewest of these tags break, given them with their `spans_of`; BIO where all are O.

    IOB1 without two neighbours of one label is IO: the two write the same.
    """
    seen = Counter(
        ("".join(tag[0] for tag in tags[span.start : span.end]), follows)
        for tags, spans in sentences
        for span, follows in _with_neighbours(spans)
    )
    broken = {
        scheme: sum(
            count * sum(a != b for a, b in zip(found, _prefixes(scheme, len(found), follows), strict=True))
            for (found, follows), count in seen.items()
        )
        for scheme in SCHEMES
    }
    return min(SCHEMES, key=broken.__getitem__)


def repairs_of(tags: Sequence[str], spans: Sequence[Span], scheme: str) -> Iterator[tuple[int, str]]:
    """Tokens whose tag is not the one that the scheme has for these spans of theirs, each with that tag."""
    for span, follows in _with_neighbours(spans):
        for at, prefix in enumerate(_prefixes(scheme, span.end - span.start, follows), span.start):
            if tags[at][0] != prefix:
                yield at, f"{prefix}-{span.label}"


def _with_neighbours(spans: Sequence[Span]) -> Iterator[tuple[Span, bool]]:
    """Each span, and whether one of the same label ends where it begins."""
    for before, span in pairwise((_NONE, *spans)):
        yield span, (before.end, before.label) == (span.start, span.label)


def _prefixes(scheme: str, length: int, follows: bool) -> str:
    """The first letters of an entity's tags."""
    if scheme in ("IO", "IOB1"):
        return ("B" if follows and scheme == "IOB1" else "I") + "I" * (length - 1)
    if scheme == "BIO":
        return "B" + "I" * (length - 1)
    last, single = "ES" if scheme == "BIOES" else "LU"
    return single if length == 1 else "B" + "I" * (length - 2) + last
