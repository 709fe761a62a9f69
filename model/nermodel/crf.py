"""The linear-chain CRF beside torchcrf's loss: batched Viterbi, log-partition and exact probabilities on the device.

Shapes: B sentences, T tokens of the longest, C tags, N spans. A score of -inf forbids.
"""

from collections.abc import Sequence
from typing import NamedTuple

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


class Potentials(NamedTuple):
    """The scores of a batch's tags, in the order that `viterbi` takes them; -inf forbids."""

    emissions: Tensor  # [B, T, C]; those of padding mean nothing
    lengths: Tensor  # [B] >= 1, on the same device
    start: Tensor  # [C]
    transitions: Tensor  # [C from, C to]
    end: Tensor  # [C]

    def tempered(self, temperature: float) -> "Potentials":
        """All scores divided by the temperature: above 1 paths become less certain, and none changes its rank."""
        emissions, lengths, *steps = self
        return Potentials(emissions / temperature, lengths, *(scores / temperature for scores in steps))


class ForwardBackward(NamedTuple):
    """Log-sums over all paths, freed at each token of what is common to all tags.

    So float32 keeps its digits in sentences of any length: `scale` is the largest `alpha` of a token, taken off there
    and from all later ones, and `beta` is such that exp(alpha + beta) sums to one over the tags of each token.
    """

    alpha: Tensor  # [B, T, C]: over the paths to each tag, its emission included
    beta: Tensor  # [B, T, C]: over the paths from each tag on, its emission left out
    scale: Tensor  # [B, T]
    log_z: Tensor  # [B]: over all paths of the sentence, the logarithm of the partition function

    @property
    def marginals(self) -> Tensor:
        """P(tag of this token | sentence) [B, T, C]; what it says of padding means nothing."""
        return (self.alpha + self.beta).exp()


def log_partition(potentials: Potentials) -> Tensor:
    """The logarithm of the summed exp(score) of all paths [B]."""
    return _forward(potentials)[2]


def forward_backward(potentials: Potentials) -> ForwardBackward:
    """The forward-backward algorithm (Rabiner 1989) in log space."""
    emissions, lengths, _, transitions, end = potentials
    alpha, scale, log_z = _forward(potentials)
    local = emissions - scale.unsqueeze(2)  # [B, T, C]
    beta = end.expand_as(local[:, 0])  # [B, C]
    betas = [beta]
    for step in range(emissions.shape[1] - 1, 0, -1):
        beta = (transitions + (local[:, step] + beta).unsqueeze(1)).logsumexp(dim=2)  # over the tag after
        beta = torch.where((step < lengths).unsqueeze(1), beta, end)
        betas.append(beta)
    sums = torch.stack(betas[::-1], dim=1)  # [B, T, C]
    return ForwardBackward(alpha, sums - (alpha + sums).logsumexp(dim=2, keepdim=True), scale, log_z)


def path_spans(path: Tensor, lengths: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, starts and ends (exclusive), each [N], of the entities on legal paths [B, T], in order; tag 0 is `O`."""
    steps = torch.arange(path.shape[1], device=path.device)
    begins = (start > -torch.inf)[path]  # [B, T]: a tag that may start a sentence continues no entity
    closes = begins.roll(-1, dims=1) | (steps + 1 == lengths.unsqueeze(1))
    entity = (path != 0) & (steps < lengths.unsqueeze(1))
    rows, starts = (entity & begins).nonzero(as_tuple=True)
    return rows, starts, (entity & closes).nonzero(as_tuple=True)[1] + 1


def span_probabilities(potentials: Potentials, path: Tensor, rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """P(this span with this label is an entity | sentence) [N] of spans on legal paths [B, T].

    That is the share of all paths that have the path's tags over [start, end) and close the entity there: for BIO the
    next tag must not continue it, for BIOES the last tag says so itself.
    """
    emissions, lengths, start, transitions, _ = potentials
    sums = forward_backward(potentials)
    local = emissions - sums.scale.unsqueeze(2)  # [B, T, C]
    steps = transitions[path[:, :-1], path[:, 1:]] + local.gather(2, path.unsqueeze(2)).squeeze(2)[:, 1:]  # [B, T - 1]
    total = torch.nn.functional.pad(steps.double().cumsum(dim=1), (1, 0))  # [B, T]: score of the path from token 0 on
    inside = (total[rows, ends - 1] - total[rows, starts]).float()  # [N]
    tag = path[rows, ends - 1]  # [N]
    after = ends.clamp(max=path.shape[1] - 1)
    follow = transitions[tag] + local[rows, after] + sums.beta[rows, after]  # [N, C]
    closed = follow.masked_fill(start == -torch.inf, -torch.inf).logsumexp(dim=1)
    closed = torch.where(ends == lengths[rows], sums.beta[rows, ends - 1, tag], closed)
    return (sums.alpha[rows, starts, path[rows, starts]] + inside + closed).exp().clamp(max=1.0)


def _forward(potentials: Potentials) -> tuple[Tensor, Tensor, Tensor]:
    """`alpha`, `scale` and `log_z` of ForwardBackward."""
    emissions, lengths, start, transitions, end = potentials
    alpha = start + emissions[:, 0]  # [B, C]
    alphas, scales = [], []
    for step in range(emissions.shape[1]):
        if step:
            alpha = (alpha.unsqueeze(2) + transitions).logsumexp(dim=1) + emissions[:, step]  # over the tag before
        scales.append(alpha.amax(dim=1))
        alpha = alpha - scales[-1].unsqueeze(1)
        alphas.append(alpha)
    sums, scale = torch.stack(alphas, dim=1), torch.stack(scales, dim=1)
    inside = torch.arange(scale.shape[1], device=scale.device) < lengths.unsqueeze(1)  # [B, T]
    last = sums[torch.arange(len(lengths), device=lengths.device), lengths - 1]  # [B, C]
    return sums, scale, scale.where(inside, 0.0).sum(dim=1) + (last + end).logsumexp(dim=1)
