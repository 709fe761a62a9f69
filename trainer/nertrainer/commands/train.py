"""`nertrainer train`: train a model on annotated files and publish it."""

import errno
import hashlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from nermodel.checkpoint import Card, Model, publish, rounded
from nermodel.network import NetworkConfig
from nermodel.tags import Scheme, check_table, tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.commands.options import Device, LabelMap, read_corpus, read_label_map, say, torch_device
from nertrainer.corpus import Corpus, CorpusError, Sentence
from nertrainer.evaluation import Evaluation, evaluate
from nertrainer.loop import EpochEnd, Recipe, Step, new_network, train
from nertrainer.report import scores_table, screen, training_bar
from nertrainer.vectors import Vectors, read_vectors

KNOWN_ANSWERS = 8


def train_command(
    train_files: Annotated[
        list[Path], typer.Option("--train", help="Training file; repeat for several.", show_default=False)
    ],
    dev_files: Annotated[
        list[Path],
        typer.Option("--dev", help="File to choose the epoch by; the mean F1 of several.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Model folder to publish into, such as models/en.", show_default=False)],
    vectors: Annotated[
        Path | None, typer.Option(help="Word vectors: GloVe or word2vec text, or a checkpoint of ours.")
    ] = None,
    max_vectors: Annotated[int | None, typer.Option(help="Read so many vectors from the start of the file.")] = None,
    labels: LabelMap = "",
    device: Annotated[Device, typer.Option(help="Where to train.")] = "auto",
    scheme: Annotated[Scheme, typer.Option(help="How the network writes entities.")] = Recipe.scheme,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="Optimizer.")] = Recipe.optimizer,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = Recipe.lr,
    word_lr: Annotated[float, typer.Option(help="The same for the word table; 0 keeps the vectors.")] = Recipe.word_lr,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; the rates fall to zero over them.")] = Recipe.epochs,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better dev F1 before stopping.")
    ] = Recipe.patience,
    batch: Annotated[int, typer.Option(min=1, help="Sentences in a batch.")] = Recipe.batch_sentences,
    dropout: Annotated[float, typer.Option(min=0, max=0.95, help="Variational dropout.")] = Recipe.dropout,
    word_dropout: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of words hidden from the word table.")
    ] = Recipe.word_dropout,
    min_freq: Annotated[int, typer.Option(min=1, help="Rarer words get no row of their own.")] = Recipe.min_freq,
    hidden: Annotated[int, typer.Option(min=1, max=2048, help="LSTM units of one direction.")] = NetworkConfig.hidden,
    layers: Annotated[int, typer.Option(min=1, max=8, help="LSTM layers.")] = NetworkConfig.layers,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same machine: same model.")] = Recipe.seed,
) -> None:
    """Train a tagger and publish it.

    Files are CoNLL columns of any scheme (IO, IOB1, BIO, BIOES, BILOU); the scheme is found out. The epoch with the
    best F1 on the dev files is published as OUTPUT/000001.safetensors, or the next number, which a server that watches
    OUTPUT takes by itself.

    \b
        nertrainer train --train train.conll --dev dev.conll --output models/en
    """
    where = torch_device(device)
    if not (0 < lr < math.inf and 0 <= word_lr < math.inf):
        raise ValueError(f"--lr {lr} --word-lr {word_lr}: expected finite rates, --lr above 0 and --word-lr 0 or more")
    label_map = read_label_map(labels)
    training = [read_corpus(path, label_map) for path in train_files]
    dev = [read_corpus(path, label_map) for path in dev_files]
    sentences = [sentence for corpus in training for sentence in corpus.sentences]
    found = sorted({label for corpus in training for label in corpus.labels})
    for corpus in (*training, *dev):
        if not corpus.labels:
            raise CorpusError(f"{corpus.path}: holds no entity; give annotated text")
    recipe = Recipe(
        scheme=scheme,
        min_freq=min_freq,
        epochs=epochs,
        patience=patience,
        batch_sentences=batch,
        optimizer=optimizer,
        lr=lr,
        word_lr=word_lr,
        dropout=dropout,
        word_dropout=word_dropout,
        seed=seed,
    )
    table = tag_table(found, recipe.scheme)
    check_table(table)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):  # said before the work, not after
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output))
    pretrained = _vectors(vectors, max_vectors)
    vocabulary = Vocabulary.build((sentence.words for sentence in sentences), min_freq, pretrained)
    if pretrained:
        _say_coverage(sentences, pretrained)
    word_dim = len(next(iter(pretrained.values()))) if pretrained else NetworkConfig.word_dim
    config = NetworkConfig(word_dim=word_dim, hidden=hidden, layers=layers)
    network = new_network(config, vocabulary, table, pretrained, recipe)
    provenance = {
        "train": [_origin(corpus) for corpus in training],
        "dev": [_origin(corpus) for corpus in dev],
        "vectors": vectors.name if vectors else None,
        "recipe": asdict(recipe),
        "torch": torch.__version__,
    }
    started = time.monotonic()
    events = train(network, vocabulary, table, sentences, recipe, where)
    best, epoch, results = _fit(events, Card(table, config, {}, provenance), vocabulary, where, dev, recipe)
    seconds = time.monotonic() - started
    card = replace(best.card, provenance={**provenance, "epoch": epoch, "seconds": round(seconds)})
    path = publish(output, replace(best, card=card), _known(dev[0].sentences))
    for corpus, result in zip(dev, results, strict=True):
        screen.print(scores_table(result, str(corpus.path)))
    print(path)  # noqa: T201
    figure = 100 * card.metrics["dev_f1"]
    say(f"published {path}: dev F1 {figure:.2f} at epoch {epoch}, after {seconds / 60:.1f} minutes")
    if figure == 0:
        say("warning: it finds nothing right on the dev files; train longer, or on more text, before it serves")
    say(f"next: nerserver --model {output}   (a server that watches the folder takes the file by itself)")


