"""JSON lines with character spans: what is read, what is left out, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nermodel.tags import Span
from nertrainer.corpus import Corpus, CorpusError
from nertrainer.jsonl import parse_spans

FILE = Path("file.jsonl")
TEXT = "Mary Okafor left Oslo. She joined Siemens."
PER, LOC, ORG = (0, 11, "PER"), (17, 21, "LOC"), (34, 41, "ORG")


def line(text: str, *spans: tuple[int, int, str], **more: Any) -> str:
    """A record as annotation tools write it."""
    values = [dict(zip(("start", "end", "label"), span, strict=True)) for span in spans]
    return json.dumps({"text": text, "spans": values, **more}) + "\n"


def read(text: str, **labels: str) -> Corpus:
    """The corpus of a file's text."""
    return parse_spans(FILE, text, labels)


def plain(corpus: Corpus) -> list[tuple[str, list[Span]]]:
    """Sentences with their words joined."""
    return [(" ".join(sentence.words), list(sentence.spans)) for sentence in corpus.sentences]


MARY = ("Mary Okafor left Oslo .", [Span(0, 2, "PER"), Span(3, 4, "LOC")])
SHE = ("She joined Siemens .", [Span(2, 3, "ORG")])


@pytest.mark.parametrize(
    "record",
    [
        line(TEXT, PER, LOC, ORG),
        line(TEXT, ORG, LOC, PER, PER),  # in any order, and one twice
        line(TEXT, PER, LOC, ORG, id=7, meta={"source": "x"}, answer="accept"),
        json.dumps({"text": TEXT, "label": [PER, LOC, ORG]}),  # Doccano
        json.dumps({"id": 1, "text": TEXT, "labels": [PER, LOC, ORG], "Comments": []}) + "\r\n\r\n",
    ],
)
def test_what_annotation_tools_export_is_read(record: str) -> None:
    """Text is cut into sentences and words, and character spans become token spans."""
    corpus = read(record)
    assert plain(corpus) == [MARY, SHE]
    assert (corpus.scheme, corpus.repairs, corpus.labels) == ("spans", [], ("LOC", "ORG", "PER"))
    assert corpus.places == ["file.jsonl:1", "file.jsonl:1"]


@given(st.text(alphabet="Ab9 .,'-\n😀é\u0301ßİ", max_size=60), st.data())
def test_spans_over_whole_words_come_back(text: str, data: st.DataObject) -> None:
    """Spans over any words of one sentence are read as those words, whatever the text."""
    words = "Oslo " + text
    sentences = read(line(words)).sentences
    at = 0
    offsets: list[list[tuple[int, int]]] = []  # of each sentence's words, found again in the text
    for sentence in sentences:
        offsets.append([])
        for word in sentence.words:
            start = words.index(word, at)
            at = start + len(word)
            offsets[-1].append((start, at))
    row = data.draw(st.integers(0, len(sentences) - 1))
    first = data.draw(st.integers(0, len(offsets[row]) - 1))
    last = data.draw(st.integers(first, len(offsets[row]) - 1))
    corpus = read(line(words, (offsets[row][first][0], offsets[row][last][1], "X")))
    assert corpus.repairs == []
    assert [list(sentence.spans) for sentence in corpus.sentences] == [
        [Span(first, last + 1, "X")] if at == row else [] for at in range(len(sentences))
    ]


def test_offsets_count_code_points() -> None:
    """A character outside the basic plane is one."""
    assert plain(read(line("😀 Oslo", (2, 6, "LOC")))) == [("😀 Oslo", [Span(1, 2, "LOC")])]


