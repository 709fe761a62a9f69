"""Tags of the two strict schemes, the spans they mean, and which tag may follow which.

BIO (IOB2): `B-X` begins an entity, `I-X` continues it. BIOES: `S-X` is a whole one, `E-X` ends one of several tokens.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

Scheme = Literal["BIO", "BIOES"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
MAX_TAGS = 256  # a tag id travels as one byte


class Span(NamedTuple):
    """An entity over tokens [start, end)."""

    start: int
    end: int
    label: str


def tag_table(labels: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """Every tag of these labels, `O` first: the order of the network's outputs."""
    prefixes = "BI" if scheme == "BIO" else "BIES"
    return ("O", *(f"{prefix}-{label}" for label in sorted(labels) for prefix in prefixes))


def labels_of(table: Sequence[str]) -> tuple[str, ...]:
    """The labels of a tag table, sorted."""
    return tuple(sorted({tag[2:] for tag in table if tag != "O"}))


def check_table(table: Sequence[str]) -> None:
    """ValueError unless `tag_table` makes this table of labels without white space, and a byte can number its tags."""
    labels = labels_of(table)
    if len(table) > MAX_TAGS:
        raise ValueError(f"{len(labels)} labels make {len(table)} tags, more than {MAX_TAGS}; use fewer labels")
    if not labels or tuple(table) not in [tag_table(labels, scheme) for scheme in SCHEMES]:
        raise ValueError(f"the tag table is not that of one or more labels in {' or '.join(SCHEMES)}")
    for label in labels:
        if not label or label != "".join(label.split()):
            raise ValueError(f"the label {label!r} is empty or holds white space; rename it")


def spans_to_tags(spans: Iterable[Span], length: int, scheme: Scheme) -> list[str]:
    """Tags of a sentence of `length` tokens with these spans; ValueError where two overlap or one lies outside."""
    tags = ["O"] * length
    for start, end, label in spans:
        if not 0 <= start < end <= length:
            raise ValueError(f"span {start}-{end} lies outside a sentence of {length} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"span {start}-{end} overlaps another")
        tags[start:end] = [f"I-{label}"] * (end - start)
        tags[start] = f"B-{label}"
        if scheme == "BIOES":
            tags[end - 1] = f"E-{label}" if end - start > 1 else f"S-{label}"
    return tags


def tags_to_spans(tags: Iterable[str]) -> list[Span]:
    """Spans of a valid sequence of either scheme, in order."""
    spans: list[Span] = []
    start, label, position = -1, "", 0
    for position, tag in enumerate(tags):
        if tag[0] in "BSO" and start >= 0:
            spans.append(Span(start, position, label))
            start = -1
        if tag[0] in "BS":
            start, label = position, tag[2:]
    if start >= 0:
        spans.append(Span(start, position + 1, label))
    return spans


def may_start(tag: str) -> bool:
    """Whether a sentence may begin with this tag."""
    return tag[0] in "OBS"


def may_end(table: Sequence[str], tag: str) -> bool:
    """Whether a sentence may end with this tag."""
    return tag[0] in "OES" or (tag[0] in "BI" and not _is_bioes(table))


def may_follow(table: Sequence[str], before: str, after: str) -> bool:
    """Whether `after` may come right after `before`."""
    continues = before[0] in "BI" and after[0] in "IE" and before[2:] == after[2:]
    return continues or (may_end(table, before) and may_start(after))


def _is_bioes(table: Sequence[str]) -> bool:
    return any(tag[0] in "ES" for tag in table)
