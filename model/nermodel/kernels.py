# mypy: disable-error-code="untyped-decorator"
"""Best paths and exact span probabilities as a Triton kernel, one program a sentence: `nermodel.crf` without the host.

Shapes: B sentences, T tokens of the longest, N tokens of all, C tags, P the next power of two. CUDA builds of torch
bring Triton; importing this needs no device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nermodel.crf import REBASE_TOKENS

_VARYING = ["rows", "steps"]  # from batch to batch: no value of theirs is worth a kernel of its own
_POINTERS = ["emissions", "starts", "lengths", "start", "follow", "lead", "end", "tags", "scores", "back", "sums"]


class TritonDecoder:
    """As `nermodel.decoding.Decoder`, by a kernel."""

    is_silent = True

    def __init__(self, start: Tensor, transitions: Tensor, end: Tensor, temperature: float) -> None:
        """As `viterbi` takes them, on the device; the temperature is that of the probabilities."""
        self._steps = (start.contiguous(), transitions.contiguous(), transitions.t().contiguous(), end.contiguous())
        self._coldness = 1.0 / temperature
        self._tags = len(start)
        self._width: int = triton.next_power_of_2(self._tags)

    def __call__(self, emissions: Tensor, starts: Tensor, lengths: Tensor, tags: Tensor, scores: Tensor | None) -> None:
        """As `Decoder`. The score of a token at which no entity of the best path begins is 0."""
        steps, rows, _ = emissions.shape
        size = rows * steps * self._width
        back = torch.empty(size, dtype=torch.uint8, device=emissions.device)
        sums = emissions if scores is None else emissions.new_empty(size)
        _decode[(rows,)](
            emissions,
            starts,
            lengths,
            *self._steps,
            tags,
            tags if scores is None else scores,
            back,
            sums,
            rows,
            steps,
            self._coldness,
            C=self._tags,
            P=self._width,
            SCORED=scores is not None,
            REBASE=REBASE_TOKENS,
            num_warps=warps(self._width),
            num_stages=1,  # no load may overtake a store
        )


def warps(width: int) -> int:
    """Warps of a program, so that a thread holds 32 numbers of a table of transitions, if there are enough threads."""
    return min(max(1, width * width // 1024), 32)


@triton.jit
def _log_sum(x: tl.tensor) -> tl.tensor:
    """The logarithm of the summed exp(x) over the first axis, -inf where all are."""
    top = tl.max(x, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    return top + tl.log(tl.sum(tl.exp(x - top), 0))


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_POINTERS)
def _decode(  # noqa: PLR0915
    emissions: tl.tensor,  # [T, B, C]
    starts: tl.tensor,  # [B]
    lengths: tl.tensor,  # [B]
    start: tl.tensor,  # [C]
    follow: tl.tensor,  # [C from, C to]
    lead: tl.tensor,  # [C to, C from]
    end: tl.tensor,  # [C]
    tags: tl.tensor,  # [N]
    scores: tl.tensor,  # [N]
    back: tl.tensor,  # [B, T, P]: for each token and tag, the tag before it on the best path there
    sums: tl.tensor,  # [B, T, P]: for each token and tag, the log-sum over the paths there less the token's largest
    rows: tl.tensor,  # B
    steps: tl.tensor,  # T
    coldness: tl.tensor,  # 1 / temperature
    C: tl.constexpr,  # noqa: N803
    P: tl.constexpr,  # noqa: N803
    SCORED: tl.constexpr,  # noqa: N803
    REBASE: tl.constexpr,  # noqa: N803
) -> None:
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row)
    if length == 0:
        return
    nothing = float("-inf")
    tag_ids = tl.arange(0, P)
    real = tag_ids < C
    square = tag_ids[:, None] * C + tag_ids[None, :]
    both = real[:, None] & real[None, :]
    first = tl.load(start + tag_ids, real, nothing)  # [P]
    last = tl.load(end + tag_ids, real, nothing)  # [P]
    steps_on = tl.load(follow + square, both, nothing)  # [P from, P to]
    stride = rows * C  # from a token's emissions to the next one's
    here = emissions + row * C + tag_ids
    back += row * steps * P
    sums += row * steps * P
    place = tl.load(starts + row)

    score = first + tl.load(here, real, 0.0)  # [P]: of the best path to each tag
    alpha = score * coldness
    if SCORED:
        alpha -= tl.max(alpha, 0)
        tl.store(sums + tag_ids, alpha)
    for step in range(1, length):
        here += stride
        emission = tl.load(here, real, 0.0)
        if step % REBASE == 0:
            score -= tl.max(score, 0)
        best, before = tl.max(score[:, None] + steps_on, 0, return_indices=True)  # over the tag before
        score = best + emission
        tl.store(back + step * P + tag_ids, before.to(tl.uint8))
        if SCORED:
            alpha = _log_sum(alpha[:, None] + steps_on * coldness) + emission * coldness
            alpha -= tl.max(alpha, 0)
            tl.store(sums + step * P + tag_ids, alpha)
    tag = tl.argmax(score + last, 0)
    tl.debug_barrier()  # from here on the program's threads read what others of them wrote

    at = length - 1
    tl.store(tags + place + at, tag.to(tl.uint8))
    beta = last * coldness  # [P]: log-sum over the paths from each tag on, such that exp(alpha + beta) sums to one
    onward = 0.0  # the same from the best path's tag, but only of paths that end its entity where it ends
    if SCORED:
        steps_back = tl.load(lead + square, both, nothing) * coldness  # [P to, P from]
        beta -= _log_sum(alpha + beta)
        onward = tl.sum(tl.where(tag_ids == tag, beta, 0.0), 0)
        begins = (tag != 0) & (tl.load(start + tag) > nothing)
        share = tl.exp(tl.sum(tl.where(tag_ids == tag, alpha, 0.0), 0) + onward)
        tl.store(scores + place + at, tl.where(begins, tl.minimum(share, 1.0), 0.0))
    for _ in range(1, length):
        after = tag
        tag = tl.load(back + at * P + after).to(tl.int32)
        at -= 1
        tl.store(tags + place + at, tag.to(tl.uint8))
        if SCORED:
            emission = tl.load(here, real, 0.0) * coldness  # of the token after
            here -= stride
            ahead = emission + beta
            alpha = tl.load(sums + at * P + tag_ids)
            beta = _log_sum(steps_back + ahead[:, None])  # over the tag after
            norm = _log_sum(alpha + beta)
            beta -= norm
            goes_on = tl.load(start + after) == nothing
            to_open = tl.where(first > nothing, ahead, nothing)
            to_next = tl.where(tag_ids == after, emission + onward, nothing)
            step_on = tl.load(follow + tag * C + tag_ids, real, nothing) * coldness
            onward = _log_sum(step_on + tl.where(goes_on, to_next, to_open)) - norm
            begins = (tag != 0) & (tl.load(start + tag) > nothing)
            share = tl.exp(tl.sum(tl.where(tag_ids == tag, alpha, 0.0), 0) + onward)
            tl.store(scores + place + at, tl.where(begins, tl.minimum(share, 1.0), 0.0))
