"""Scores as often right as they say."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import WORDS, MakeModel

from nermodel.checkpoint import Model
from nermodel.tagger import TorchTagger
from nermodel.tags import Span
from nertrainer.corpus import Corpus, Sentence
from nertrainer.temperature import TRIED, fitted_temperature


def drawn(model: Model, count: int) -> Corpus:
    """Sentences in which each entity of the model is right as often as it is scored."""
    rng = random.Random(1)
    sentences = []
    for _ in range(count):
        words = tuple(rng.choice(WORDS) for _ in range(3))
        (answer,) = TorchTagger(model).tag([words], [0])
        right = [entity for entity in answer.entities if rng.random() < (entity.score or 0)]
        sentences.append(Sentence(words, tuple(Span(*entity[:3]) for entity in right)))
    return Corpus(Path("drawn"), sentences, "BIO", (), (), frozenset(), "", ())


def test_the_temperature_that_the_data_was_drawn_at_is_found(make_model: MakeModel) -> None:
    """Data that a model at temperature 2 calls right as often as it says leads a model at 1 back to about 2."""
    model = make_model()
    honest = replace(model, card=replace(model.card, temperature=2.0))
    corpus = drawn(honest, 600)
    for begun in (model, honest):  # wherever it starts from
        found = fitted_temperature(begun, [corpus])
        assert 1.4 < found < 2.9, found


def test_without_entities_there_is_nothing_to_calibrate(make_model: MakeModel) -> None:
    """A model that finds nothing keeps temperature 1."""
    model = make_model()
    with torch.no_grad():
        model.network.output.bias[0] = 1e4
    assert fitted_temperature(model, [drawn(make_model(), 5)]) == 1.0
    assert 1.0 in TRIED or min(abs(tried - 1) for tried in TRIED) < 0.05


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e9])
def test_a_card_refuses_a_senseless_temperature(make_model: MakeModel, temperature: float) -> None:
    """It would make every score nonsense."""
    card = make_model().card
    values = {**card.to_json(), "created": "2026-11-22", "temperature": temperature, "known_answers": []}
    with pytest.raises(ValueError, match="temperature"):
        type(card).from_json(values)
