"""`nertrainer compare`: two checkpoints on the same files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nertrainer.commands.options import (
    Device,
    LabelMap,
    read_corpus,
    read_label_map,
    read_model,
    say_missing_labels,
    torch_device,
)
from nertrainer.compare import compare
from nertrainer.evaluation import predict
from nertrainer.report import comparison, sheet


def compare_command(
    a: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Annotated files.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, on stdout.")] = False,
    resamples: Annotated[int, typer.Option(min=1, help="Draws of sentences that the interval rests on.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed: same draws.")] = 1,
    labels: LabelMap = "",
    device: Annotated[Device, typer.Option(help="Where to tag.")] = "auto",
) -> None:
    """Compare two checkpoints on annotated files.

    Prints F1 of both, what B has over A, the 95 % interval and p-value of that by a paired bootstrap over sentences,
    and the entities that only one of them finds. Only labels that a file annotates are compared.

    \b
        nertrainer compare models/en/000001.safetensors models/en/000002.safetensors test.conll
    """
    where, label_map = torch_device(device), read_label_map(labels)
    model_a, model_b = read_model(a, where), read_model(b, where)
    corpora = [read_corpus(path, label_map) for path in files]
    for path, model in {a: model_a, b: model_b}.items():
        say_missing_labels(path, model, corpora)
    for corpus in corpora:
        spans_a, spans_b = (predict(model, corpus.sentences) for model in (model_a, model_b))
        result = compare(corpus.sentences, spans_a, spans_b, resamples, seed)
        if as_json:
            values = {"file": str(corpus.path), "a": str(a), "b": str(b), "resamples": resamples, "seed": seed}
            versions = {"version_a": model_a.version, "version_b": model_b.version}
            figures = asdict(result)
            print(json.dumps({**values, **versions, **figures.pop("overall"), **figures}))  # noqa: T201
        else:
            sheet().print(*comparison(result, f"{corpus.path}\nA: {a}\nB: {b}"), sep="\n")
