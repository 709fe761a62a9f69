"""What a model says of a corpus, how probable it finds the gold, and how fast it is."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nermodel.checkpoint import Model
from nermodel.crf import log_partition
from nermodel.tags import Scheme, Span, spans_to_tags
from nertrainer.batches import by_length
from nertrainer.corpus import Sentence
from nertrainer.evaluation import BATCH_TOKENS, annotated_labels, predict


@dataclass(frozen=True)
class Prediction:
    """What a model says of one sentence."""

    entities: Sequence[tuple[Span, float]]  # with probabilities
    gold_log_probability: float  # natural logarithm of P(the gold entities | sentence)


@dataclass(frozen=True)
class Speed:
    """How fast `Model.tag` was, reading the corpus in batches."""

    sentences_per_s: float
    tokens_per_s: float
    device: str
    threads: int


def predictions(model: Model, sentences: Sequence[Sentence]) -> list[Prediction]:
    """The model's entities in every sentence, and how probable it finds the gold ones."""
    words = [sentence.words for sentence in sentences]
    entities: list[list[tuple[Span, float]]] = [[] for _ in sentences]
    chances = [-math.inf for _ in sentences]
    labels = set(annotated_labels(sentences))
    for batch in by_length(words, BATCH_TOKENS):
        for index, found in zip(batch, model.entities([words[index] for index in batch]), strict=True):
            entities[index] = found
        known = [index for index in batch if all(span.label in model.labels for span in sentences[index].spans)]
        for index, chance in zip(
            known, gold_log_probabilities(model, [sentences[at] for at in known], labels), strict=True
        ):
            chances[index] = chance
    return [Prediction(found, chance) for found, chance in zip(entities, chances, strict=True)]


def gold_log_probabilities(model: Model, sentences: Sequence[Sentence], labels: set[str]) -> list[float]:
    """log P(the gold entities | sentence), all sentences as one batch; the model knows all their labels.

    Entities of other labels than `labels` may be anywhere: summed are all paths that have the gold entities, and no
    others of `labels`.
    """
    if not sentences:
        return []
    potentials = model.potentials([sentence.words for sentence in sentences])
    ids = {tag: row for row, tag in enumerate(model.tags)}
    scheme: Scheme = "BIOES" if any(tag[0] == "S" for tag in model.tags) else "BIO"
    gold = torch.zeros(potentials.emissions.shape[:2], dtype=torch.int64)  # [B, T]
    for row, sentence in zip(gold, sentences, strict=True):
        tags = spans_to_tags(sentence.spans, len(sentence.words), scheme)
        row[: len(tags)] = torch.tensor([ids[tag] for tag in tags])
    may_be = torch.eye(len(ids), dtype=torch.bool)  # [C gold, C]
    may_be[0] = torch.tensor([tag == "O" or tag[2:] not in labels for tag in model.tags])
    forbidden = ~may_be[gold].to(model.device)  # [B, T, C]
    within = potentials._replace(emissions=potentials.emissions.masked_fill(forbidden, -torch.inf))
    chances: list[float] = (log_partition(within) - log_partition(potentials)).clamp(max=0.0).tolist()
    return chances


def measure_speed(model: Model, sentences: Sequence[Sentence]) -> Speed:
    """Of tagging all of them once, after a first batch that does not count."""
    model.tag([sentence.words for sentence in sentences[:8]])
    started = time.perf_counter()
    predict(model, sentences)
    seconds = time.perf_counter() - started
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    tokens = sum(len(sentence.words) for sentence in sentences)
    return Speed(len(sentences) / seconds, tokens / seconds, device, torch.get_num_threads())
