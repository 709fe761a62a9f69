"""Figures by group, the worst sentences, and how probable the gold is."""

import json
import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from tests.conftest import MakeModel
from tests.trainer.spans import random_pairs

from nermodel.tagger import TorchTagger
from nermodel.tags import SCHEMES, Scheme, Span, tags_to_spans
from nertrainer.corpus import Sentence
from nertrainer.evaluation import Scores, predict
from nertrainer.evidence import WORST, Evidence, examine
from nertrainer.predictions import Prediction, Speed, gold_log_probabilities, predictions

SPEED = Speed(1.0, 1.0, "cpu", 1)


def examined(
    sentences: list[Sentence], predicted: list[tuple[Span, ...]], training: list[Sentence] | None = None
) -> Evidence:
    """Of spans with a score of 0.9 each; the later the sentence, the less probable its gold."""
    found = [Prediction([(span, 0.9) for span in spans], -float(row)) for row, spans in enumerate(predicted)]
    return examine(sentences, [f"f:{row}" for row in range(len(sentences))], found, SPEED, training)


def test_entities_are_grouped_by_their_length() -> None:
    """Each length has the precision and recall of the entities that have it, from four tokens on together."""
    gold = (Span(0, 1, "A"), Span(1, 2, "A"), Span(2, 4, "A"), Span(4, 8, "A"), Span(8, 13, "A"))
    predicted = (Span(0, 1, "A"), Span(2, 3, "A"), Span(4, 8, "A"), Span(8, 12, "A"))
    found = examined([Sentence(("w",) * 13, gold)], [predicted]).by_entity_length
    assert found == {
        "1": Scores.of(1, 2, 2),
        "2": Scores.of(0, 0, 1),
        "3": Scores.of(0, 0, 0),
        "4+": Scores.of(1, 2, 2),
    }


@pytest.mark.parametrize(
    ("length", "group"),
    [(1, "1-10"), (10, "1-10"), (11, "11-20"), (20, "11-20"), (21, "21-40"), (40, "21-40"), (41, "41+")],
)
def test_entities_are_grouped_by_the_length_of_their_sentence(length: int, group: str) -> None:
    """A sentence's entities are counted in the range that holds its length."""
    sentence = Sentence(("w",) * length, (Span(0, 1, "A"),))
    found = examined([sentence], [sentence.spans]).by_sentence_length
    assert {name: scores.support for name, scores in found.items() if scores.support} == {group: 1}


def test_seen_entities_are_told_from_unseen_ones() -> None:
    """By their words in the training text: an entity there, of whatever type, other words there, or not there."""
    training = [Sentence(("in", "New", "York", "Times", "Square"), (Span(1, 3, "ORG"),))]
    sentence = Sentence(
        ("New", "York", "and", "Times", "Square", "or", "York", "New", "New"),
        (Span(0, 2, "LOC"), Span(3, 5, "LOC"), Span(6, 8, "LOC")),
    )
    predicted = (Span(0, 2, "LOC"), Span(3, 5, "LOC"), Span(6, 7, "LOC"), Span(7, 9, "LOC"))
    assert examined([sentence], [predicted], training).by_surface == {
        "seen entity": Scores.of(1, 1, 1),
        "seen words": Scores.of(1, 2, 1),
        "unseen": Scores.of(0, 1, 1),
    }
    assert examined([sentence], [predicted]).by_surface is None


@pytest.mark.parametrize("seed", range(10))
def test_groups_add_up(seed: int) -> None:
    """Whatever the grouping, its gold entities and its right ones are those of the whole."""
    sentences, predicted = random_pairs(seed, "AB")
    found = examined(sentences, predicted, sentences[:1])
    assert found.by_surface
    for groups in (found.by_entity_length, found.by_sentence_length, found.by_surface):
        assert sum(scores.support for scores in groups.values()) == found.evaluation.overall.support
        right = sum(scores.recall * scores.support for scores in groups.values())
        assert right == pytest.approx(found.evaluation.overall.recall * found.evaluation.overall.support)


@pytest.mark.parametrize("seed", range(10))
def test_labels_that_are_not_annotated_count_nowhere(seed: int) -> None:
    """Predictions of other labels change no figure but the count of what was ignored."""
    sentences, predicted = random_pairs(seed, "AB", others="YZ")
    kept = [tuple(span for span in spans if span.label in "AB") for spans in predicted]
    found = examined(sentences, predicted, sentences[:2])
    expected = examined(sentences, kept, sentences[:2])
    assert sum(found.evaluation.ignored.values()) == sum(map(len, predicted)) - sum(map(len, kept))
    assert replace(found, evaluation=replace(found.evaluation, ignored={})) == expected


