"""Annotated sentences from JSON lines with character spans, as annotation tools export them.

Each line is `{"text": "...", "spans": [{"start": 0, "end": 4, "label": "PER"}]}`: offsets count Unicode code points,
the end is exclusive. `"label"` or `"labels"` with `[[0, 4, "PER"]]` is read too. Text is cut into sentences and words
as the server cuts it; `"tokens": [{"start": 0, "end": 4}]` gives other words. What an annotator did not accept
(`"answer"`) is left out; further keys are ignored.

A span that cannot be written over words would teach, as O, what is an entity. So the sentences it touches are left out,
and each such span is reported.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nermodel.tags import Span
from nermodel.text import Offsets, split_sentences, tokenize
from nertrainer.corpus import Corpus, CorpusError, Sentence, check_label

_EXPECTED = 'expected {"text": "...", "spans": [{"start": 0, "end": 4, "label": "PER"}]}'
_KEYS = ("spans", "label", "labels")  # any one of them holds the spans
_FOREIGN_KEYS = ("entities", "ents", "annotations")  # what other tools call them
_MOST_DIGITS = 100


class _Record(NamedTuple):
    """One line of the file."""

    text: str
    tokens: list[Offsets] | None  # None where they are not given
    spans: list[Span]  # over characters, by their start
    accepted: bool


def parse_spans(path: Path, text: str, label_map: Mapping[str, str]) -> Corpus:
    """Read a file's text; `label_map` renames labels, to "" drops them. CorpusError says what is malformed."""
    sentences: list[Sentence] = []
    places: list[str] = []
    repairs: list[str] = []
    written: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = _record(line)
            for label in {span.label for span in record.spans}:
                check_label(label)
                written.add(label)
            renamed = [span._replace(label=label_map.get(span.label, span.label)) for span in record.spans]
            for label in {span.label for span in renamed}:
                if label != "".join(label.split()):
                    raise ValueError(f"label {label!r} holds white space; rename it, with --labels for one")
        except ValueError as error:
            raise CorpusError(f"{place}: {error}") from error
        if not record.accepted:
            repairs.append(f"{place}: left out, as its answer is not accept")
            continue
        spans = dict.fromkeys(span for span in renamed if span.label)  # a span that stands there twice counts once
        found, broken = _align(record.text, record.tokens, list(spans))
        sentences += found
        places += [place] * len(found)
        repairs += [f"{place}: {message}" for message in broken]
    if not sentences:
        raise CorpusError(f"{path}: holds no sentence{' that could be kept' if repairs else ''}; {_EXPECTED} on a line")
    return Corpus(path, sentences, "spans", repairs, places, frozenset(written), "JSON lines", [path])


def _record(line: str) -> _Record:
    """ValueError says what is malformed."""
    try:
        values = json.loads(line, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}; {_EXPECTED}") from error
    except RecursionError as error:
        raise ValueError(f"nested too deeply; {_EXPECTED}") from error
    if not isinstance(values, dict) or not isinstance(values.get("text"), str):
        raise ValueError(f"no text; {_EXPECTED}")
    text = values["text"]
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("half of a surrogate pair in the text; write it as valid Unicode")
    keys = [key for key in _KEYS if key in values]
    if len(keys) > 1:
        raise ValueError(f"has {_quoted(keys)}, of which only one can hold the spans; keep that one")
    others = [key for key in values if key != "text"]
    if not keys and ("answer" not in values or not {*_FOREIGN_KEYS}.isdisjoint(others)):
        found = f"beside the text only {_quoted(others)}; rename the key of the spans" if others else "only a text"
        raise ValueError(f'no "spans", "label" or "labels", {found}; give "spans": [] where there is no entity')
    tokens = _tokens(values["tokens"], text) if "tokens" in values else None
    spans = _spans(values[keys[0]]) if keys else []
    return _Record(text, tokens, spans, values.get("answer", "accept") == "accept")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a key stands twice, as one of its values would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_quoted([key])} stands twice in one object; keep one")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; offsets count characters of the text, so mend it")
    return int(digits)


