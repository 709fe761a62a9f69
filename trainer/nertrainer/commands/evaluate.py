"""`nertrainer evaluate`: score a checkpoint on annotated files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nermodel.checkpoint import load
from nertrainer.commands.options import Device, LabelMap, read_corpus, read_label_map, torch_device
from nertrainer.evaluation import SCHEME, evaluate
from nertrainer.report import scores_table


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
    model = load(checkpoint, torch_device(device))
    corpora = [read_corpus(path, read_label_map(labels)) for path in files]
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
