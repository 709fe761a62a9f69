"""Figures against a count by hand."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.conftest import MakeModel
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.corpus import Sentence
from nertrainer.evaluation import Scores, evaluate, evaluate_spans, predict
from nertrainer.report import scores_table


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_figures_are_those_counted_by_hand(make_model: MakeModel, scheme: str) -> None:
    """Precision, recall and F1 count whole spans with their labels, whatever scheme the model writes."""
    model = make_model(scheme=scheme)
    words = [("Mary", "left", "Oslo"), ("the", "Okafor"), ("in", "Siemens", "Inc.", "and"), ("Unseen", "of", "a")]
    sentences = [Sentence(text, (Span(0, 1, "PER"), Span(1, 2, "LOC"))) for text in words]
    found = [set(spans) for spans in predict(model, sentences)]
    scored = [{span for span in spans if span.label in ("PER", "LOC")} for spans in found]
    hits = sum(len(spans & set(sentence.spans)) for spans, sentence in zip(scored, sentences, strict=True))
    result = evaluate(model, sentences)
    assert sum(result.ignored.values()) == sum(map(len, found)) - sum(map(len, scored))
    assert result.overall.support == 8
    assert result.overall.recall == pytest.approx(hits / 8)
    assert result.overall.precision == pytest.approx(hits / max(1, sum(map(len, scored))))


def test_a_model_that_is_always_right_scores_one(make_model: MakeModel) -> None:
    """Scored against its own spans a model is perfect, and a mislabelled span costs it."""
    model = make_model()
    sentences = [Sentence(("Mary", "Okafor", "left", "Oslo", word), ()) for word in ("in", "of", "Siemens", "the")]
    own = [
        replace(sentence, spans=tuple(spans))
        for sentence, spans in zip(sentences, predict(model, sentences), strict=True)
    ]
    assert any(sentence.spans for sentence in own)
    assert evaluate(model, own).overall.f1 == 1.0
    moved = {"LOC": "PER"}
    wrong = [
        replace(s, spans=tuple(span._replace(label=moved.get(span.label, "LOC")) for span in s.spans)) for s in own
    ]
    assert evaluate(model, wrong).overall.f1 < 1.0


def test_text_without_entities_can_be_scored(make_model: MakeModel) -> None:
    """With nothing to find every figure is zero and nothing fails."""
    result = evaluate(make_model(), [Sentence(("the", "of"), ())])
    assert (result.overall.support, result.per_type) == (0, {})


def test_odd_labels_are_scored_like_any_other(make_model: MakeModel) -> None:
    """Labels that seqeval or a table's markup could misread come out as they were written."""
    sentence = Sentence(("a", "b", "c"), (Span(0, 1, "X-"), Span(1, 2, "micro avg"), Span(2, 3, "[/b]")))
    result = evaluate(make_model(), [sentence])
    assert {label: scores.support for label, scores in result.per_type.items()} == {"X-": 1, "micro avg": 1, "[/b]": 1}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scores_table(result, "[/x]"))
    text = console.export_text()
    assert all(name in text for name in ("X-", "micro avg", "[/b]", "[/x]"))


@pytest.mark.parametrize("seed", range(10))
def test_scores_of_counts_are_those_of_seqeval(seed: int) -> None:
    """Precision, recall and F1 worked out from three counts are what seqeval finds in the tags."""
    sentences, predicted = random_pairs(seed, "AB")
    right = sum(len({*spans} & {*sentence.spans}) for spans, sentence in zip(predicted, sentences, strict=True))
    found = Scores.of(right, sum(map(len, predicted)), sum(len(sentence.spans) for sentence in sentences))
    expected = evaluate_spans(sentences, predicted).overall
    assert found.support == expected.support
    assert [found.precision, found.recall, found.f1] == pytest.approx(
        [expected.precision, expected.recall, expected.f1]
    )