def _quoted(keys: Sequence[str]) -> str:
    """The first keys as JSON has them, cut to a length that a line bears."""
    return ", ".join([json.dumps(key[:30]) for key in keys[:6]] + ["..."] * (len(keys) > 6))


def _spans(values: Any) -> list[Span]:
    try:
        triples = [(v["start"], v["end"], v["label"]) if isinstance(v, dict) else tuple(v) for v in values]
    except (KeyError, TypeError) as error:
        raise ValueError(f"malformed spans; {_EXPECTED}") from error
    for triple in triples:
        if [type(value) for value in triple] != [int, int, str] or not triple[2]:
            raise ValueError(f"a span that is not two whole numbers and a label; {_EXPECTED}")
    return sorted(Span(*triple) for triple in triples)


def _tokens(values: Any, text: str) -> list[Offsets]:
    """Offsets of the given tokens, without those of white space alone."""
    try:
        found = [(token["start"], token["end"], token.get("text")) for token in values]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError('malformed tokens; expected "tokens": [{"start": 0, "end": 4}]') from error
    reached = 0
    for start, end, word in found:
        if type(start) is not int or type(end) is not int or not reached <= start < end <= len(text):
            raise ValueError(f"token {start}-{end} is out of order, empty or outside the text")
        if word is not None and word != text[start:end]:
            raise ValueError(f"token {start}-{end} is not the text there; offsets count Unicode code points")
        reached = end
    return [(start, end) for start, end, _ in found if text[start:end].strip()]


def _align(text: str, tokens: Sequence[Offsets] | None, spans: Sequence[Span]) -> tuple[list[Sentence], list[str]]:
    """Sentences with the spans over their words, less those that a misaligned span touches, and what was mended."""
    sentences = _cut(text, tokens)
    starts = {start: (row, at) for row, words in enumerate(sentences) for at, (start, _) in enumerate(words)}
    ends = {end: (row, at + 1) for row, words in enumerate(sentences) for at, (_, end) in enumerate(words)}
    found: list[list[Span]] = [[] for _ in sentences]
    bad: set[int] = set()
    messages: list[str] = []
    reached = Span(0, 0, "")  # the span with the furthest end so far
    for start, end, label in spans:
        name = f"span {start}-{end} {label}"
        if not 0 <= start < end <= len(text):
            cause = (
                f"lies outside its text of {len(text)} characters"
                if start < end
                else "is empty"
                if start == end
                else "ends before it begins"
            )
            messages.append(f"{name} {cause}; its whole text is left out")
            bad.update(range(len(sentences)))
            continue
        inner = text[start:end]
        trimmed = Span(start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip()), label)
        first, last = starts.get(trimmed.start), ends.get(trimmed.end)
        if trimmed.start < reached.end:
            cause = f"overlaps {reached.start}-{reached.end} {reached.label}"
        elif first is None or last is None or trimmed.start >= trimmed.end:
            cause = "does not fall on word borders"
        elif first[0] != last[0]:
            cause = "crosses a sentence border"
        else:
            cause = ""
            found[first[0]].append(Span(first[1], last[1], label))
            if (start, end) != trimmed[:2]:
                messages.append(f"{name} read as {trimmed.start}-{trimmed.end}, without the white space at its borders")
        if cause:
            touched = [row for row, words in enumerate(sentences) if words[0][0] < end and start < words[-1][1]]
            messages.append(f"{name} {cause}; left out with the sentences it touches: {len(touched)}")
            bad.update(touched)
        reached = max(reached, trimmed, key=lambda each: each.end)
    kept = [
        Sentence(tuple(text[start:end] for start, end in words), tuple(found[row]))
        for row, words in enumerate(sentences)
        if row not in bad
    ]
    return kept, messages


def _cut(text: str, tokens: Sequence[Offsets] | None) -> list[list[Offsets]]:
    """Words of each sentence; a given token belongs to the sentence that it begins in."""
    cut: list[list[Offsets]] = []
    given = list(tokens or ())[::-1]
    for start, end in split_sentences(text):
        if tokens is None:
            words = [(start + first, start + last) for first, last in tokenize(text[start:end])]
        else:
            words = []
            while given and given[-1][0] < end:
                words.append(given.pop())
        if words:
            cut.append(words)
    return cut