def test_the_worst_sentences_come_first() -> None:
    """Those with most errors, of equals the one whose gold is less probable; none that is all right."""
    gold = (Span(0, 1, "A"), Span(1, 2, "A"))
    predicted = [gold, (), gold[:1], (Span(0, 1, "B"), Span(1, 2, "B")), gold[1:]]
    sentences = [Sentence(("x", "y", "z"), (*gold, Span(2, 3, "B")))] * 5
    found = examined(sentences, [(*spans, Span(2, 3, "B")) for spans in predicted]).worst
    assert [(each.place, each.errors) for each in found] == [("f:3", 4), ("f:1", 2), ("f:4", 1), ("f:2", 1)]
    assert len(examined(sentences * 9, [()] * 45).worst) == WORST


def test_everything_is_plain_json() -> None:
    """A probability of zero is null there, spans are objects with their words, and no figure is not a number."""
    sentence = Sentence(("New", "York", "x"), (Span(0, 2, "LOC"),))
    found = examine([sentence], ["f:1"], [Prediction([(Span(0, 1, "LOC"), 0.25)], -math.inf)], SPEED, [])
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (plain["f1"], plain["per_type"]["LOC"]["support"], plain["calibration"]["ece"]) == (0, 1, 0.25)
    assert plain["worst"] == [
        {
            "place": "f:1",
            "words": ["New", "York", "x"],
            "errors": 2,
            "log_probability": None,
            "gold": [{"start": 0, "end": 2, "label": "LOC", "surface": "New York"}],
            "predicted": [{"start": 0, "end": 1, "label": "LOC", "surface": "New", "score": 0.25}],
        }
    ]


@pytest.mark.parametrize("labels", [{"LOC", "PER"}, {"LOC", "MISC", "ORG", "PER"}])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gold_has_the_share_of_the_paths_that_mean_it(
    make_model: MakeModel, scheme: Scheme, labels: set[str]
) -> None:
    """All paths count whose entities of the annotated labels are the gold ones, whatever they say of other labels."""
    model = make_model(scheme=scheme)
    words = ("Mary", "in", "Oslo")
    emissions, _, start, transitions, end = model.potentials([words])
    steps, rows = transitions.tolist(), emissions[0].tolist()
    shares: dict[tuple[Span, ...], float] = {}
    for path in product(range(len(model.tags)), repeat=len(words)):
        score = float(start[path[0]] + end[path[-1]])
        score += sum(row[tag] for row, tag in zip(rows, path, strict=True))
        score += sum(steps[before][after] for before, after in pairwise(path))
        if score > -math.inf:
            spans = tuple(span for span in tags_to_spans(model.tags[tag] for tag in path) if span.label in labels)
            shares[spans] = shares.get(spans, 0.0) + math.exp(score)
    sentences = [Sentence(words, spans) for spans in shares]
    potentials = model.potentials([words] * len(sentences))
    chances = [math.exp(chance) for chance in gold_log_probabilities(model, potentials, sentences, labels)]
    assert len(shares) > 30
    assert chances == pytest.approx([share / sum(shares.values()) for share in shares.values()], abs=1e-5)
    assert sum(chances) == pytest.approx(1, abs=1e-4)


def test_gold_that_the_model_cannot_say_has_no_chance(make_model: MakeModel) -> None:
    """A label that the model lacks makes the gold impossible, and spoils no other sentence of the batch."""
    sentences = [Sentence(("Mary", "x"), (Span(0, 1, "PER"),)), Sentence(("a", "b"), (Span(0, 1, "NEW"),))]
    alone, _ = predictions(make_model(), sentences[:1])
    found, _ = predictions(make_model(), sentences)
    assert found[1].gold_log_probability == -math.inf
    assert found[0].gold_log_probability == pytest.approx(alone[0].gold_log_probability, abs=1e-5)


def test_predictions_are_those_of_the_tags(make_model: MakeModel) -> None:
    """In the order of the sentences, whatever order they are batched in."""
    model = make_model()
    sentences = [Sentence(("Mary", "in", "Oslo")[: 1 + row % 3] * (1 + row % 5), ()) for row in range(40)]
    found, speed = predictions(model, sentences)
    assert [[span for span, _ in each.entities] for each in found] == predict(model, sentences)
    assert speed.tokens_per_s / speed.sentences_per_s == pytest.approx(sum(len(each.words) for each in sentences) / 40)
    torch.testing.assert_close(
        [[score for _, score in each.entities] for each in found],
        [[entity.score for entity in TorchTagger(model).tag([each.words], [0])[0].entities] for each in sentences],
        rtol=0,
        atol=1e-5,
    )
