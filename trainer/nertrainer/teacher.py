"""What a trained ensemble says of sentences, for a student to learn (Hinton et al. 2015, arXiv:1503.02531).

The mean of several CRFs' distributions over paths enters a student's loss only through its tag marginals and its
expected transitions, so that the cross-entropy is exact. Shapes: B sentences, T tokens, C tags.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nermodel.checkpoint import Model
from nermodel.crf import forward_backward
from nermodel.network import Batch, Network
from nertrainer.batches import by_length

BATCH_TOKENS = 1024


class Opinion(NamedTuple):
    """An ensemble's distribution over the paths of a sentence, as far as a linear-chain CRF can tell."""

    tags: Tensor  # [T, C]: P(tag of this token)
    transitions: Tensor  # [C from, C to]: how often this transition is expected


@torch.inference_mode()
def opinions(teachers: Sequence[Model], sentences: Sequence[Sequence[str]]) -> list[Opinion]:
    """The mean opinion of teachers, who must share a tag table, on each sentence of at least one word."""
    found: dict[int, Opinion] = {}
    for indices in by_length(sentences, BATCH_TOKENS):
        words = [sentences[index] for index in indices]
        each = [_opinions(teacher, words) for teacher in teachers]
        for row, index in enumerate(indices):
            tags = torch.stack([opinion[row].tags for opinion in each]).mean(dim=0)
            found[index] = Opinion(tags, torch.stack([opinion[row].transitions for opinion in each]).mean(dim=0))
    return [found[index] for index in range(len(sentences))]


def _opinions(teacher: Model, sentences: Sequence[Sequence[str]]) -> list[Opinion]:
    potentials = teacher.potentials(sentences).tempered(teacher.card.temperature)
    sums = forward_backward(potentials)
    after = (potentials.emissions - sums.scale.unsqueeze(2) + sums.beta)[:, 1:]  # [B, T - 1, C]
    joint = (sums.alpha[:, :-1].unsqueeze(3) + potentials.transitions + after.unsqueeze(2)).exp()  # [B, T - 1, C, C]
    return [
        Opinion(tags[:length].cpu(), steps[: length - 1].sum(dim=0).cpu())
        for tags, steps, length in zip(sums.marginals, joint, potentials.lengths.tolist(), strict=True)
    ]


def distillation_loss(network: Network, scores: Tensor, batch: Batch, opinions: Sequence[Opinion]) -> Tensor:
    """Cross-entropy a sentence of the network under the opinions; scores [B, T, C] are its emissions."""
    tags = torch.nn.utils.rnn.pad_sequence([opinion.tags for opinion in opinions], batch_first=True).to(scores.device)
    transitions = torch.stack([opinion.transitions for opinion in opinions]).sum(dim=0).to(scores.device)
    last = tags[torch.arange(len(opinions)), batch.lengths - 1].sum(dim=0)
    expected = (
        (tags * scores).sum()
        + (transitions * network.crf.transitions).sum()
        + tags[:, 0].sum(dim=0) @ network.crf.start_transitions
        + last @ network.crf.end_transitions
    )
    loss: Tensor = (network.log_partition(scores, batch).sum() - expected) / len(opinions)
    return loss
