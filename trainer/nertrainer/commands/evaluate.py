"""`nertrainer evaluate`: score a checkpoint on annotated files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nermodel.checkpoint import Model
from nertrainer.commands.options import (
    Device,
    LabelMap,
    read_corpus,
    read_label_map,
    read_model,
    say,
    say_missing_labels,
    torch_device,
)
from nertrainer.corpus import Corpus
from nertrainer.evaluation import SCHEME
from nertrainer.evidence import Evidence, gather
from nertrainer.report import details, sheet, summary


def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Annotated files.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Print every table and the worst sentences.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file, with everything, on stdout.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write everything as one HTML page with plots.", show_default=False)
    ] = None,
    train_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--train", help="What the model learnt from, to score seen and unseen entities; repeat.", show_default=False
        ),
    ] = None,
    labels: LabelMap = "",
    device: Annotated[Device, typer.Option(help="Where to tag.")] = "auto",
) -> None:
    """Score a checkpoint on annotated files.

    Prints entity-level precision, recall and F1 by seqeval in strict mode, over BIO, of each type and overall. Only
    labels that a file annotates are scored; predictions of others are counted as ignored. Of everything else (other
    ways to count, lengths, seen and unseen entities, confusions, calibration, speed) it prints a summary; --full,
    --json and --html give all of it.
    """
    if html and (html.is_dir() or not html.parent.is_dir()):  # said before the work, not after
        raise ValueError(f"--html {html}: a folder, or in a folder that does not exist; give a file to write")
    label_map = read_label_map(labels)
    model = read_model(checkpoint, torch_device(device))
    corpora = [read_corpus(path, label_map) for path in files]
    say_missing_labels(checkpoint, model, corpora)
    training = [sentence for path in train_files or () for sentence in read_corpus(path, label_map).sentences]
    results = []
    for corpus in corpora:
        evidence = gather(model, corpus, training if train_files else None)
        results.append((corpus, evidence))
        if as_json:
            values = {"file": str(corpus.path), "model": model.version, "scheme": f"{SCHEME} (seqeval strict)"}
            found = {"sentences": len(corpus.sentences), "file_scheme": corpus.scheme, "repairs": len(corpus.repairs)}
            print(json.dumps({**values, **evidence.to_json(), **found}))  # noqa: T201
        else:
            sheet().print(*summary(evidence, str(corpus.path)), *(details(evidence) if full else ()), sep="\n")
    if html:
        from nertrainer.page import page  # noqa: PLC0415 - matplotlib is slow to load

        html.write_text(page(f"{model.version}: evaluation", _facts(model, results), results), encoding="utf-8")
        say(f"wrote {html}")
    if not (full or as_json or html):
        say("more: --full prints all tables and the worst sentences, --html FILE makes a page with plots")
    if not (train_files or as_json):
        say("--train FILE, with the text that the model learnt from, tells seen from unseen entities")


def _facts(model: Model, results: list[tuple[Corpus, Evidence]]) -> dict[str, str]:
    speed = results[0][1].speed
    return {
        "Model": f"{model.version}, written {model.card.created}",
        "SHA-256": model.sha256,
        "Types it knows": ", ".join(model.labels),
        "F1 on its development files": f"{100 * model.card.metrics['dev_f1']:.2f}" if model.card.metrics else "",
        "Measured": datetime.now(UTC).strftime("%Y-%m-%d, %H:%M UTC"),
        "Speed": f"of tagging in batches, on {speed.device}, threads: {speed.threads}",
    }
