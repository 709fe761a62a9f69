"""What a tagger answers, and the one that runs anywhere: plain torch, on the model's device."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nermodel.checkpoint import Model
from nermodel.crf import candidates, forward_backward, path_spans, span_probabilities, viterbi
from nermodel.windows import WINDOW_TOKENS

# What one sentence is asked for: None its tags and entities, 0 also the entities' scores, and p in (0, 1] instead of
# the best path's entities every one whose score is p or more, which may then overlap.
Ask = float | None


class Entity(NamedTuple):
    """An entity over tokens [start, end); its score is P(this span with this label | sentence)."""

    start: int
    end: int
    label: str
    score: float | None  # None unless it was asked for


class Answer(NamedTuple):
    """What is said of one sentence."""

    tags: bytes  # ids of the best legal path, one a token
    entities: list[Entity]  # by start, then end, then label


class Tagger(Protocol):
    """One model, ready to tag; called by one thread at a time."""

    @property
    def model(self) -> Model:
        """The model that answers."""

    @property
    def name(self) -> str:
        """What runs it, for people: "torch", "native int8"."""

    @property
    def pads(self) -> bool:
        """Whether a batch costs as if every sentence were as long as its longest."""

    def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        """Answer each sentence, which may be empty, and of any length; all are one batch."""


class TorchTagger:
    """The reference: `Model.potentials` and the functions of `nermodel.crf`."""

    name = "torch"
    pads = True

    def __init__(self, model: Model) -> None:
        self.model = model

    @torch.inference_mode()
    def tag(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        """Answer each sentence (see Tagger): tags at the temperature 1, scores at the model's."""
        answers = [Answer(b"", []) for _ in sentences]
        for group in _groups(sentences):
            batch = self._answers([sentences[row] for row in group], [asks[row] for row in group])
            for row, answer in zip(group, batch, strict=True):
                answers[row] = answer
        return answers

    def _answers(self, sentences: Sequence[Sequence[str]], asks: Sequence[Ask]) -> list[Answer]:
        """As `tag`, of sentences of at least one token each, in one batch."""
        potentials = self.model.potentials(sentences)
        path = viterbi(*potentials)  # [B, T]
        paths = path.to(torch.uint8).cpu().numpy()
        answers = [Answer(row[: len(words)].tobytes(), []) for row, words in zip(paths, sentences, strict=True)]
        rows, starts, ends = path_spans(path, potentials.lengths, potentials.start)
        spans = torch.stack([rows, starts, ends, path[rows, starts]], dim=1).tolist()
        scores: list[float | None] = [None] * len(spans)
        labels = [tag[2:] for tag in self.model.tags]
        if any(ask is not None for ask in asks):
            tempered = potentials.tempered(self.model.card.temperature)
            sums = forward_backward(tempered)
            scores = span_probabilities(tempered, path, rows, starts, ends, sums).tolist()
            least = torch.tensor([ask or torch.inf for ask in asks], device=path.device)
            found = candidates(tempered, least, sums)
            for row, start, end, tag, chance in zip(*map(Tensor.tolist, found), strict=True):
                answers[row].entities.append(Entity(start, end, labels[tag], chance))
        for (row, start, end, tag), score in zip(spans, scores, strict=True):
            if not asks[row]:
                answers[row].entities.append(Entity(start, end, labels[tag], None if asks[row] is None else score))
        return answers


def _groups(sentences: Sequence[Sequence[str]]) -> list[list[int]]:
    """Rows that go together: none that are empty, and each long one alone, so that nothing is padded to its length."""
    short = [row for row, words in enumerate(sentences) if 0 < len(words) <= WINDOW_TOKENS]
    long = [[row] for row, words in enumerate(sentences) if len(words) > WINDOW_TOKENS]
    return [short, *long] if short else long
