"""`nertrainer publish`: make a trained checkpoint the next version of a model's folder, through gates."""

from pathlib import Path
from typing import Annotated

import typer

from nertrainer.commands.options import Device, LabelMap, read_corpus, read_label_map, say, torch_device
from nertrainer.publication import MARGIN, check_writable, checkpoint_of, publish_gated, published_last


def publish_command(
    candidate: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or a .safetensors file.", show_default=False)
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Model folder, such as models/en.", show_default=False)
    ],
    margin: Annotated[
        float, typer.Option(min=0, help="F1 points that the live version's dev F1 may be missed by.")
    ] = MARGIN,
    force: Annotated[bool, typer.Option("--force", help="Publish past every gate but that of integrity.")] = False,
    dev: Annotated[
        list[Path] | None,
        typer.Option("--dev", help="File to compare on, in place of the run's own; repeat for several."),
    ] = None,
    labels: LabelMap = "",
    device: Annotated[Device, typer.Option(help="Where to measure.")] = "auto",
) -> None:
    """Publish the best checkpoint of a run.

    It becomes the next version of FOLDER, which a server that watches it takes by itself, with its card beside it as
    markdown. It must be whole and finite, reproduce its known answers, have no lower dev F1 than the newest version
    (but for --margin), and every label of that. The two are compared by their cards if they name the same dev files,
    else both are measured on the run's, or on those that --dev names, read with --labels.

    \b
        nertrainer publish runs/en-1 models/en
    """
    if labels and not dev:
        raise ValueError(f"--labels {labels}: is for the files that --dev names; name them, or leave it out")
    checkpoint = checkpoint_of(candidate)
    check_writable(folder)
    there = published_last(checkpoint, folder)
    if there:
        print(there)  # noqa: T201
        say(f"{checkpoint}: already there as {there.stem}")
        return
    corpora = [read_corpus(path, read_label_map(labels)) for path in dev or []]
    path = publish_gated(
        checkpoint, folder, margin=margin, force=force, say=say, device=torch_device(device), dev=corpora
    )
    print(path)  # noqa: T201
    say(f"published {path}; its card is {path.with_suffix('.md')}")
