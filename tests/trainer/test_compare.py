"""Two models' spans on the same sentences."""

import numpy as np
import pytest
from tests.trainer.spans import random_pairs

from nermodel.tags import Span
from nertrainer.compare import Alone, Example, compare
from nertrainer.corpus import Sentence
from nertrainer.evaluation import evaluate_spans

Spans = list[tuple[Span, ...]]


def half_found() -> tuple[list[Sentence], Spans, Spans]:
    """Sentences of one entity, what finds it in every second, and what finds it always."""
    sentences = [Sentence(("x",), (Span(0, 1, "A"),))] * 60
    return (
        sentences,
        [each.spans if row % 2 else () for row, each in enumerate(sentences)],
        [each.spans for each in sentences],
    )


def test_a_model_is_no_better_than_itself() -> None:
    """Twice the same spans: no difference, no interval, p = 1, and nothing that one finds alone."""
    sentences, predicted = random_pairs(3, "ABC")
    result = compare(sentences, predicted, predicted)
    for difference in (result.overall, *result.per_type.values()):
        assert (difference.difference, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
    assert result.only_a == result.only_b == Alone(0, {}, ())


@pytest.mark.parametrize("seed", range(5))
def test_draws_are_scored_as_if_they_were_corpora(seed: int) -> None:
    """F1, its differences, interval and p-value are those of scoring every draw of sentences one by one."""
    sentences, a = random_pairs(seed, "AB", others="Z")
    b = [*random_pairs(seed, "AB")[1][1:], ()]
    b = [tuple(span for span in spans if span.end <= len(each.words)) for each, spans in zip(sentences, b, strict=True)]
    result = compare(sentences, a, b, resamples=40, seed=seed)
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(40):
        rows = rng.integers(len(sentences), size=len(sentences))
        f1_a, f1_b = (
            evaluate_spans([sentences[row] for row in rows], [spans[row] for row in rows]).overall.f1
            for spans in (a, b)
        )
        differences.append(f1_b - f1_a)
    observed = evaluate_spans(sentences, b).overall.f1 - evaluate_spans(sentences, a).overall.f1
    found = result.overall
    assert found.f1_a == pytest.approx(evaluate_spans(sentences, a).overall.f1)
    assert found.difference == pytest.approx(observed)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, (2.5, 97.5))))
    strays = sum(abs(difference - observed) >= abs(observed) - 1e-9 for difference in differences)
    assert found.p_value == pytest.approx((strays + 1) / 41)
    for label, scores in evaluate_spans(sentences, b).per_type.items():
        assert result.per_type[label].f1_b == pytest.approx(scores.f1)
        assert result.per_type[label].support == scores.support


def test_a_better_model_is_seen_to_be_better() -> None:
    """One that finds everything against one that finds half: the interval lies above zero and p is small."""
    result = compare(*half_found()).overall
    assert [result.f1_a, result.f1_b] == pytest.approx([2 / 3, 1])
    assert 0 < result.low < result.difference < result.high < 1
    assert result.p_value < 0.01


def test_what_one_finds_alone_is_told() -> None:
    """Counts by label and the most frequent entities, only of what is right and of what the other misses."""
    sentences = [
        Sentence(("New", "York", "x"), (Span(0, 2, "LOC"),)),
        Sentence(("New", "York"), (Span(0, 2, "LOC"),)),
        Sentence(("Ann", "Bo"), (Span(0, 1, "PER"), Span(1, 2, "PER"))),
    ]
    a = [(Span(0, 2, "LOC"),), (Span(0, 2, "LOC"),), (Span(0, 1, "PER"),)]
    b = [(Span(0, 2, "PER"), Span(2, 3, "LOC")), (), (Span(0, 1, "PER"), Span(1, 2, "PER"))]
    result = compare(sentences, a, b)
    assert result.only_a == Alone(2, {"LOC": 2}, (Example("New York", "LOC", 2),))
    assert result.only_b == Alone(1, {"PER": 1}, (Example("Bo", "PER", 1),))


def test_a_seed_gives_the_same_draws() -> None:
    """The figures can be had again; another seed draws others."""
    sentences, half, whole = half_found()
    assert compare(sentences, half, whole) == compare(sentences, half, whole)
    assert compare(sentences, half, whole, seed=2) != compare(sentences, half, whole)
