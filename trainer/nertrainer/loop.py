"""The training loop, as a generator of steps: printing, saving and stopping belong to the caller."""

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nermodel.network import Batch, Network, NetworkConfig
from nermodel.tags import Scheme, spans_to_tags
from nermodel.vocabulary import UNK, Vocabulary
from nertrainer.batches import bucketed
from nertrainer.corpus import Sentence
from nertrainer.vectors import Vectors


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides its data."""

    scheme: Scheme = "BIOES"
    min_freq: int = 1  # a rarer word has no row of its own
    epochs: int = 20
    patience: int = 6  # epochs without a better dev F1 before stopping
    batch_sentences: int = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1.5e-3
    word_lr: float = 5e-4  # of the word table, whose gradient is sparse
    weight_decay: float = 0.01
    clip: float = 5.0  # of the gradient's norm
    dropout: float = 0.5  # variational, before and after the LSTM
    word_dropout: float = 0.05  # share of a batch's words replaced by UNK
    ema: float = 0.999  # decay of the average of all weights but the word table; it is evaluated and published
    seed: int = 1


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    epoch: int  # from 1
    step: int  # within the epoch, from 1
    steps: int  # in the epoch
    loss: float  # of a sentence, mean over the batch


@dataclass(frozen=True)
class EpochEnd:
    """The network after an epoch, its weights averaged (but for the word table); the loop goes on with its own."""

    epoch: int
    loss: float  # mean over the epoch
    network: Network


def new_network(
    config: NetworkConfig, vocabulary: Vocabulary, table: Sequence[str], vectors: Vectors, recipe: Recipe
) -> Network:
    """A seeded network whose word table holds the vectors where there are any."""
    torch.manual_seed(recipe.seed)
    network = Network(config, vocabulary, table, recipe.dropout)
    with torch.no_grad():
        bound = math.sqrt(3 / config.word_dim)
        network.word.weight[1:].uniform_(-bound, bound)
        for row, word in enumerate(vocabulary.words, 2):
            if word in vectors:
                network.word.weight[row] = torch.from_numpy(vectors[word])
        for name, weight in network.lstm.named_parameters():
            if "weight" in name:
                for gate in weight.chunk(4):
                    nn.init.xavier_uniform_(gate)
            else:
                weight.zero_()
                if "bias_ih" in name:
                    weight.chunk(4)[1].fill_(1.0)  # the forget gate begins open (Jozefowicz et al. 2015)
    return network


def train(
    network: Network,
    vocabulary: Vocabulary,
    table: Sequence[str],
    sentences: Sequence[Sentence],
    recipe: Recipe,
    device: torch.device,
) -> Iterator[Step | EpochEnd]:
    """Train the network in place, yielding every step and epoch's end; FloatingPointError if the loss is not finite."""
    rng = random.Random(recipe.seed)  # noqa: S311
    torch.manual_seed(recipe.seed)
    rows = {tag: row for row, tag in enumerate(table)}
    gold = [[rows[tag] for tag in spans_to_tags(s.spans, len(s.words), recipe.scheme)] for s in sentences]
    lengths = [len(sentence.words) for sentence in sentences]
    network.to(device).train()
    dense = [weight for weight in network.parameters() if weight is not network.word.weight]
    optimizers = _optimizers(network, dense, recipe)
    average = [weight.detach().clone() for weight in dense]
    steps = math.ceil(len(sentences) / recipe.batch_sentences)
    done = 0
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        for step, indices in enumerate(bucketed(lengths, recipe.batch_sentences, rng), 1):
            remaining = 1 - done / (steps * recipe.epochs)  # the rates fall linearly to zero
            for optimizer, lr in optimizers:
                optimizer.param_groups[0]["lr"] = lr * remaining
            batch = Batch.of([sentences[index].words for index in indices], vocabulary, device)
            if recipe.word_dropout:
                dropped = torch.rand(batch.words.shape, device=device) < recipe.word_dropout
                batch.words.masked_fill_(dropped, UNK)
            loss = network.loss(batch, _padded([gold[index] for index in indices]).to(device))
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss became {value} at epoch {epoch}, step {step}; lower the learning rate"
                )
            for optimizer, _ in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(dense, recipe.clip)
            for optimizer, _ in optimizers:
                optimizer.step()
            network.forbid_illegal()
            done += 1
            decay = min(recipe.ema, (1 + done) / (10 + done))
            for mean, weight in zip(average, dense, strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
            total += value
            yield Step(epoch, step, steps, value)
        averaged = copy.deepcopy(network).eval()
        kept = [weight for weight in averaged.parameters() if weight is not averaged.word.weight]
        for weight, mean in zip(kept, average, strict=True):
            weight.data.copy_(mean)
        yield EpochEnd(epoch, total / steps, averaged)


def _optimizers(network: Network, dense: Sequence[Tensor], recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """One for the dense weights and, unless they are to stay as they are, one for the words, each with its rate."""
    network.word.weight.requires_grad_(recipe.word_lr > 0)
    words = [network.word.weight]
    found: list[tuple[torch.optim.Optimizer, float]] = []
    if recipe.optimizer == "sgd":
        found.append((torch.optim.SGD(dense, momentum=0.9, weight_decay=recipe.weight_decay), recipe.lr))
    else:
        found.append((torch.optim.AdamW(dense, weight_decay=recipe.weight_decay), recipe.lr))
    if recipe.word_lr > 0:
        found.append(
            (torch.optim.SGD(words) if recipe.optimizer == "sgd" else torch.optim.SparseAdam(words), recipe.word_lr)
        )
    return found


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of different length as one tensor, padded with 0."""
    table = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(table)
