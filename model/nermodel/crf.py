"""The linear-chain CRF at decode time: batched Viterbi that never leaves the device nor an illegal path.

Shapes: B sentences, T tokens of the longest, C tags. The loss is torchcrf's; this decodes the same scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nermodel.tags import may_end, may_follow, may_start


def legal(table: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Which tags may start [C], follow one another [C from, C to] and end [C] a sentence, as booleans."""
    return (
        torch.tensor([may_start(tag) for tag in table]),
        torch.tensor([[may_follow(table, before, after) for after in table] for before in table]),
        torch.tensor([may_end(table, tag) for tag in table]),
    )


def viterbi(emissions: Tensor, lengths: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """The best tag of every token [B, T]; beyond a sentence's length its last tag is repeated.

    emissions [B, T, C], lengths [B] >= 1 on the same device, start [C], transitions [C from, C to], end [C]; a score of
    -inf forbids. Of equal paths the one with the smaller tag, seen from the end, wins.
    """
    steps = emissions.shape[1]
    score = start + emissions[:, 0]  # [B, C]: best score of a path that ends in each tag
    came_from = []  # for each later token [B, C]: the tag before it on that path
    stay = torch.arange(len(start), device=emissions.device).expand_as(score)
    for step in range(1, steps):
        best, before = (score.unsqueeze(2) + transitions).max(dim=1)  # over the tag before
        inside = (step < lengths).unsqueeze(1)  # [B, 1]
        score = torch.where(inside, best + emissions[:, step], score)
        came_from.append(torch.where(inside, before, stay))
    tag = (score + end).argmax(dim=1, keepdim=True)  # [B, 1]
    path = [tag]
    for before in reversed(came_from):
        tag = before.gather(1, tag)
        path.append(tag)
    return torch.cat(path[::-1], dim=1)
