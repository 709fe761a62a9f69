"""The network: word embedding, char-CNN and casing, BiLSTM, linear layer, CRF (Ma and Hovy 2016, arXiv:1603.01354).

Shapes: U distinct words of a batch, L characters of the longest of them, B sentences, T tokens of the longest,
C tags, H hidden units of one direction, D features of one word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchcrf import CRF

from nermodel.crf import Potentials, legal, log_partition
from nermodel.vocabulary import CASINGS, PAD, Vocabulary, casing

LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
ILLEGAL = -10_000.0  # a transition score no path recovers from, yet finite in the loss


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network; those of the tables come from the vocabulary and the tags."""

    word_dim: int = 100
    char_dim: int = 30
    char_filters: int = 50  # 0: no char encoder
    char_width: int = 3
    hidden: int = 200  # of one direction
    layers: int = 1


@dataclass(frozen=True)
class Batch:
    """Sentences as ids; every distinct word is encoded once."""

    words: Tensor  # [U]
    chars: Tensor  # [U, L]
    casings: Tensor  # [U]
    tokens: Tensor  # [B, T]: which of the U words; padded with 0
    lengths: Tensor  # [B], on the CPU, where packing wants it

    @classmethod
    def of(cls, sentences: Sequence[Sequence[str]], vocabulary: Vocabulary, device: torch.device) -> Self:
        """Of sentences with at least one token each."""
        rows: dict[str, int] = {}
        lengths = np.array([len(sentence) for sentence in sentences])
        tokens = np.zeros((len(sentences), lengths.max()), np.int64)
        for row, sentence in zip(tokens, sentences, strict=True):
            row[: len(sentence)] = [rows.setdefault(word, len(rows)) for word in sentence]
        words = list(rows)
        return cls(
            words=torch.from_numpy(vocabulary.word_ids(words)).to(device),
            chars=torch.from_numpy(vocabulary.char_ids(words)).to(device),
            casings=torch.tensor([casing(word) for word in words], device=device),
            tokens=torch.from_numpy(tokens).to(device),
            lengths=torch.from_numpy(lengths),
        )

    @property
    def mask(self) -> Tensor:
        """Which tokens are real [B, T]."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths_on_device.unsqueeze(1)

    @property
    def lengths_on_device(self) -> Tensor:
        """Lengths [B] beside the tokens."""
        return self.lengths.to(self.tokens.device)


class Network(nn.Module):
    """Emission scores, and the CRF's scores and loss over them."""

    start_legal: Tensor
    follow_legal: Tensor
    end_legal: Tensor

    def __init__(self, config: NetworkConfig, vocabulary: Vocabulary, table: Sequence[str], dropout: float = 0.0):
        super().__init__()
        self.word = nn.Embedding(vocabulary.word_rows, config.word_dim, padding_idx=PAD, sparse=True)
        self.char = nn.Embedding(vocabulary.char_rows, config.char_dim, padding_idx=PAD)
        self.char_cnn = (
            nn.Conv1d(config.char_dim, config.char_filters, config.char_width, padding="same")
            if config.char_filters
            else None
        )
        self.casing = nn.Embedding(CASINGS, CASINGS)
        self.lstm = nn.LSTM(
            config.word_dim + config.char_filters + CASINGS,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
        )
        self.output = nn.Linear(2 * config.hidden, len(table))
        self.crf = CRF(len(table), batch_first=True)
        self.dropout = dropout
        for name, mask in zip(("start_legal", "follow_legal", "end_legal"), legal(table), strict=True):
            self.register_buffer(name, mask, persistent=False)
        self.forbid_illegal()

    @torch.no_grad()
    def forbid_illegal(self) -> None:
        """Set the score of every illegal transition to ILLEGAL; call it after each optimizer step."""
        for scores, mask in self._transitions():
            scores.masked_fill_(~mask, ILLEGAL)

    def forward(self, batch: Batch) -> Tensor:
        """Emission scores [B, T, C]; those of padding mean nothing."""
        words = self.word_features(batch)  # [U, D]
        features = self._drop(words[batch.tokens])  # [B, T, D]
        if self.training:
            states = self._both_directions(features, batch.lengths)
        else:
            packed = pack_padded_sequence(features, batch.lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # [B, T, 2H]
        scores: Tensor = self.output(self._drop(states)).float()
        return scores

    def _both_directions(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The LSTM's states, x [B, T, D] to [B, T, 2H], with variational dropout between its layers.

        Packing, whose gradient on a CPU costs time quadratic in T, is not needed: padding at the end is harmless to a
        direction that reads towards it, so each runs by itself, and the backward one reads every sentence reversed.
        """
        places = torch.arange(x.shape[1], device=x.device)
        last = lengths.to(x.device).unsqueeze(1) - 1
        reversal = torch.where(places <= last, last - places, places).unsqueeze(2)  # [B, T, 1], its own inverse
        state = x.new_zeros(1, x.shape[0], self.lstm.hidden_size)
        for layer in range(self.lstm.num_layers):
            if layer:
                x = self._drop(x)
            outputs = []
            for suffix in ("", "_reverse"):
                weights = [getattr(self.lstm, f"{name}_l{layer}{suffix}") for name in LSTM_WEIGHTS]
                read = x.gather(1, reversal.expand(x.shape)) if suffix else x
                states, _, _ = torch.lstm(read, (state, state), weights, True, 1, 0.0, True, False, True)
                outputs.append(states.gather(1, reversal.expand(states.shape)) if suffix else states)
            x = torch.cat(outputs, dim=2)
        return x

    def word_features(self, batch: Batch) -> Tensor:
        """What the LSTM reads of each distinct word [U, D]."""
        if self.char_cnn is None:
            return torch.cat([self.word(batch.words), self.casing(batch.casings)], dim=1)
        chars = self.char_cnn(self.char(batch.chars).transpose(1, 2))  # [U, filters, L]
        chars = chars.masked_fill((batch.chars == PAD).unsqueeze(1), -torch.inf).amax(dim=2)
        chars = chars.masked_fill(chars == -torch.inf, 0.0)  # a word of no characters
        return torch.cat([self.word(batch.words), chars, self.casing(batch.casings)], dim=1)

    def loss(self, scores: Tensor, batch: Batch, gold: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Negative log-likelihood [B] of the gold tags [B, T] under the scores [B, T, C] that `forward` gave.

        With `allowed` tags [B, T, C] instead, that of all the paths through them (Tsuboi et al. 2008).
        """
        if allowed is None:
            likelihood: Tensor = self.crf(scores, gold, mask=batch.mask, reduction="none")
            return -likelihood
        return self.log_partition(scores, batch) - self.log_partition(scores.masked_fill(~allowed, ILLEGAL), batch)

    def log_partition(self, scores: Tensor, batch: Batch) -> Tensor:
        """The logarithm of the summed exp(score) of all paths [B], under the scores that `forward` gave."""
        steps = (self.crf.start_transitions, self.crf.transitions, self.crf.end_transitions)
        return log_partition(Potentials(scores, batch.lengths_on_device, *steps))

    def potentials(self, batch: Batch) -> Potentials:
        """What a path's score is made of, illegal transitions forbidden."""
        return Potentials(self(batch), batch.lengths_on_device, *self.steps())

    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of tags at the start [C], from one tag to the next [C from, C to] and at the end [C]; -inf forbids."""
        start, transitions, end = (scores.masked_fill(~mask, -torch.inf) for scores, mask in self._transitions())
        return start, transitions, end

    def char_parts(self) -> tuple[Tensor, Tensor]:
        """What each character adds to a filter by its place [chars, width, filters], and the filters' bias [filters].

        The convolution is linear in the characters, so a word's sums are made of these.
        """
        if self.char_cnn is None:
            return self.char.weight.new_zeros(len(self.char.weight), 1, 0), self.char.weight.new_zeros(0)
        assert self.char_cnn.bias is not None
        return torch.einsum("rc,fcw->rwf", self.char.weight, self.char_cnn.weight), self.char_cnn.bias

    def _transitions(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return (
            (self.crf.start_transitions, self.start_legal),
            (self.crf.transitions, self.follow_legal),
            (self.crf.end_transitions, self.end_legal),
        )

    def _drop(self, x: Tensor) -> Tensor:
        """Variational dropout: one mask a sentence for all its tokens (Gal and Ghahramani 2016). x [B, T, D]."""
        if not self.training or not self.dropout:
            return x
        keep = 1.0 - self.dropout
        return x * x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(keep).div_(keep)
