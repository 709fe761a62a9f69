"""What the reference tagger answers: tags, entities and their probabilities."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from tests.conftest import WORDS, MakeModel

import nermodel.windows
from nermodel.checkpoint import Model
from nermodel.network import Batch
from nermodel.tagger import Answer, Ask, Entity, TorchTagger
from nermodel.tags import SCHEMES, Scheme, Span, tags_to_spans
from nermodel.windows import CONTEXT_TOKENS, WINDOW_TOKENS, windows

SENTENCES = [
    ["Mary", "Okafor"],
    [],
    ["in", "Oslo", "Siemens"],
    ["the"],
    ["Siemens", "Inc."],
    ["Mary", "left"],
    [*WORDS, "Unseen"] * 5,
]
ASKS: list[Ask] = [0, 0.5, 0.2, None, 0.01, 0.001, 0.2]


def test_a_plain_answer_is_the_tags_and_what_they_mean(make_model: MakeModel) -> None:
    """Tags are those of `Model.tag`; the entities are theirs, without scores."""
    model = make_model()
    answers = TorchTagger(model).tag(SENTENCES, [None] * len(SENTENCES))
    assert [list(answer.tags) for answer in answers] == model.tag(SENTENCES)
    assert sum(len(answer.entities) for answer in answers) > 10
    for answer in answers:
        spans = tags_to_spans(model.tags[tag] for tag in answer.tags)
        assert answer.entities == [Entity(*span, None) for span in spans]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scores_are_shares_of_all_paths(make_model: MakeModel, scheme: Scheme, temperature: float) -> None:
    """A score is the share of all legal sequences of tags that hold the entity, at the model's temperature."""
    model = at(temperature, make_model(scheme=scheme))
    answers = TorchTagger(model).tag(SENTENCES, [0] * len(SENTENCES))
    assert [list(answer.tags) for answer in answers] == model.tag(SENTENCES)
    short = [(words, answer) for words, answer in zip(SENTENCES, answers, strict=True) if 0 < len(words) <= 3]
    assert sum(len(answer.entities) for _, answer in short) > 1
    for words, answer in short:
        expected = shares(model, words)
        spans = tags_to_spans(model.tags[tag] for tag in answer.tags)
        assert [Span(*entity[:3]) for entity in answer.entities] == spans
        assert [entity.score for entity in answer.entities] == pytest.approx(
            [expected[span] for span in spans], abs=1e-5
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_entity_of_a_least_probability_is_found(make_model: MakeModel, scheme: Scheme) -> None:
    """All spans that are so probable, also those that overlap, and no other, in order; the tags are still the best."""
    model = at(1.5, make_model(scheme=scheme))
    words, least = ["in", "Oslo", "Siemens"], 0.05
    (answer,) = TorchTagger(model).tag([words], [least])
    expected = {span: share for span, share in shares(model, words).items() if share >= least}
    assert list(answer.tags) == model.tag([words])[0]
    assert [Span(*entity[:3]) for entity in answer.entities] == sorted(expected)
    assert any(one.start < two.end and two.start < one.end for one in expected for two in expected if one != two)
    for entity in answer.entities:
        assert entity.score == pytest.approx(expected[Span(*entity[:3])], abs=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_answer_does_not_depend_on_the_batch(make_model: MakeModel, scheme: Scheme) -> None:
    """A sentence alone gets what it gets among others that are asked for other things, in any order."""
    tagger = TorchTagger(make_model(scheme=scheme))
    together = tagger.tag(SENTENCES, ASKS)
    assert sum(len(answer.entities) for answer in together) > 20
    for rows in (*([row] for row in range(len(SENTENCES))), list(range(len(SENTENCES)))[::-1]):
        answers = tagger.tag([SENTENCES[row] for row in rows], [ASKS[row] for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            assert_same(answer, together[row])


def test_a_temperature_changes_scores_and_no_entity(make_model: MakeModel) -> None:
    """Every entity stays, and its score moves away from or towards certainty."""
    cold, plain, hot = (TorchTagger(at(value, make_model())).tag([list(WORDS)], [0])[0] for value in (0.5, 1.0, 3.0))
    assert cold.tags == plain.tags == hot.tags
    assert [entity[:3] for entity in cold.entities] == [entity[:3] for entity in hot.entities]
    assert sum(entity.score or 0 for entity in cold.entities) > sum(entity.score or 0 for entity in hot.entities)


def test_nothing_in_nothing_out(make_model: MakeModel) -> None:
    """No sentences have no answers, and empty ones have no tags and no entities."""
    tagger = TorchTagger(make_model())
    assert tagger.tag([], []) == []
    assert tagger.tag([[], [], []], [None, 0, 0.5]) == [Answer(b"", [])] * 3


def test_a_long_sentence_is_read_in_windows_and_decoded_once(make_model: MakeModel) -> None:
    """Its scores are those of windows with context, each read as a sentence, stitched; other sentences are as ever."""
    model = make_model()
    length = 2 * WINDOW_TOKENS + 7
    long = [WORDS[(row * row) % len(WORDS)] for row in range(length)]
    emissions = [
        model.network.potentials(Batch.of([long[start:end]], model.vocabulary, model.device)).emissions[0, first:last]
        for start, end, first, last in [
            (0, WINDOW_TOKENS + CONTEXT_TOKENS, 0, WINDOW_TOKENS),
            (WINDOW_TOKENS - CONTEXT_TOKENS, length, CONTEXT_TOKENS, CONTEXT_TOKENS + WINDOW_TOKENS),
            (2 * WINDOW_TOKENS - CONTEXT_TOKENS, length, CONTEXT_TOKENS, CONTEXT_TOKENS + 7),
        ]
    ]
    expected = torch.cat(emissions)
    potentials = model.potentials([SENTENCES[0], long])
    assert potentials.lengths.tolist() == [2, length]
    torch.testing.assert_close(potentials.emissions[1], expected, rtol=0, atol=1e-5)
    (short,) = model.potentials(SENTENCES[:1]).emissions
    torch.testing.assert_close(potentials.emissions[0, :2], short, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ask", [None, 0, 0.3])
def test_a_long_sentence_is_answered_as_if_it_were_read_whole(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """Beyond its context a window sees nothing that counts: the answer is that of one reading, also among others."""
    model = make_model()
    long = [WORDS[(row * row) % len(WORDS)] for row in range(2 * WINDOW_TOKENS + 300)]
    short, answer, empty = TorchTagger(model).tag([SENTENCES[0], long, []], [None, ask, None])
    assert_same(short, TorchTagger(model).tag(SENTENCES[:1], [None])[0])
    assert len(windows(len(long))) == 3
    assert len(answer.entities) > 100
    assert empty == Answer(b"", [])
    monkeypatch.setattr(nermodel.windows, "WINDOW_TOKENS", len(long))
    assert len(windows(len(long))) == 1
    assert_same(answer, TorchTagger(model).tag([long], [ask])[0])


def at(temperature: float, model: Model) -> Model:
    """The model with another temperature."""
    return replace(model, card=replace(model.card, temperature=temperature))


def assert_same(one: Answer, other: Answer, within: float = 1e-5) -> None:
    """The same but for the last digits of the scores."""
    assert one.tags == other.tags
    assert [entity[:3] for entity in one.entities] == [entity[:3] for entity in other.entities]
    for first, second in zip(one.entities, other.entities, strict=True):
        assert first.score == pytest.approx(second.score, abs=within)


def shares(model: Model, words: list[str]) -> dict[Span, float]:
    """The probability of every span, by the scores of all sequences of tags that may stand."""
    emissions, _, start, transitions, end = model.potentials([words]).tempered(model.card.temperature)
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