def test_given_tokens_are_the_words() -> None:
    """Tokens of the file go before our own cutting, and those of white space alone are no words."""
    offsets = [(0, 4), (4, 5), (5, 11), (11, 12), (12, 21), (21, 22), (23, 26), (27, 42)]
    tokens = [{"start": start, "end": end, "text": TEXT[start:end], "id": 1} for start, end in offsets]
    corpus = read(line(TEXT, PER, (27, 42, "ORG"), tokens=tokens))
    assert [(sentence.words, sentence.spans) for sentence in corpus.sentences] == [
        (("Mary", "Okafor", "left Oslo", "."), (Span(0, 2, "PER"),)),
        (("She", "joined Siemens."), (Span(1, 2, "ORG"),)),
    ]


@pytest.mark.parametrize(
    ("spans", "kept", "cause"),
    [
        ([(0, 9, "PER"), ORG], [SHE], "span 0-9 PER does not fall on word borders"),
        ([(4, 5, "PER"), ORG], [SHE], "span 4-5 PER does not fall on word borders"),  # a blank
        ([PER, (5, 21, "MISC"), ORG], [SHE], "span 5-21 MISC overlaps 0-11 PER"),
        ([PER, LOC, ORG, (34, 42, "MISC")], [MARY], "span 34-42 MISC overlaps 34-41 ORG"),
        ([(17, 26, "LOC")], [], "span 17-26 LOC crosses a sentence border"),
        ([PER, (34, 99, "ORG")], [], "span 34-99 ORG lies outside its text of 42 characters"),
        ([PER, (-7, 41, "ORG")], [], "span -7-41 ORG lies outside its text of 42 characters"),
        ([PER, (41, 41, "ORG")], [], "span 41-41 ORG is empty"),
        ([PER, (41, 34, "ORG")], [], "span 41-34 ORG ends before it begins"),
    ],
)
def test_a_misaligned_span_takes_its_sentences_with_it(
    spans: list[tuple[int, int, str]], kept: list[tuple[str, list[Span]]], cause: str
) -> None:
    """What it touches is left out, as O would be a lie, the rest is kept, and the span is named with its line."""
    corpus = read(line("Yes.") + line(TEXT, *spans))
    assert plain(corpus) == [("Yes .", []), *kept]
    (repair,) = corpus.repairs
    assert repair.startswith(f"file.jsonl:2: {cause}; ")


def test_every_span_that_overlaps_is_named() -> None:
    """Two spans inside a longer one are both named, with the longer one."""
    corpus = read(line(TEXT, (0, 21, "X"), (5, 11, "Y"), (12, 16, "Z")))
    assert plain(corpus) == [("She joined Siemens .", [])]
    assert [repair.split(";")[0] for repair in corpus.repairs] == [
        "file.jsonl:1: span 5-11 Y overlaps 0-21 X",
        "file.jsonl:1: span 12-16 Z overlaps 0-21 X",
    ]


def test_white_space_at_the_border_of_a_span_is_mended() -> None:
    """A span with a blank too many means its words, and is counted."""
    corpus = read(line(TEXT, PER, (16, 21, "LOC"), ORG))
    assert plain(corpus) == [MARY, SHE]
    assert corpus.repairs == ["file.jsonl:1: span 16-21 LOC read as 17-21, without the white space at its borders"]


def test_a_label_that_is_mapped_to_nothing_leaves_nothing_out() -> None:
    """A dropped label's spans may overlap others and miss the words."""
    corpus = read(line(TEXT, PER, LOC, ORG, (2, 30, "junk")), junk="", PER="person")
    assert plain(corpus)[0] == ("Mary Okafor left Oslo .", [Span(0, 2, "person"), Span(3, 4, "LOC")])
    assert corpus.repairs == []
    assert corpus.written == {"PER", "LOC", "ORG", "junk"}


