"""The linear-chain CRF beside torchcrf's loss: batched Viterbi, log-partition and exact probabilities on the device.

Shapes: B sentences, T tokens of the longest, C tags, N spans. A score of -inf forbids.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nermodel.tags import may_end, may_follow, may_start

REBASE_TOKENS = 32  # after so many Viterbi takes the best score off all, so that float32 keeps its digits
_ALMOST = 0.99  # of a least probability: what is more likely than that is looked at, so that rounding loses none


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
        if step % REBASE_TOKENS == 0:
            score = score - score.amax(dim=1, keepdim=True)
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


def span_probabilities(
    potentials: Potentials,
    path: Tensor,
    rows: Tensor,
    starts: Tensor,
    ends: Tensor,
    sums: ForwardBackward | None = None,
) -> Tensor:
    """P(this span with this label is an entity | sentence) [N] of spans on legal paths [B, T].

    That is the share of all paths that have the path's tags over [start, end) and close the entity there: for BIO the
    next tag must not continue it, for BIOES the last tag says so itself. `sums` are those of the potentials, if known.
    """
    emissions, _, _, transitions, _ = potentials
    sums = sums or forward_backward(potentials)
    chosen = emissions.gather(2, path.unsqueeze(2)).squeeze(2).double() - sums.scale  # [B, T]
    steps = transitions[path[:, :-1], path[:, 1:]] + chosen[:, 1:]  # [B, T - 1]
    total = torch.nn.functional.pad(steps.cumsum(dim=1), (1, 0))  # [B, T]: score of the path from token 0 on
    inside = (total[rows, ends - 1] - total[rows, starts]).float()  # [N]
    closed = _closed(potentials, sums, rows, ends, path[rows, ends - 1])
    return (sums.alpha[rows, starts, path[rows, starts]] + inside + closed).exp().clamp(max=1.0)


class Candidates(NamedTuple):
    """Spans of a batch that may be entities, each value [N], by row, then start, end and tag."""

    rows: Tensor
    starts: Tensor
    ends: Tensor  # exclusive
    tags: Tensor  # that they begin with, so of their label
    scores: Tensor  # P(this span with this label is an entity | sentence)


def candidates(potentials: Potentials, least: Tensor, sums: ForwardBackward | None = None) -> Candidates:
    """Every span, also off the best path, whose exact probability is its row's `least` [B] > 0 or more.

    A `least` above 1 asks for none. A row has T / least of them at most. `sums` are those of the potentials, if known.
    Spans grow by a token a step until P(an entity begins here and reaches so far), which only falls, is too small.
    """
    emissions, lengths, start, transitions, _ = potentials
    sums = sums or forward_backward(potentials)
    inner = start == -torch.inf  # [C]: a tag that may not start a sentence goes on with an entity
    goes_on = (transitions > -torch.inf) & inner  # [C from, C to]
    real = torch.arange(emissions.shape[1], device=emissions.device) < lengths.unsqueeze(1)  # [B, T]
    begins = (sums.marginals >= _ALMOST * least.view(-1, 1, 1)) & real.unsqueeze(2) & ~inner  # [B, T, C]
    begins[:, :, 0] = False  # O
    rows, starts, firsts = begins.nonzero(as_tuple=True)  # [N]: spans that may grow, and the tags they begin with
    ends, lasts = starts + 1, firsts
    score = sums.alpha[rows, starts, firsts].double()  # [N]: of all paths up to the last token
    found = [Candidates(rows[:0], starts[:0], ends[:0], firsts[:0], score[:0].float())]
    while len(rows):
        closed = (score + _closed(potentials, sums, rows, ends, lasts)).exp().clamp(max=1.0).float()
        likely = closed >= least[rows]
        found.append(Candidates(*(each[likely] for each in (rows, starts, ends, firsts, closed))))
        growing, after = (goes_on[lasts] & (ends < lengths[rows]).unsqueeze(1)).nonzero(as_tuple=True)
        rows, starts, ends, firsts = rows[growing], starts[growing], ends[growing], firsts[growing]
        step = transitions[lasts[growing], after] + emissions[rows, ends, after].double() - sums.scale[rows, ends]
        score, lasts = score[growing] + step, after
        reached = (score + sums.beta[rows, ends, lasts]).exp() >= _ALMOST * least[rows]
        rows, starts, ends, firsts = rows[reached], starts[reached], ends[reached] + 1, firsts[reached]
        score, lasts = score[reached], lasts[reached]
    rows, starts, ends, firsts, closed = (torch.cat(each) for each in zip(*found, strict=True))
    places = emissions.shape[1] + 1
    order = (((rows * places + starts) * places + ends) * len(start) + firsts).argsort()
    return Candidates(rows[order], starts[order], ends[order], firsts[order], closed[order])


def n_best(potentials: Potentials, n: int) -> tuple[Tensor, Tensor]:
    """The n best legal paths [B, n, T], best first, and log P(path | sentence) of each [B, n], in float64.

    A sentence of fewer paths has log-probability -inf from there on, and its tags there mean nothing. Beyond its length
    its last tag is repeated; of equal paths the one with the smaller tag, seen from the end, is first.
    """
    emissions, lengths, start, transitions, end = (
        value.double() if value.is_floating_point() else value for value in potentials
    )
    tags = len(start)
    # [B, C, n]: scores of the n best paths that end in each tag; a path is named by tag * n + its place there.
    score = torch.full((len(lengths), tags, n), -torch.inf, dtype=torch.float64, device=emissions.device)
    score[:, :, 0] = start + emissions[:, 0]
    stay = torch.arange(tags * n, device=emissions.device).view(tags, n).expand_as(score)
    came_from = []  # for each later token [B, C * n]: the name of the path before it
    for step in range(1, emissions.shape[1]):
        longer = (score.unsqueeze(3) + transitions.unsqueeze(1)).flatten(1, 2)  # [B, C * n from, C to]
        best, before = (each[:, :n].transpose(1, 2) for each in longer.sort(dim=1, descending=True, stable=True))
        inside = (step < lengths).view(-1, 1, 1)
        score = torch.where(inside, best + emissions[:, step].unsqueeze(2), score)
        came_from.append(torch.where(inside, before, stay).flatten(1))
    total = (score + end.unsqueeze(1)).flatten(1)  # [B, C * n]
    total, name = (each[:, :n] for each in total.sort(dim=1, descending=True, stable=True))
    path = [name]
    for before in reversed(came_from):
        name = before.gather(1, name)
        path.append(name)
    log_z = log_partition(Potentials(emissions, lengths, start, transitions, end))
    return torch.stack(path[::-1], dim=2) // n, total - log_z.unsqueeze(1)


def _closed(potentials: Potentials, sums: ForwardBackward, rows: Tensor, ends: Tensor, tags: Tensor) -> Tensor:
    """Log-sum over the paths on from entities that end, exclusive, at `ends` with these tags and go no further [N]."""
    emissions, lengths, start, transitions, _ = potentials
    after = ends.clamp(max=emissions.shape[1] - 1)
    follow = transitions[tags] + emissions[rows, after] - sums.scale[rows, after].unsqueeze(1) + sums.beta[rows, after]
    closed = follow.masked_fill(start == -torch.inf, -torch.inf).logsumexp(dim=1)  # over the tag after [N, C]
    return torch.where(ends == lengths[rows], sums.beta[rows, ends - 1, tags], closed)


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
