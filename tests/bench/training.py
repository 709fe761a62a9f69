"""Measure training against the plain loop, round by round in one run: `make bench-training [DATA=train.txt]`.

The plain loop is what one writes first: batches in random order, padded and packed for `nn.LSTM`, a dense word table,
AdamW over everything, float32. Both train the same network on the same sentences with as many threads.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from nermodel.network import Batch, Network, NetworkConfig
from nermodel.tags import spans_to_tags, tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.corpus import Sentence
from nertrainer.loop import Recipe, Step, Training, new_network
from nertrainer.reading import read_corpus
from nertrainer.vectors import Vectors

ROOT = Path(__file__).parents[2]
ROUNDS = 5
STEPS = 40  # of each loop in a round
WORDS = 20_000  # rows of the word table besides the corpus's own, as vectors bring them
CPU = torch.device("cpu")


def plain(
    network: Network, vocabulary: Vocabulary, table: Sequence[str], sentences: Sequence[Sentence]
) -> Callable[[], int]:
    """A step of the plain loop, which gives the tokens it saw."""
    network.word.sparse = False
    network.eval()  # packs, and spares this side the dropout
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    rng = random.Random(1)
    rows = {tag: row for row, tag in enumerate(table)}

    def step() -> int:
        chosen = rng.sample(sentences, Recipe.batch_sentences)
        batch = Batch.of([sentence.words for sentence in chosen], vocabulary, CPU)
        gold = torch.zeros_like(batch.tokens)
        for row, sentence in zip(gold, chosen, strict=True):
            tags = spans_to_tags(sentence.spans, len(sentence.words), "BIOES")
            row[: len(tags)] = torch.tensor([rows[tag] for tag in tags])
        optimizer.zero_grad()
        network.loss(network(batch), batch, gold).mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), Recipe.clip)
        optimizer.step()
        network.forbid_illegal()
        return int(batch.lengths.sum())

    return step


def ours(
    network: Network, vocabulary: Vocabulary, table: Sequence[str], sentences: Sequence[Sentence], recipe: Recipe
) -> Callable[[], int]:
    """A step of our loop, which gives the tokens it saw."""
    training = Training(network, vocabulary, table, sentences, recipe, CPU)
    events = training.run()

    def step() -> int:
        event = next(events)
        while not isinstance(event, Step):
            event = next(events)
        return event.tokens

    return step


def main() -> None:
    """Print tokens a second of both loops and their ratio, the median over the rounds."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples/corpus/train.conll"
    corpus = read_corpus(path)
    table = tag_table(corpus.labels, "BIOES")
    vocabulary = Vocabulary.build((s.words for s in corpus.sentences), 1, (f"word{row}x" for row in range(WORDS)))
    loops: dict[str, Callable[[], int]] = {}
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(epochs=1000, precision=precision)
        network = new_network(NetworkConfig(), vocabulary, table, Vectors(), recipe)
        loops[f"ours, {precision}"] = ours(network, vocabulary, table, corpus.sentences, recipe)
    network = new_network(NetworkConfig(), vocabulary, table, Vectors(), Recipe())
    loops["plain, float32"] = plain(network, vocabulary, table, corpus.sentences)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in track(range(ROUNDS + 1), "rounds", console=Console(stderr=True)):
        for name, step in loops.items():
            started = time.perf_counter()
            tokens = sum(step() for _ in range(STEPS))
            if round_:  # the first warms up
                rates[name].append(tokens / (time.perf_counter() - started))
    print(
        f"{path.name}, {torch.get_num_threads()} threads, batches of {Recipe.batch_sentences}, "
        f"median of {ROUNDS} rounds of {STEPS} steps"
    )
    for name, found in rates.items():
        ratios = [rate / base for rate, base in zip(found, rates["plain, float32"], strict=True)]
        print(f"{name:16} {statistics.median(found):8,.0f} tokens/s   x {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
