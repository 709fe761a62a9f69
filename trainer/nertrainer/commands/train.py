"""`nertrainer train`: train a model on annotated files in a run's folder, go on with one, and publish it."""

import errno
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from nermodel.checkpoint import load
from nermodel.network import NetworkConfig
from nermodel.tags import Scheme
from nertrainer import processes
from nertrainer.card import Measured
from nertrainer.commands.configuration import from_file, from_run, refuse_others, resolved
from nertrainer.commands.lesson import VectorOptions, read_lesson
from nertrainer.commands.options import Device, LabelMap, say, torch_device
from nertrainer.evaluation import evaluate
from nertrainer.fitting import fit, follow
from nertrainer.loop import Recipe
from nertrainer.publication import MARGIN, check_writable, publish_gated, published
from nertrainer.report import scores_table, screen
from nertrainer.run import Run, check_new
from nertrainer.seeds import Outcome, best_of, fit_seeds, outcome, plain, seeds_table
from nertrainer.stopping import Stop, Stopped


def _folder(text: str) -> Path:
    if not text:
        raise typer.BadParameter("is empty; give the name of a new folder, or leave it out")
    return Path(text)


def train_command(
    context: typer.Context,
    train_files: Annotated[
        list[Path], typer.Option("--train", help="Training file; repeat for several.", show_default=False)
    ],
    dev_files: Annotated[
        list[Path],
        typer.Option("--dev", help="File to choose the epoch by; the mean F1 of several.", show_default=False),
    ],
    output: Annotated[Path | None, typer.Option(help="Model folder to publish into, such as models/en.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="New folder of the run; runs/NAME-1 or so if not given.", parser=_folder, metavar="PATH"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.", callback=from_run, is_eager=True)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of these options by name.", callback=from_file, is_eager=True)
    ] = None,
    save_every: Annotated[float, typer.Option(min=0, help="Seconds from one save to the next in an epoch.")] = 300,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same machine: same model.")] = Recipe.seed,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many, from --seed on; the best is published.")] = 1,
    device: Annotated[Device, typer.Option(help="Where to train.")] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the encoder's arithmetic; auto: the faster.")
    ] = "auto",
    labels: LabelMap = "",
    open_labels: Annotated[
        bool, typer.Option(help="Where a training file lacks a label of another, teach nothing against that label.")
    ] = True,
    vectors: Annotated[
        list[Path],
        typer.Option(help="Word vectors: GloVe or word2vec text, or a checkpoint of ours; several are joined."),
    ] = [],  # noqa: B006 - typer copies it
    max_vectors: Annotated[int | None, typer.Option(min=1, help="Read so many words of each file of vectors.")] = None,
    vector_size: Annotated[
        int | None, typer.Option(min=2, max=4096, help="Keep so many principal components of the vectors.")
    ] = None,
    word_rows: Annotated[
        int | None, typer.Option(min=1, help="Further words with vectors share the row of the nearest of so many.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint to go on from: its shape, words and weights, on new text.")
    ] = None,
    teacher: Annotated[
        list[Path], typer.Option(help="Checkpoint to learn from besides; several teach their mean.")
    ] = [],  # noqa: B006
    teacher_share: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of the teachers in the loss.")
    ] = Recipe.teacher_share,
    min_freq: Annotated[int, typer.Option(min=1, help="Rarer words get no row of their own.")] = Recipe.min_freq,
    scheme: Annotated[Scheme, typer.Option(help="How the network writes entities.")] = Recipe.scheme,
    hidden: Annotated[int, typer.Option(min=1, max=2048, help="LSTM units of one direction.")] = NetworkConfig.hidden,
    layers: Annotated[int, typer.Option(min=1, max=8, help="LSTM layers.")] = NetworkConfig.layers,
    char_filters: Annotated[
        int, typer.Option(min=0, max=2048, help="Filters of the char encoder; 0: none.")
    ] = NetworkConfig.char_filters,
    loss: Annotated[
        Literal["crf", "softmax"], typer.Option(help="Of whole sentences, or of each token by itself.")
    ] = Recipe.loss,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="Optimizer.")] = Recipe.optimizer,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = Recipe.lr,
    word_lr: Annotated[float, typer.Option(help="The same for the word table; 0 keeps the vectors.")] = Recipe.word_lr,
    weight_decay: Annotated[
        float, typer.Option(min=0, max=1, help="Pull of the weights towards zero.")
    ] = Recipe.weight_decay,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs; the rates fall to zero over them.")] = Recipe.epochs,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better dev F1 before stopping.")
    ] = Recipe.patience,
    batch_sentences: Annotated[
        int, typer.Option("--batch", min=1, help="Sentences in a batch.")
    ] = Recipe.batch_sentences,
    dropout: Annotated[float, typer.Option(min=0, max=0.95, help="Variational dropout.")] = Recipe.dropout,
    word_dropout: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of words hidden from the word table.")
    ] = Recipe.word_dropout,
    gazetteer: Annotated[
        list[Path],
        typer.Option(help="File of names, each line LABEL, tab, NAME, for mention replacement; repeat for several."),
    ] = [],  # noqa: B006
    replace_mentions: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Share of entities replaced by names of their label; needs --gazetteer."),
    ] = Recipe.replace_mentions,
    recase: Annotated[
        float, typer.Option(min=0, max=1, help="Share of sentences read in lower case or, a quarter, in capitals.")
    ] = Recipe.recase,
    ema: Annotated[
        float, typer.Option(min=0, max=0.99999, help="Decay of the average of weights that is published; 0: none.")
    ] = Recipe.ema,
    margin: Annotated[
        float, typer.Option(min=0, help="F1 points that the live version's dev F1 may be missed by.")
    ] = MARGIN,
    force: Annotated[bool, typer.Option("--force", help="Publish past every gate but that of integrity.")] = False,
) -> None:
    """Train a tagger, and publish it.

    Files are CoNLL columns of any scheme (IO, IOB1, BIO, BIOES, BILOU; it is found out), JSON lines with spans, or
    folders of them. The epoch with the best F1 on the dev files is kept in the run's folder and, with --output,
    published as OUTPUT/000001.safetensors or the next number, which a server that watches OUTPUT takes by itself.
    A run that was stopped or killed goes on with --resume.

    \b
        nertrainer train --train train.conll --dev dev.conll --output models/en
        nertrainer train --resume runs/en-1
    """
    if resume:
        refuse_others(context, allowed=("save-every", "margin", "force"))
    where = processes.join(torch_device(device))
    with processes.speaking_once():
        _refuse_nonsense(context.params)
    screen.quiet = processes.rank() > 0
    values = {**context.params, "precision": best_precision(where) if precision == "auto" else precision}
    recipe = Recipe(**{field.name: values[field.name] for field in fields(Recipe) if field.name in values})
    network = NetworkConfig(hidden=hidden, layers=layers, char_filters=char_filters)
    with Stop() as stop, ExitStack() as stack:
        with _leaving(resume), stop.at_once():
            with processes.speaking_once():
                begun = stack.enter_context(Run.open(resume)) if resume and processes.rank() == 0 else None
                ended = _checkpoint(begun) if begun else None
                known = begun.check_files() if begun and not ended else {}
            if processes.shared(ended):
                say(f"{resume}: finished; nothing is left to do")
                if ended:
                    print(ended)  # noqa: T201
                return
            with processes.speaking_once():
                if output:
                    check_writable(output)
                lesson, sha256 = read_lesson(
                    train_files,
                    dev_files,
                    labels,
                    open_labels,
                    VectorOptions(vectors, max_vectors, vector_size, word_rows),
                    start,
                    teacher,
                    gazetteer,
                    network,
                    recipe,
                    where,
                    known,
                )
                _refuse_new_files(begun, sha256)
        stack.callback(processes.leave)
        if processes.rank():
            follow(lesson, recipe, stop)
            return
        if not begun:
            kept = resolved(context, device=where.type, precision=recipe.precision)
            begun = stack.enter_context(
                Run.create(run or _free_folder(output.resolve().name if output else train_files[0].stem), kept, sha256)
            )
        say(f"run: {begun.path}")
        with _leaving(begun.path):
            if seeds > 1:
                outcomes = fit_seeds(begun, lesson, recipe, seeds, stop, save_every, say)
                screen.print(seeds_table(outcomes))
                best = best_of(outcomes)
            else:
                fit(begun, lesson, recipe, stop, save_every, say)
                best = outcome(begun, seed)
            with stop.at_once():
                model = load(best.checkpoint, where)
                measured = [Measured(corpus, evaluate(model, corpus.sentences)) for corpus in lesson.dev.values()]
                for one in measured:
                    screen.print(scores_table(one.result, str(one.corpus.path)))
            # A signal waits from here on: between publication and its result no run should be left.
            path = best.checkpoint
            if output:
                path = published(best.checkpoint, output) or publish_gated(
                    best.checkpoint, output, margin=margin, force=force, say=say, device=where, measured=measured
                )
            begun.finish(plain(replace(best, checkpoint=path), begun.path))
    print(path.absolute())  # noqa: T201
    _say_end(best, path, output)