def test_what_an_annotator_did_not_accept_is_left_out() -> None:
    """Rejected and ignored records are not taught, and are counted."""
    corpus = read(line("Yes.") + line(TEXT, PER, answer="reject") + line(TEXT, LOC, answer="ignore"))
    assert plain(corpus) == [("Yes .", [])]
    assert corpus.repairs == [f"file.jsonl:{at}: left out, as its answer is not accept" for at in (2, 3)]
    assert plain(read('{"text": "Yes.", "answer": "accept"}')) == [("Yes .", [])]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "not JSON: "),
        ("nothing", "not JSON: "),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ("[]", "no text"),
        ('{"text": 5, "spans": []}', "no text"),
        ('{"text": "Oslo"}', 'no "spans", "label" or "labels", only a text; give "spans": []'),
        (
            '{"text": "Oslo", "entities": [[0, 4, "LOC"]], "answer": "accept"}',
            'no "spans", "label" or "labels", beside the text only "entities", "answer"; rename',
        ),
        ('{"text": "Oslo", "spans": [], "labels": [[0, 4, "LOC"]]}', 'has "spans", "labels", of which only one'),
        ('{"text": "Oslo", "label": [[0, 4, "LOC"]], "label": []}', 'the key "label" stands twice'),
        ('{"text": "Oslo", "spans": [{"start": 0, "end": 4, "end": 3, "label": "X"}]}', 'the key "end" stands twice'),
        ('{"text": "Oslo", "spans": [], "\\ud83d": 1, "\\ud83d": 2}', 'the key "\\ud83d" stands twice'),
        ('{"text": "Oslo", "label": [[0, ' + "9" * 5000 + ', "LOC"]]}', "a number of 5,000 digits"),
        ('{"text": "Oslo", "label": [[0, 4, "\\ud83d"]]}', "label '\\ud83d' holds a control character or half"),
        ('{"text": "Oslo", "label": [[0, 4, "\\u001b[31m"]]}', "label '\\x1b[31m' holds a control character"),
        ('{"text": "Oslo", "spans": 5}', "malformed spans"),
        ('{"text": "Oslo", "spans": null}', "malformed spans"),
        ('{"text": "Oslo", "spans": [{"start": 0, "end": 4}]}', "malformed spans"),
        ('{"text": "Oslo", "label": ["LOC"]}', "not two whole numbers and a label"),
        ('{"text": "Oslo", "label": [[0, 4.0, "LOC"]]}', "not two whole numbers and a label"),
        ('{"text": "Oslo", "label": [[false, 4, "LOC"]]}', "not two whole numbers and a label"),
        ('{"text": "Oslo", "label": [[0, 4, ""]]}', "not two whole numbers and a label"),
        ('{"text": "Oslo", "label": [[0, 4, "A B"]]}', "label 'A B' holds white space"),
        ('{"text": "\\ud83d", "spans": []}', "half of a surrogate pair"),
        ('{"text": "Oslo", "spans": [], "tokens": 4}', "malformed tokens"),
        ('{"text": "Oslo", "spans": [], "tokens": ["Oslo"]}', "malformed tokens"),
        ('{"text": "Oslo", "spans": [], "tokens": [{"start": 0, "end": 5}]}', "token 0-5 is out of order"),
        (
            '{"text": "Oslo", "spans": [], "tokens": [{"start": 0, "end": 3}, {"start": 2, "end": 4}]}',
            "token 2-4 is out of order",
        ),
        (
            '{"text": "Oslo", "spans": [], "tokens": [{"start": 0, "end": 4, "text": "Rom"}]}',
            "token 0-4 is not the text",
        ),
    ],
)
def test_a_malformed_line_is_refused_by_file_and_line(record: str, message: str) -> None:
    """The error is one line that names the file, the line and what is wrong, and does not repeat the text."""
    with pytest.raises(CorpusError) as caught:
        read(line("Yes.") + record)
    assert str(caught.value).startswith("file.jsonl:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Oslo" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", line(""), line("Mary", (0, 2, "PER"))])
def test_a_file_without_a_sentence_is_refused(text: str) -> None:
    """Nothing to teach is an error, also where all had to be left out."""
    with pytest.raises(CorpusError, match=r"^file\.jsonl: holds no sentence"):
        read(text)
