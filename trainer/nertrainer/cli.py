"""The command `nertrainer`: train a model on column files, and evaluate one."""

import errno
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
import typer
from rich.console import Console

from nermodel.checkpoint import Card, CheckpointError, Model, load, publish, rounded
from nermodel.network import NetworkConfig
from nermodel.tags import Scheme, check_table, tag_table
from nermodel.vocabulary import Vocabulary
from nertrainer.corpus import Corpus, CorpusError, Sentence, read_columns
from nertrainer.evaluation import SCHEME, Evaluation, evaluate
from nertrainer.loop import EpochEnd, Recipe, Step, new_network, train
from nertrainer.report import scores_table, screen, training_bar
from nertrainer.vectors import Vectors, read_vectors

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
KNOWN_ANSWERS = 8

Device = Literal["auto", "cpu", "cuda"]
LabelMap = Annotated[
    str, typer.Option("--labels", help="Rename labels of every file: person=PER,product= (empty drops the label).")
]


@app.callback()
def nertrainer() -> None:
    """Train BiLSTM-CRF taggers on annotated text, and score them."""


@app.command("train")
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
    where = _device(device)
    if not (0 < lr < math.inf and 0 <= word_lr < math.inf):
        raise ValueError(f"--lr {lr} --word-lr {word_lr}: expected finite rates, --lr above 0 and --word-lr 0 or more")
    label_map = _label_map(labels)
    training = [_read(path, label_map) for path in train_files]
    dev = [_read(path, label_map) for path in dev_files]
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
    _say(f"published {path}: dev F1 {figure:.2f} at epoch {epoch}, after {seconds / 60:.1f} minutes")
    if figure == 0:
        _say("warning: it finds nothing right on the dev files; train longer, or on more text, before it serves")
    _say(f"next: nerserver --model {output}   (a server that watches the folder takes the file by itself)")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Annotated files.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, on stdout.")] = False,
    labels: LabelMap = "",
    device: Annotated[Device, typer.Option(help="Where to tag.")] = "auto",
) -> None:
    """Score a checkpoint on annotated files.

    Prints entity-level precision, recall and F1 by seqeval in strict mode, over BIO, of each type and overall. Only
    labels that a file annotates are scored there; predictions of others are counted as ignored.
    """
    model = load(checkpoint, _device(device))
    corpora = [_read(path, _label_map(labels)) for path in files]
    for corpus in corpora:
        result = evaluate(model, corpus.sentences)
        if as_json:
            values = {"file": str(corpus.path), "model": model.version, "scheme": f"{SCHEME} (seqeval strict)"}
            overall = asdict(result.overall)
            extra = {"per_type": {name: asdict(s) for name, s in result.per_type.items()}, "ignored": result.ignored}
            found = {"sentences": len(corpus.sentences), "file_scheme": corpus.scheme, "repairs": len(corpus.repairs)}
            print(json.dumps({**values, **overall, **extra, **found}))  # noqa: T201
        else:
            Console().print(scores_table(result, str(corpus.path)))


def main() -> None:
    """Run the command; an error is one line on stderr."""
    try:
        code = app(prog_name="nertrainer", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "nertrainer"
        _fail(f"{error.format_message().rstrip('.')}; see `{path} --help`", 2)
    except CheckpointError as error:
        _fail(f"{error}; give another checkpoint, or publish this one anew", 1)
    except (ValueError, FloatingPointError) as error:  # CorpusError among them
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}; check the path and its permissions", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        _fail("interrupted; nothing was published", 130)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"nertrainer: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


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
            _say(f"epoch {event.epoch}: loss {event.loss:.3f}, dev F1 {100 * f1:.2f}")
            if event.epoch - best_epoch >= recipe.patience:
                break
    assert best is not None
    return best, best_epoch, best_results


def _known(sentences: Sequence[Sentence]) -> list[tuple[str, ...]]:
    """A few sentences, evenly spaced among those that hold entities, for the card's known answers."""
    telling = [sentence.words for sentence in sentences if sentence.spans and len(sentence.words) <= 50]
    return telling[:: max(1, len(telling) // KNOWN_ANSWERS)][:KNOWN_ANSWERS]


def _read(path: Path, labels: dict[str, str]) -> Corpus:
    corpus = read_columns(path, labels)
    _say(
        f"{path}: {len(corpus.sentences):,} sentences, {sum(len(s.words) for s in corpus.sentences):,} tokens, "
        f"{sum(len(s.spans) for s in corpus.sentences):,} entities ({', '.join(corpus.labels)}), {corpus.scheme}"
    )
    if corpus.repairs:
        _say(f"{len(corpus.repairs)} tags broke the {corpus.scheme} scheme and were mended, first {corpus.repairs[0]}")
    return corpus


def _label_map(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    for old, equals, _ in pairs:
        if not old or not equals:
            raise ValueError(f"--labels {text}: expected OLD=NEW, with commas between, such as person=PER,product=")
    return {old: new for old, _, new in pairs}


def _vectors(path: Path | None, most: int | None) -> Vectors:
    if path is None:
        return {}
    _say(f"{path}: reading vectors")
    return read_vectors(path, most)


def _say_coverage(sentences: Sequence[Sentence], vectors: Vectors) -> None:
    words = [word.lower() for sentence in sentences for word in sentence.words]
    share = sum(word in vectors for word in words) / len(words)
    low = "; are they of the same language?" if share < 0.5 else ""
    _say(f"{100 * share:.0f} % of the training tokens have one of {len(vectors):,} vectors{low}")


def _origin(corpus: Corpus) -> dict[str, Any]:
    digest = hashlib.sha256(corpus.path.read_bytes()).hexdigest()
    return {"file": corpus.path.name, "sha256": digest, "sentences": len(corpus.sentences)}


def _device(name: Device) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch sees no CUDA device; give --device cpu, or install a CUDA build")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _say(message: str) -> None:
    screen.print(message, highlight=False, markup=False, soft_wrap=True)
