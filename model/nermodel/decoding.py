"""What decodes emissions on a device, for `nermodel.cuda`: a Triton kernel or, where Triton is missing, torch."""

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from nermodel.crf import Potentials, path_spans, span_probabilities, viterbi

try:
    from nermodel.kernels import TritonDecoder
except ImportError:  # Triton comes with CUDA builds of torch
    TritonDecoder = None  # type: ignore[assignment, misc]

_logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """Writes the best tags of a batch and, if asked for, the probabilities of their entities."""

    is_silent: bool  # whether the host need not wait for the device

    def __call__(self, emissions: Tensor, starts: Tensor, lengths: Tensor, tags: Tensor, scores: Tensor | None) -> None:
        """Write the best legal tag of each token, and into `scores` the probability of the entity that begins there.

        emissions [T, B, C] float32 and contiguous; starts [B], where in `tags` and `scores` a row's tokens begin, and
        lengths [B], both int32; tags [T * B] uint8; scores [T * B] float32. A row may be empty and then starts where no
        other has tokens. Ties fall as in `viterbi`. The score of a token that begins no entity means nothing.
        """


class TorchDecoder:
    """By the functions of `nermodel.crf`."""

    is_silent = False  # it counts spans

    def __init__(self, start: Tensor, transitions: Tensor, end: Tensor, temperature: float) -> None:
        """As `viterbi` takes them, on the device; the temperature is that of the probabilities."""
        self._steps = (start, transitions, end)
        self._temperature = temperature

    def __call__(self, emissions: Tensor, starts: Tensor, lengths: Tensor, tags: Tensor, scores: Tensor | None) -> None:
        """As `Decoder`."""
        potentials = Potentials(emissions.transpose(0, 1), lengths.long().clamp(min=1), *self._steps)
        path = viterbi(*potentials)  # [B, T]
        time = torch.arange(path.shape[1], device=path.device)
        nowhere = len(tags) - 1  # no token's, if there is any padding
        places = (starts.unsqueeze(1) + time).masked_fill(time >= lengths.unsqueeze(1), nowhere)
        tags.scatter_(0, places.flatten(), path.flatten().to(torch.uint8))
        if scores is not None:
            rows, firsts, ends = path_spans(path, potentials.lengths, potentials.start)
            chances = span_probabilities(potentials.tempered(self._temperature), path, rows, firsts, ends)
            scores[starts[rows] + firsts] = chances


def decoder(start: Tensor, transitions: Tensor, end: Tensor, temperature: float) -> Decoder:
    """The fastest for the device that these are on."""
    plain = TorchDecoder(start, transitions, end, temperature)
    make = TritonDecoder
    if make is None or not start.is_cuda:
        return plain
    return trusted(lambda: make(start, transitions, end, temperature), plain, transitions)


def trusted(make: Callable[[], Decoder], plain: Decoder, transitions: Tensor) -> Decoder:
    """What `make` gives if it decodes a few made-up sentences as the plain one does, which is what is given else.

    A kernel is compiled where it runs: a compiler may be missing there, or make something else of it.
    """
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([1, 70, 0, 33], dtype=torch.int32)
    starts = lengths.cumsum(0) - lengths
    starts[2] = lengths.sum()  # where nobody's tokens are
    size, count = 72 * len(lengths), int(lengths.sum())
    emissions = 3 * torch.randn(72, len(lengths), len(transitions), generator=generator)
    emissions, starts, lengths = (values.to(transitions.device) for values in (emissions, starts.int(), lengths))

    def decoded(decode: Decoder, is_scored: bool) -> tuple[Tensor, Tensor]:
        tags = torch.zeros(size, dtype=torch.uint8, device=transitions.device)
        scores = torch.zeros(size, device=transitions.device)
        decode(emissions, starts, lengths, tags, scores if is_scored else None)
        return tags[:count].cpu(), scores[:count].cpu()

    try:
        found = make()
        for is_scored in (False, True):
            (tags, scores), (expected, chances) = decoded(found, is_scored), decoded(plain, is_scored)
            if not torch.equal(tags, expected) or not torch.allclose(scores, chances, rtol=0, atol=1e-3):
                raise RuntimeError("it decodes otherwise than torch")
    except Exception as error:  # whatever a compiler may raise
        _logger.warning("decoding by torch, which is slower: the kernel failed: %s", str(error).split("\n", 1)[0])
        return plain
    return found