def _refuse_nonsense(values: Mapping[str, Any]) -> None:
    """ValueError where options do not go together."""
    lr, word_lr = values["lr"], values["word_lr"]
    if not (0 < lr < math.inf and 0 <= word_lr < math.inf):
        raise ValueError(f"--lr {lr} --word-lr {word_lr}: expected finite rates, --lr above 0 and --word-lr 0 or more")
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected a finite number")
    if values["run"]:
        check_new(values["run"])
    if values["run"] and values["output"] and values["run"].resolve() == values["output"].resolve():
        raise ValueError(f"--run {values['run']}: is the model folder of --output too; give each its own")
    shape = NetworkConfig()
    own = [name for name in ("hidden", "layers", "char_filters") if values[name] != getattr(shape, name)]
    of_vectors = [name for name in ("max_vectors", "vector_size", "word_rows") if values[name] is not None]
    for given, holds, wrong in (
        ("start", values["start"], [*own, *of_vectors, *(["vectors"] if values["vectors"] else [])]),
        ("gazetteer", values["gazetteer"], ["teacher"] if values["teacher"] else []),
        ("loss softmax", values["loss"] == "softmax", [name for name in ("teacher", "start") if values[name]]),
    ):
        if holds and wrong:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in wrong)
            raise ValueError(f"--{given} does not go with {names}; leave out one or the other")
    if of_vectors and not values["vectors"]:
        raise ValueError(f"--{of_vectors[0].replace('_', '-')} is said of vectors; give --vectors, or leave it out")
    if values["replace_mentions"] != Recipe.replace_mentions and not values["gazetteer"]:
        raise ValueError("--replace-mentions is said of a gazetteer; give --gazetteer, or leave it out")
    if processes.world() > 1 and values["seeds"] > 1:
        raise ValueError("--seeds trains one model after the other; give it without torchrun")


