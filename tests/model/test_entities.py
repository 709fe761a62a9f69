"""A model's entities and their probabilities."""

import math
from itertools import product

import pytest
import torch
from tests.conftest import WORDS, MakeModel

from nermodel.checkpoint import Model
from nermodel.tags import SCHEMES, Scheme, Span, tags_to_spans

SENTENCES = [
    ["Mary", "Okafor"],
    [],
    ["in", "Oslo", "Siemens"],
    ["the"],
    ["Siemens", "Inc."],
    ["Mary", "left"],
    [*WORDS, "Unseen"] * 5,
]


def shares(model: Model, words: list[str]) -> dict[Span, float]:
    """The probability of every span, by the scores of all sequences of tags that may stand."""
    emissions, _, start, transitions, end = model.potentials([words])
    weights: dict[Span, float] = {}
    total = 0.0
    for path in product(range(len(model.tags)), repeat=len(words)):
        tags = torch.tensor(path)
        score = start[path[0]] + emissions[0, range(len(path)), tags].sum() + end[path[-1]]
        weight = math.exp(float(score + transitions[tags[:-1], tags[1:]].sum()))
        total += weight
        for span in tags_to_spans(model.tags[tag] for tag in path) if weight else ():
            weights[span] = weights.get(span, 0.0) + weight
    return {span: weight / total for span, weight in weights.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_those_of_the_tags_with_their_share_of_all_paths(make_model: MakeModel, scheme: Scheme) -> None:
    """The spans are those of `tag`; a score is the share of all legal sequences that hold the entity."""
    model = make_model(scheme=scheme)
    found = model.entities(SENTENCES)
    assert sum(map(len, found)) > 10
    for tags, entities in zip(model.tag(SENTENCES), found, strict=True):
        assert [span for span, _ in entities] == tags_to_spans(model.tags[tag] for tag in tags)
    short = [(words, entities) for words, entities in zip(SENTENCES, found, strict=True) if 0 < len(words) <= 3]
    assert sum(len(entities) for _, entities in short) > 1
    for words, entities in short:
        expected = shares(model, words)
        assert [score for _, score in entities] == pytest.approx([expected[span] for span, _ in entities], abs=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_do_not_depend_on_the_batch(make_model: MakeModel, scheme: Scheme) -> None:
    """A sentence alone has the entities and scores that it has among others, in any order."""
    model = make_model(scheme=scheme)
    together = model.entities(SENTENCES)
    for sentences in (*([words] for words in SENTENCES), SENTENCES[::-1]):
        for words, entities in zip(sentences, model.entities(sentences), strict=True):
            expected = together[SENTENCES.index(words)]
            assert [span for span, _ in entities] == [span for span, _ in expected]
            assert [score for _, score in entities] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_nothing_in_nothing_out(make_model: MakeModel) -> None:
    """No sentences, or only empty ones, have no entities."""
    assert make_model().entities([]) == []
    assert make_model().entities([[], []]) == [[], []]
