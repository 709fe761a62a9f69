"""Entity-level precision, recall and F1 of a model on a corpus, by seqeval in strict mode."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from nermodel.checkpoint import Model
from nermodel.tags import Scheme, spans_to_tags, tags_to_spans
from nertrainer.batches import by_length
from nertrainer.corpus import Sentence

BATCH_TOKENS = 4096
SCHEME: Scheme = "BIO"  # what gold and predicted spans are written in to be scored


@dataclass(frozen=True)
class Scores:
    """Figures in [0, 1] and the number of gold entities they rest on."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation:
    """A model's figures on one corpus. Only labels that the corpus annotates are scored."""

    overall: Scores  # micro average
    per_type: dict[str, Scores]
    ignored: dict[str, int]  # predicted entities whose label the corpus does not annotate


def evaluate(model: Model, sentences: Sequence[Sentence]) -> Evaluation:
    """Tag the sentences and compare with their spans."""
    labels = {span.label for sentence in sentences for span in sentence.spans}
    ignored: dict[str, int] = {}
    gold = [spans_to_tags(sentence.spans, len(sentence.words), SCHEME) for sentence in sentences]
    predicted: list[list[str]] = []
    for sentence, tags in zip(sentences, predict(model, sentences), strict=True):
        spans = tags_to_spans(tags)
        for span in spans:
            if span.label not in labels:
                ignored[span.label] = ignored.get(span.label, 0) + 1
        kept = [span for span in spans if span.label in labels]
        predicted.append(spans_to_tags(kept, len(sentence.words), SCHEME))
    if not labels:
        return Evaluation(Scores(0.0, 0.0, 0.0, 0), {}, ignored)
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    scores = {name: _scores(values) for name, values in report.items()}
    return Evaluation(scores["micro avg"], {name: scores[name] for name in sorted(labels)}, ignored)


def predict(model: Model, sentences: Sequence[Sentence]) -> list[list[str]]:
    """The model's tags of every sentence."""
    words = [sentence.words for sentence in sentences]
    tags: list[list[str]] = [[] for _ in sentences]
    for batch in by_length(words, BATCH_TOKENS):
        for index, ids in zip(batch, model.tag([words[index] for index in batch]), strict=True):
            tags[index] = [model.tags[tag] for tag in ids]
    return tags


def _scores(values: dict[str, float]) -> Scores:
    return Scores(
        float(values["precision"]), float(values["recall"]), float(values["f1-score"]), int(values["support"])
    )
