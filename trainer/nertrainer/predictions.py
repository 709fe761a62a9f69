"""What a model says of a corpus, how probable it finds the gold, and how fast it is."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from nermodel.checkpoint import Model
from nermodel.crf import Potentials, log_partition, path_spans, span_probabilities
from nermodel.tags import Scheme, Span, spans_to_tags, tags_to_spans
from nertrainer.batches import by_length
from nertrainer.corpus import Sentence, annotated_labels
from nertrainer.evaluation import BATCH_TOKENS, tag_ids


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


def predictions(model: Model, sentences: Sequence[Sentence]) -> tuple[list[Prediction], Speed]:
    """The model's entities in every sentence, how probable it finds the gold ones, and how fast it tagged."""
    paths, speed = _timed(model, sentences)
    labels = set(annotated_labels(sentences))
    found: dict[int, Prediction] = {}
    for batch in by_length([sentence.words for sentence in sentences], BATCH_TOKENS):
        potentials = model.potentials([sentences[index].words for index in batch]).tempered(model.card.temperature)
        entities = _scored(model, potentials, [paths[index] for index in batch])
        chances = gold_log_probabilities(model, potentials, [sentences[index] for index in batch], labels)
        found.update(zip(batch, map(Prediction, entities, chances), strict=True))
    return [found[index] for index in range(len(sentences))], speed


def gold_log_probabilities(
    model: Model, potentials: Potentials, sentences: Sequence[Sentence], labels: set[str]
) -> list[float]:
    """log P(the gold entities | sentence) of the sentences of one batch; -inf where the model lacks a gold label.

    Entities of other labels than `labels` may be anywhere: summed are all paths that have the gold entities, and no
    others of `labels`.
    """
    ids = {tag: row for row, tag in enumerate(model.tags)}
    scheme: Scheme = "BIOES" if any(tag[0] == "S" for tag in model.tags) else "BIO"
    own = set(model.labels)
    known = [all(span.label in own for span in sentence.spans) for sentence in sentences]
    gold = [
        torch.tensor([ids[tag] for tag in spans_to_tags(sentence.spans if fits else (), len(sentence.words), scheme)])
        for sentence, fits in zip(sentences, known, strict=True)
    ]
    may_be = torch.eye(len(ids), dtype=torch.bool)  # [C gold, C]
    may_be[0] = torch.tensor([tag == "O" or tag[2:] not in labels for tag in model.tags])
    forbidden = ~may_be[pad_sequence(gold, batch_first=True)].to(model.device)  # [B, T, C]
    within = potentials._replace(emissions=potentials.emissions.masked_fill(forbidden, -torch.inf))
    chances = (log_partition(within) - log_partition(potentials)).clamp(max=0.0).tolist()
    return [chance if fits else -math.inf for chance, fits in zip(chances, known, strict=True)]


def _scored(model: Model, potentials: Potentials, paths: Sequence[list[int]]) -> list[list[tuple[Span, float]]]:
    """The entities that the tags of a batch mean, with P(this span with this label | sentence)."""
    path = pad_sequence([torch.tensor(ids) for ids in paths], batch_first=True).to(model.device)  # [B, T]
    spans = path_spans(path, potentials.lengths, potentials.start)
    scores = iter(span_probabilities(potentials, path, *spans).tolist())
    return [[(span, next(scores)) for span in tags_to_spans(model.tags[tag] for tag in ids)] for ids in paths]


def _timed(model: Model, sentences: Sequence[Sentence]) -> tuple[list[list[int]], Speed]:
    """Tag all of them, after a first batch that does not count."""
    model.tag([sentence.words for sentence in sentences[:8]])
    started = time.perf_counter()
    paths = tag_ids(model, sentences)
    seconds = time.perf_counter() - started
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    tokens = sum(len(sentence.words) for sentence in sentences)
    return paths, Speed(len(sentences) / seconds, tokens / seconds, device, torch.get_num_threads())
