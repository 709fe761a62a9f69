"""All that can be said of a model on one corpus: figures by type, length and novelty, errors, calibration, speed.

Only labels that the corpus annotates are scored, in every figure.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nermodel.checkpoint import Model
from nermodel.tags import Span
from nertrainer.corpus import Corpus, Sentence, annotated_labels
from nertrainer.evaluation import Evaluation, Scores, evaluate_spans
from nertrainer.measures import Calibration, Confusion, Measure, calibrate, confusion, measures
from nertrainer.predictions import Prediction, Speed, predictions

WORST = 20  # sentences shown
ENTITY_LENGTHS = ("1", "2", "3", "4+")  # in tokens
SENTENCE_LENGTHS = ("1-10", "11-20", "21-40", "41+")
SHOWN = 60  # characters of a word or an entity that people see
SURFACES = ("seen entity", "seen words", "unseen")  # in the training text


@dataclass(frozen=True)
class Mistaken:
    """A sentence with errors."""

    place: str  # "FILE:LINE"
    words: tuple[str, ...]
    gold: tuple[Span, ...]
    predicted: tuple[tuple[Span, float], ...]
    errors: int  # gold entities not predicted, and predicted ones that are not gold
    log_probability: float  # of the gold; -inf where the model lacks one of its labels

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        gold = [{**span._asdict(), "surface": surface(self.words, span)} for span in self.gold]
        predicted = [
            {**span._asdict(), "surface": surface(self.words, span), "score": score} for span, score in self.predicted
        ]
        finite = self.log_probability if math.isfinite(self.log_probability) else None
        plain = {"place": self.place, "words": self.words, "errors": self.errors, "log_probability": finite}
        return {**plain, "gold": gold, "predicted": predicted}


@dataclass(frozen=True)
class Evidence:
    """A model's figures on one corpus."""

    evaluation: Evaluation  # by seqeval in strict mode: the headline
    measures: dict[str, Measure]
    by_entity_length: dict[str, Scores]
    by_sentence_length: dict[str, Scores]
    by_surface: dict[str, Scores] | None  # None without the training text
    confusion: Confusion
    calibration: Calibration
    worst: Sequence[Mistaken]  # those with most errors, of equals the less probable gold, first
    speed: Speed

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the headline stands at the top level."""
        plain = asdict(self)
        headline = plain["evaluation"].pop("overall")
        return {**headline, **plain.pop("evaluation"), **plain, "worst": [each.to_json() for each in self.worst]}


def gather(model: Model, corpus: Corpus, training: Sequence[Sentence] | None = None) -> Evidence:
    """Tag the corpus, measure the time, and examine what was found; `training` is what the model learnt from."""
    predicted, speed = predictions(model, corpus.sentences)
    return examine(corpus.sentences, corpus.places, predicted, speed, training)


def examine(
    sentences: Sequence[Sentence],
    places: Sequence[str],
    predicted: Sequence[Prediction],
    speed: Speed,
    training: Sequence[Sentence] | None = None,
) -> Evidence:
    """Compare what was predicted of each sentence with its spans."""
    labels = annotated_labels(sentences)
    gold = [sentence.spans for sentence in sentences]
    kept = [[(span, score) for span, score in each.entities if span.label in labels] for each in predicted]
    spans = [[span for span, _ in entities] for entities in kept]
    surfaces = None
    if training is not None:
        novelty = _novelty(training, sentences, gold, spans)
        surfaces = _grouped(
            SURFACES, gold, spans, lambda row, span: novelty[sentences[row].words[span.start : span.end]]
        )
    lengths = [_range(len(sentence.words)) for sentence in sentences]
    return Evidence(
        evaluation=evaluate_spans(sentences, [[span for span, _ in each.entities] for each in predicted]),
        measures=measures(labels, gold, spans),
        by_entity_length=_grouped(
            ENTITY_LENGTHS, gold, spans, lambda _, span: ENTITY_LENGTHS[min(span.end - span.start, 4) - 1]
        ),
        by_sentence_length=_grouped(SENTENCE_LENGTHS, gold, spans, lambda row, _: lengths[row]),
        by_surface=surfaces,
        confusion=confusion(labels, gold, spans),
        calibration=calibrate(
            [(score, span in own) for own, found in zip(gold, kept, strict=True) for span, score in found]
        ),
        worst=_worst(sentences, places, kept, [each.gold_log_probability for each in predicted]),
        speed=speed,
    )


def surface(words: Sequence[str], span: Span) -> str:
    """An entity's words, with spaces between."""
    return " ".join(words[span.start : span.end])


def clipped(text: str) -> str:
    """A word or an entity's words, cut to what a line bears."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _grouped(
    names: Sequence[str],
    gold: Sequence[Iterable[Span]],
    predicted: Sequence[Iterable[Span]],
    group: Callable[[int, Span], str],  # of a sentence's row and one of its spans
) -> dict[str, Scores]:
    """Strict scores of each group of entities; a gold and a predicted entity that are equal fall into one group."""
    counts = {name: [0, 0, 0] for name in names}  # right, predicted, gold
    for row, (own, found) in enumerate(zip(gold, predicted, strict=True)):
        for span in own:
            counts[group(row, span)][2] += 1
        for span in found:
            counts[group(row, span)][1] += 1
            counts[group(row, span)][0] += span in own
    return {name: Scores.of(*numbers) for name, numbers in counts.items()}


def _range(length: int) -> str:
    return SENTENCE_LENGTHS[(length > 10) + (length > 20) + (length > 40)]


def _novelty(
    training: Sequence[Sentence], sentences: Sequence[Sentence], *sides: Sequence[Sequence[Span]]
) -> dict[tuple[str, ...], str]:
    """Of the words of each span, gold and predicted, which of SURFACES they are."""
    wanted = {
        sentence.words[start:end]
        for side in sides
        for sentence, spans in zip(sentences, side, strict=True)
        for start, end, _ in spans
    }
    entities = {sentence.words[start:end] for sentence in training for start, end, _ in sentence.spans}
    lengths: dict[str, set[int]] = {}  # of what is wanted, by its first word
    for words in wanted:
        lengths.setdefault(words[0], set()).add(len(words))
    texts = {
        sentence.words[at : at + length]
        for sentence in training
        for at, word in enumerate(sentence.words)
        for length in lengths.get(word, ())
    }
    return {words: SURFACES[0 if words in entities else 1 if words in texts else 2] for words in wanted}


def _worst(
    sentences: Sequence[Sentence],
    places: Sequence[str],
    predicted: Sequence[Sequence[tuple[Span, float]]],
    chances: Sequence[float],
) -> list[Mistaken]:
    found = []
    for sentence, place, entities, chance in zip(sentences, places, predicted, chances, strict=True):
        errors = len({*sentence.spans} ^ {span for span, _ in entities})
        if errors:
            found.append(Mistaken(place, sentence.words, sentence.spans, tuple(entities), errors, chance))
    return sorted(found, key=lambda mistaken: (-mistaken.errors, mistaken.log_probability))[:WORST]