def _refuse_new_files(begun: Run | None, sha256: Mapping[str, str]) -> None:
    """ValueError where a run that goes on reads a file that it did not begin with."""
    if begun is None:
        return
    for file in sha256.keys() - begun.sha256.keys():
        raise ValueError(f"{file}: is new since {begun.path} began; take it away, or start a new run")


def _checkpoint(run: Run) -> Path | None:
    """What a finished run came to, if it is finished; ValueError where that is gone."""
    if run.result is None:
        return None
    path = Path(run.path, run.result["checkpoint"]).absolute()
    if not path.is_file():
        raise ValueError(f"{path}: is gone, though {run.path} ended with it; put it back, or start a new run")
    return path


def best_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device multiplies it faster than float32."""
    # Older releases of torch lack the list of what the processor has.
    processor: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    has_it = processor.get("avx512_bf16") or processor.get("amx_bf16")
    return "bfloat16" if has_it else "float32"


@contextmanager
def _leaving(run: Path | None) -> Iterator[None]:
    """Say how to go on, where a signal or a full disk ends the work on this run, if there is one yet."""
    go_on = f"go on with `nertrainer train --resume {shlex.quote(str(run))}`" if run else "no run was begun"
    try:
        yield
    except Stopped as stopped:
        say(f"{stopped}; {go_on}")
        raise SystemExit(stopped.code) from None
    except OSError as error:
        if run is None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ValueError(
            f"{error.filename or run}: {error.strerror}; what was saved before is whole: make room, then {go_on}"
        ) from error


def _free_folder(name: str) -> Path:
    """Make the folder runs/NAME-1, or the next number that is free."""
    for number in count(1):
        path = Path("runs", f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError


def _say_end(best: Outcome, path: Path, output: Path | None) -> None:
    figure = 100 * best.dev_f1
    done = "published" if output else "trained"
    say(f"{done} {path}: dev F1 {figure:.2f} at epoch {best.epoch}, after {best.seconds / 60:.1f} minutes")
    if figure == 0:
        say("warning: it finds nothing right on the dev files; train longer, or on more text, before it serves")
    if output:
        say(f"next: nerserver --model {output}   (a server that watches the folder takes the file by itself)")
    else:
        say(f"next: nertrainer publish {path.parent} models/NAME")
