"""The training loop, as a generator of steps: printing, saving and stopping belong to the caller."""

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from nermodel.checkpoint import Model
from nermodel.network import ILLEGAL, Batch, Network, NetworkConfig
from nermodel.tags import Scheme, spans_to_tags
from nermodel.vocabulary import UNK, Vocabulary
from nertrainer import processes
from nertrainer.batches import bucketed
from nertrainer.corpus import Sentence
from nertrainer.mentions import Mentions
from nertrainer.teacher import Opinion, distillation_loss
from nertrainer.vectors import Vectors

_KINDS = ("dense", "words")  # of weights, each with an optimizer


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides its data."""

    scheme: Scheme = "BIOES"
    min_freq: int = 1  # a rarer word has no row of its own
    epochs: int = 24
    patience: int = 8  # epochs without a better dev F1 before stopping
    batch_sentences: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    word_lr: float = 2e-3  # of the word table, whose gradient is sparse
    weight_decay: float = 0.01
    clip: float = 5.0  # of the gradient's norm
    dropout: float = 0.5  # variational, before and after the LSTM
    word_dropout: float = 0.05  # share of a batch's words replaced by UNK
    replace_mentions: float = 0.3  # share of the entities of a gazetteer's labels, where there is a gazetteer
    recase: float = 0.0  # share of sentences read in lower case or, a quarter of them, in capitals
    ema: float = 0.999  # decay of the average of all weights but the word table; it is evaluated and published
    loss: Literal["crf", "softmax"] = "crf"  # softmax: each token by itself, all legal transitions equal
    teacher_share: float = 0.5  # of a teacher's opinion in the loss, where there is a teacher
    precision: Literal["float32", "bfloat16"] = "float32"  # of the encoder's arithmetic; weights and CRF stay float32
    seed: int = 1


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    epoch: int  # from 1
    step: int  # within the epoch, from 1
    loss: float  # of a sentence, mean over the batch
    lr: float  # of the dense weights
    tokens: int  # in its batch, before any mention was replaced


@dataclass(frozen=True)
class EpochEnd:
    """The network after an epoch, its weights averaged (but for the word table); the loop goes on with its own."""

    epoch: int
    loss: float  # mean over the epoch
    network: Network


def new_network(
    config: NetworkConfig,
    vocabulary: Vocabulary,
    table: Sequence[str],
    vectors: Vectors,
    recipe: Recipe,
    start: Model | None = None,
) -> Network:
    """A seeded network whose word table holds the vectors where there are any.

    With `start`, a model of the same config, it goes on from that model's weights but for the word table, also for the
    characters and tags that the two have in common.
    """
    torch.manual_seed(recipe.seed)
    network = Network(config, vocabulary, table, recipe.dropout)
    with torch.no_grad():
        bound = math.sqrt(3 / config.word_dim)
        network.word.weight[1:].uniform_(-bound, bound)
        for row, word in enumerate(vocabulary.words[: vocabulary.word_rows - 2], 2):
            if word in vectors:
                network.word.weight[row] = torch.from_numpy(vectors[word])
        if recipe.loss == "softmax":
            for scores in network.crf.parameters():
                scores.zero_()
            network.forbid_illegal()
        for name, weight in network.lstm.named_parameters():
            if "weight" in name:
                for gate in weight.chunk(4):
                    nn.init.xavier_uniform_(gate)
            else:
                weight.zero_()
                if "bias_ih" in name:
                    weight.chunk(4)[1].fill_(1.0)  # the forget gate begins open (Jozefowicz et al. 2015)
        if start is not None:
            _take_over(network, vocabulary, table, start)
    return network


def _take_over(network: Network, vocabulary: Vocabulary, table: Sequence[str], start: Model) -> None:
    """Copy the weights of the model that the network goes on from, where both have the part that they belong to."""
    old, new = start.network.state_dict(), network.state_dict()
    chars = [
        (row, start.vocabulary.chars.index(char) + 2)
        for row, char in enumerate(vocabulary.chars, 2)
        if char in start.vocabulary.chars
    ]
    tags = [(row, start.tags.index(tag)) for row, tag in enumerate(table) if tag in start.tags]
    both = torch.tensor([row for row, _ in tags]), torch.tensor([before for _, before in tags])
    for name, value in new.items():
        if name == "word.weight":
            value[UNK] = old[name][UNK]
        elif name == "char.weight":
            for row, before in [(UNK, UNK), *chars]:
                value[row] = old[name][before]
        elif name.startswith("crf."):
            place, source = ((rows.unsqueeze(1), rows) if value.dim() == 2 else rows for rows in both)
            # What was illegal in the other scheme stays as it is.
            value[place] = torch.where(old[name][source] > ILLEGAL / 2, old[name][source], value[place])
        elif name.startswith("output."):
            value[both[0]] = old[name][both[1]]
        else:
            value.copy_(old[name])
    network.forbid_illegal()


class Training:
    """A network in training. What a step does depends on the state and the recipe alone, so a run can be resumed.

    Iterate over `run()`; between two of its events `state()` is all that another process needs to go on to the same
    bits, given the same data and a network of the same shape.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: Vocabulary,
        table: Sequence[str],
        sentences: Sequence[Sentence],
        recipe: Recipe,
        device: torch.device,
        opinions: Sequence[Opinion] = (),
        mentions: Mentions | None = None,
    ):
        self.network = network.to(device)
        self._vocabulary = vocabulary
        self._opinions = opinions  # a teacher's, of each sentence
        self._mentions = mentions  # to put in the place of others
        self._sentences = sentences
        self._tag_rows = {tag: row for row, tag in enumerate(table)}
        columns = {
            labels: torch.tensor([tag[2:] in labels for tag in table])
            for labels in {sentence.unannotated for sentence in sentences}
        }
        self._open = [columns[sentence.unannotated] for sentence in sentences]  # each [C]: what its O may be as well
        self._recipe = recipe
        self._device = device
        self._dense = [weight for weight in network.parameters() if weight is not network.word.weight]
        self._optimizers = _optimizers(network, self._dense, recipe)
        self._average = [weight.detach().clone() for weight in self._dense]
        self.steps = math.ceil(len(sentences) / recipe.batch_sentences)  # in an epoch
        texts = [sentence.words for sentence in sentences]
        if mentions:
            texts += chain.from_iterable(mentions.by_label.values())
        words = set(chain.from_iterable(texts))
        # Words with ß and ẞ have other rows in capitals, also by way of lower case.
        read = {form for word in words for form in (word, word.upper(), word.lower().upper())}
        self._rows = 1 + int(vocabulary.word_ids(list(read)).max(initial=UNK))  # ever changed
        self._ended = 0  # epochs
        self._done = 0  # steps of all epochs
        self._total = 0.0  # of the losses of this epoch

    def run(self) -> Iterator[Step | EpochEnd]:
        """Train in place, yielding every step and epoch's end; FloatingPointError if the loss is not finite."""
        lengths = [len(sentence.words) for sentence in self._sentences]
        for epoch in range(self._ended, self._recipe.epochs):
            rng = random.Random(f"{self._recipe.seed}/{epoch}")  # noqa: S311
            batches = bucketed(lengths, self._recipe.batch_sentences, rng)
            first = self._done - epoch * self.steps
            for step, indices in enumerate(batches[first:], first + 1):
                lr = self._recipe.lr * self._remaining
                loss = self._step(indices)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss or its gradient became {loss} at epoch {epoch + 1}, step {step}; "
                        "lower the learning rate"
                    )
                self._total += loss
                yield Step(epoch + 1, step, loss, lr, sum(lengths[index] for index in indices))
            self._ended, mean, self._total = epoch + 1, self._total / self.steps, 0.0
            yield EpochEnd(epoch + 1, mean, self._averaged())

    @property
    def _remaining(self) -> float:
        """The share of the rates that is left: they fall linearly to zero."""
        return 1 - self._done / (self.steps * self._recipe.epochs)

    def _step(self, indices: Sequence[int]) -> float:
        """One optimizer step on these sentences; their loss."""
        recipe = self._recipe
        # A step's randomness depends on seed, step and process alone, so that a resumed run draws the same.
        draw = np.random.SeedSequence((recipe.seed, self._done, processes.rank()))
        torch.manual_seed(int(draw.generate_state(1)[0]))
        self.network.train()
        for optimizer, lr in self._optimizers:
            optimizer.param_groups[0]["lr"] = lr * self._remaining
            optimizer.zero_grad()
        own = indices[processes.rank() :: processes.world()]
        loss = torch.zeros((), device=self._device)
        if own:
            loss = self._loss(own) * (len(own) / len(indices))
            loss.backward()  # type: ignore[no-untyped-call]
        processes.sum_gradients(self._dense, self.network.word.weight)
        # Both figures at once: each one asked of a GPU waits for all that it was given to do.
        value, norm = torch.stack([loss.detach(), nn.utils.clip_grad_norm_(self._dense, recipe.clip)]).tolist()
        value = processes.sum_of(value)
        if not math.isfinite(value):
            return value
        if not math.isfinite(norm):
            return float(norm)
        for optimizer, _ in self._optimizers:
            optimizer.step()
        self.network.forbid_illegal()
        self._done += 1
        decay = min(recipe.ema, (1 + self._done) / (10 + self._done))
        torch._foreach_lerp_(self._average, [weight.detach() for weight in self._dense], 1 - decay)
        return value

    def _loss(self, indices: Sequence[int]) -> Tensor:
        """The mean loss of these sentences."""
        sentences = self._drawn(indices)
        batch = Batch.of([sentence.words for sentence in sentences], self._vocabulary, self._device)
        if self._recipe.word_dropout:
            dropped = torch.rand(batch.words.shape, device=self._device) < self._recipe.word_dropout
            batch.words.masked_fill_(dropped, UNK)
        gold = _padded([self._tags(sentence) for sentence in sentences]).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.precision == "bfloat16"):
            scores = self.network(batch)
        allowed = self._allowed(indices, gold)
        if self._recipe.loss == "softmax":
            if allowed is None:
                allowed = nn.functional.one_hot(gold, scores.shape[2]).bool()
            losses = scores.logsumexp(dim=2) - scores.masked_fill(~allowed, -torch.inf).logsumexp(dim=2)  # [B, T]
            mean: Tensor = (losses * batch.mask).sum() / len(indices)
            return mean
        loss = self.network.loss(scores, batch, gold, allowed).mean()
        if self._opinions:
            taught = distillation_loss(self.network, scores, batch, [self._opinions[index] for index in indices])
            loss = torch.lerp(loss, taught, self._recipe.teacher_share)
        return loss

    def _drawn(self, indices: Sequence[int]) -> list[Sentence]:
        """These sentences as this step has them."""
        sentences = [self._sentences[index] for index in indices]
        rng = random.Random(f"{self._recipe.seed}/{self._done}/{processes.rank()}")  # noqa: S311
        if self._mentions:
            share = self._recipe.replace_mentions
            sentences = [self._mentions.replaced(sentence, share, rng) for sentence in sentences]
        if self._recipe.recase:
            sentences = [_recased(sentence, rng.random() / self._recipe.recase) for sentence in sentences]
        return sentences

    def _tags(self, sentence: Sentence) -> list[int]:
        tags = spans_to_tags(sentence.spans, len(sentence.words), self._recipe.scheme)
        return [self._tag_rows[tag] for tag in tags]

    def _allowed(self, indices: Sequence[int], gold: Tensor) -> Tensor | None:
        """Tags that may be right [B, T, C] where some labels were not annotated: an O may be one of these."""
        columns = torch.stack([self._open[index] for index in indices]).unsqueeze(1)  # [B, 1, C]
        if not columns.any():
            return None
        gold = gold.unsqueeze(2)  # [B, T, 1]
        return (gold == torch.arange(columns.shape[2], device=gold.device)) | ((gold == 0) & columns.to(gold.device))

    def _averaged(self) -> Network:
        network = copy.deepcopy(self.network).eval()
        dense = [weight for weight in network.parameters() if weight is not network.word.weight]
        for weight, mean in zip(dense, self._average, strict=True):
            weight.data.copy_(mean)
        return network

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on besides data and recipe, as copies on the CPU."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        found |= {f"average.{row}": value for row, value in enumerate(self._average)}
        for kind, (optimizer, _) in zip(_KINDS, self._optimizers, strict=False):
            for row, slots in optimizer.state_dict()["state"].items():
                found |= {f"{kind}.{row}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
        found |= {"ended": torch.tensor(self._ended), "done": torch.tensor(self._done)}
        found["total"] = torch.tensor(self._total, dtype=torch.float64)
        # Rows of words that no training sentence holds never change, and most of a large table are such.
        return {
            name: (value[: self._rows] if _of_words(name, value) else value).detach().cpu().clone()
            for name, value in found.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from another run's `state()`; ValueError if it is of another network, recipe or data."""
        expected = self.state()
        for name, value in expected.items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"the saved state does not fit this network and data at {name}; start a new run")
        for name, value in self.network.state_dict().items():
            saved = state[f"network.{name}"]
            value[: len(saved)].copy_(saved)
        for row, value in enumerate(self._average):
            value.copy_(state[f"average.{row}"])
        for kind, (optimizer, _) in zip(_KINDS, self._optimizers, strict=False):
            restored = optimizer.state_dict()
            for name, value in state.items():
                of, _, place = name.partition(".")
                if of == kind:
                    index, slot = place.split(".")
                    restored["state"].setdefault(int(index), {})[slot] = self._whole(name, value)
            optimizer.load_state_dict(restored)
        self._ended, self._done = int(state["ended"]), int(state["done"])
        self._total = float(state["total"])

    def _whole(self, name: str, value: Tensor) -> Tensor | int:
        """What an optimizer keeps, of what `state` made of it."""
        if _of_words(name, value):
            table = value.new_zeros(self.network.word.weight.shape)
            table[: self._rows] = value
            return table
        return int(value) if name == "words.0.step" else value.clone()  # SparseAdam counts in plain numbers


def _recased(sentence: Sentence, draw: float) -> Sentence:
    """The sentence in capitals for a draw below 1/4, in lower case for one below 1 (after Mayhew et al. 2019)."""
    if draw >= 1:
        return sentence
    write = str.upper if draw < 0.25 else str.lower
    return replace(sentence, words=tuple(map(write, sentence.words)))


def _of_words(name: str, value: Tensor) -> bool:
    """Whether a part of the state has a row for each word."""
    return name == "network.word.weight" or (name.startswith("words.") and value.dim() == 2)


def _optimizers(network: Network, dense: Sequence[Tensor], recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """One for the dense weights and, unless they are to stay as they are, one for the words, each with its rate."""
    network.word.weight.requires_grad_(recipe.word_lr > 0)
    words = [network.word.weight]
    found: list[tuple[torch.optim.Optimizer, float]] = []
    if recipe.optimizer == "sgd":
        found.append((torch.optim.SGD(dense, momentum=0.9, weight_decay=recipe.weight_decay), recipe.lr))
    else:
        found.append((torch.optim.AdamW(dense, weight_decay=recipe.weight_decay, fused=True), recipe.lr))
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
