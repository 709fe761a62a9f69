"""Sentences with entities, made by chance."""

import random

from nermodel.tags import Span
from nertrainer.corpus import Sentence


def random_spans(rng: random.Random, length: int, labels: str) -> tuple[Span, ...]:
    """Entities over some of the tokens, in order, none over another."""
    spans: list[Span] = []
    at = 0
    while at < length:
        end = min(length, at + rng.randint(1, 4))
        if rng.random() < 0.5:
            spans.append(Span(at, end, rng.choice(labels)))
        at = end
    return tuple(spans)


def random_pairs(seed: int, labels: str, others: str = "") -> tuple[list[Sentence], list[tuple[Span, ...]]]:
    """Sentences of `labels` with all of them, and spans of `labels` and `others` as predicted of them."""
    rng = random.Random(seed)
    sentences = [Sentence(tuple(labels), tuple(Span(at, at + 1, label) for at, label in enumerate(labels)))]
    for _ in range(rng.randint(0, 12)):
        words = tuple(rng.choice("abcde") for _ in range(rng.randint(1, 50)))
        sentences.append(Sentence(words, random_spans(rng, len(words), labels)))
    predicted = []
    for sentence in sentences:
        right = rng.random() < 0.4
        predicted.append(sentence.spans if right else random_spans(rng, len(sentence.words), labels + others))
    return sentences, predicted
