"""Entity-level precision, recall and F1 of a model on a corpus, by seqeval in strict mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from nermodel.checkpoint import Model
from nermodel.native import NativeError, NativeTagger
from nermodel.tags import Scheme, Span, spans_to_tags, tags_to_spans
from nertrainer.batches import by_length
from nertrainer.corpus import Sentence, annotated_labels

BATCH_TOKENS = 4096
BATCH_SENTENCES = 128  # of the native kernel, which computes no padding
SCHEME: Scheme = "BIO"  # what gold and predicted spans are written in to be scored


@dataclass(frozen=True)
class Scores:
    """Figures in [0, 1] and the number of gold entities they rest on."""

    precision: float
    recall: float
    f1: float
    support: int

    @classmethod
    def of(cls, right: int, predicted: int, gold: int) -> Self:
        """Of counts of entities; a figure that rests on none is 0."""
        return cls(right / max(1, predicted), right / max(1, gold), 2 * right / max(1, predicted + gold), gold)


@dataclass(frozen=True)
class Evaluation:
    """A model's figures on one corpus. Only labels that the corpus annotates are scored."""

    overall: Scores  # micro average
    per_type: dict[str, Scores]
    ignored: dict[str, int]  # predicted entities whose label the corpus does not annotate


def evaluate(model: Model, sentences: Sequence[Sentence]) -> Evaluation:
    """Tag the sentences and compare with their spans."""
    return evaluate_spans(sentences, predict(model, sentences))


def f1_in_int8(model: Model, sentences: Sequence[Sentence]) -> float | None:
    """F1 of the model as a server may run it on a CPU (see nermodel.native); None where that kernel is not built."""
    try:
        tagger = NativeTagger(model, torch.get_num_threads(), "int8")
    except NativeError:
        return None
    words = [sentence.words for sentence in sentences]
    spans = [
        [Span(entity.start, entity.end, entity.label) for entity in answer.entities]
        for start in range(0, len(words), BATCH_SENTENCES)
        for batch in [words[start : start + BATCH_SENTENCES]]
        for answer in tagger.tag(batch, [None] * len(batch))
    ]
    return evaluate_spans(sentences, spans).overall.f1


def evaluate_spans(sentences: Sequence[Sentence], predicted: Sequence[Sequence[Span]]) -> Evaluation:
    """Compare the spans predicted of each sentence with its own."""
    labels = annotated_labels(sentences)
    names = {label: f"L{row}" for row, label in enumerate(labels)}  # seqeval cannot read every label, such as "X-"
    ignored: dict[str, int] = {}
    gold_tags, predicted_tags = [], []
    for sentence, spans in zip(sentences, predicted, strict=True):
        for span in spans:
            if span.label not in names:
                ignored[span.label] = ignored.get(span.label, 0) + 1
        gold_tags.append(_renamed(sentence.spans, len(sentence.words), names))
        predicted_tags.append(_renamed(spans, len(sentence.words), names))
    if not labels:
        return Evaluation(Scores(0.0, 0.0, 0.0, 0), {}, ignored)
    report = classification_report(
        gold_tags, predicted_tags, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    scores = {name: _scores(values) for name, values in report.items()}
    return Evaluation(scores["micro avg"], {label: scores[names[label]] for label in labels}, ignored)


def predict(model: Model, sentences: Sequence[Sentence]) -> list[list[Span]]:
    """The entities that the model finds in every sentence."""
    return [tags_to_spans(model.tags[tag] for tag in path) for path in tag_ids(model, sentences)]


def tag_ids(model: Model, sentences: Sequence[Sentence]) -> list[list[int]]:
    """The model's tags of every sentence, as ids."""
    words = [sentence.words for sentence in sentences]
    paths: list[list[int]] = [[] for _ in sentences]
    for batch in by_length(words, BATCH_TOKENS):
        for index, path in zip(batch, model.tag([words[index] for index in batch]), strict=True):
            paths[index] = path
    return paths


def _renamed(spans: Sequence[Span], length: int, names: Mapping[str, str]) -> list[str]:
    """Tags of the spans whose labels have a name, under that name."""
    return spans_to_tags(
        [span._replace(label=names[span.label]) for span in spans if span.label in names], length, SCHEME
    )


def _scores(values: dict[str, float]) -> Scores:
    return Scores(
        float(values["precision"]), float(values["recall"]), float(values["f1-score"]), int(values["support"])
    )