def _fit(
    events: Iterable[Step | EpochEnd],
    card: Card,
    vocabulary: Vocabulary,
    device: torch.device,
    dev: Sequence[Corpus],
    recipe: Recipe,
) -> tuple[Model, int, list[Evaluation]]:
    """The model of the epoch with the best dev F1, as it will be published, that epoch, and its figures on each."""
    best: Model | None = None
    best_epoch = 0
    best_results: list[Evaluation] = []
    with training_bar() as bar:
        task = bar.add_task("", total=None, loss="", f1="")
        for event in events:
            if isinstance(event, Step):
                bar.update(
                    task,
                    total=event.steps * recipe.epochs,
                    completed=event.steps * (event.epoch - 1) + event.step,
                    description=f"epoch {event.epoch}",
                    loss=f"{event.loss:.2f}",
                )
                continue
            model = rounded(card, vocabulary, event.network, device)
            results = [evaluate(model, corpus.sentences) for corpus in dev]
            f1 = sum(result.overall.f1 for result in results) / len(results)
            if best is None or f1 > best.card.metrics["dev_f1"]:
                each = {
                    f"dev_f1/{corpus.path.parent.name}/{corpus.path.stem}": result.overall.f1
                    for corpus, result in zip(dev, results, strict=True)
                }
                best = replace(model, card=replace(card, metrics={"dev_f1": f1, **each}))
                best_epoch, best_results = event.epoch, results
            bar.update(task, f1=f"{100 * best.card.metrics['dev_f1']:.2f}")
            say(f"epoch {event.epoch}: loss {event.loss:.3f}, dev F1 {100 * f1:.2f}")
            if event.epoch - best_epoch >= recipe.patience:
                break
    assert best is not None
    return best, best_epoch, best_results


def _known(sentences: Sequence[Sentence]) -> list[tuple[str, ...]]:
    """A few sentences, evenly spaced among those that hold entities, for the card's known answers."""
    telling = [sentence.words for sentence in sentences if sentence.spans and len(sentence.words) <= 50]
    return telling[:: max(1, len(telling) // KNOWN_ANSWERS)][:KNOWN_ANSWERS]


def _vectors(path: Path | None, most: int | None) -> Vectors:
    if path is None:
        return {}
    say(f"{path}: reading vectors")
    return read_vectors(path, most)


def _say_coverage(sentences: Sequence[Sentence], vectors: Vectors) -> None:
    words = [word.lower() for sentence in sentences for word in sentence.words]
    share = sum(word in vectors for word in words) / len(words)
    low = "; are they of the same language?" if share < 0.5 else ""
    say(f"{100 * share:.0f} % of the training tokens have one of {len(vectors):,} vectors{low}")


def _origin(corpus: Corpus) -> dict[str, Any]:
    digest = hashlib.sha256(corpus.path.read_bytes()).hexdigest()
    return {"file": corpus.path.name, "sha256": digest, "sentences": len(corpus.sentences)}
