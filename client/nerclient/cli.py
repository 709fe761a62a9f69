"""The command `nerclient`: parses, runs, and turns what goes wrong into one line and an exit code.

What is slow to import is imported by the command that needs it, so that --help answers at once.
"""
# ruff: noqa: PLC0415

import asyncio
import dataclasses
import json
import os
import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from nerclient import admin_cli
from nerclient.address import DEFAULT_ADDRESS
from nerclient.command import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    UNAVAILABLE,
    USAGE,
    Address,
    Ca,
    Cert,
    Key,
    TokenFile,
    UseTls,
    connect,
    run,
    say,
    unwritable,
)

if TYPE_CHECKING:
    from nerclient.results import Model

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(admin_cli.app, name="admin")


class Output(StrEnum):
    """The formats that `tag` writes."""

    TEXT = "text"
    JSONL = "jsonl"
    CONLL = "conll"


@app.callback()
def nerclient() -> None:
    """Finds the names in text with a nerstream server.

    Answers go to standard output and everything else to standard error. Exit codes: 0 all done, 1 some inputs failed,
    2 wrong usage, 3 the server is away, not ready, or failed, 130 interrupted.
    """


@app.command()
def tag(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="UTF-8 files; - is standard input.")],
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    output: Annotated[Output, typer.Option("--format", "-f", help="What to write.")] = Output.TEXT,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Every line is a sentence of space-separated words.")
    ] = False,
    conll: Annotated[bool, typer.Option("--conll", help="Read CoNLL columns, the word first.")] = False,
    scores: Annotated[bool, typer.Option("--scores", help="Add each name's probability, in text and jsonl.")] = False,
    min_probability: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1, metavar="P", help="Find every name at least so probable, with its score; needs jsonl."
        ),
    ] = None,
) -> int:
    """Finds the names in every line of the FILEs.

    Each line is a document of its own, and line N of the output answers line N of the input, also when the line is
    empty or cannot be tagged. Answers come as soon as they are known, so this follows a log:

    \b
        tail -f app.log | nerclient tag -

    The formats:

    \b
        text   [Apple Inc. ORG] was founded by [Steve Jobs PER]
        jsonl  {"text": ..., "entities": [{"start", "end", "label", "text", "score"}], "model_version": ...}
        conll  one token and its tag a line, a blank line after each document

    In jsonl, text[start:end] is the name, counted in Unicode code points, and "score" is there when it was asked for;
    with --tokens and --conll, "tokens" is there too and start and end count tokens. --min-probability 0.05, say, finds
    more names than the best reading of a line has, and they may overlap. In text, names are coloured on a terminal
    unless NO_COLOR is set.

    --conll reads a word from the first column of each line, with tabs or spaces between columns and a blank line
    between sentences, each of which is then a document. It skips -DOCSTART- lines and # comments.

    A line that cannot be read or tagged is named on standard error as FILE:LINE with the reason, its place in the
    output is kept (jsonl: {"text": ..., "error": ...}, text and conll: an empty line), and the exit code is 1. Exit
    codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 the server is away, not ready, or failed, 130 interrupted.

    In conll, tags are in the model's scheme (BIOES for the embedded one), and comments are not copied.
    """
    if tokens and conll:
        raise typer.BadParameter("--tokens and --conll exclude each other: give the one that fits the files")
    if min_probability is not None and output is not Output.JSONL:
        raise typer.BadParameter("--min-probability finds names that may overlap: give --format jsonl with it")
    client = connect(address, tls, ca, cert, key, token_file)

    from nerclient import documents, render
    from nerclient.tagging import Tagging

    match output:
        case Output.TEXT:
            form = render.text_format(render.painter())
        case Output.JSONL:
            form = render.JSONL
        case Output.CONLL:
            form = render.CONLL
    parse = documents.conll if conll else documents.token_lines if tokens else documents.texts
    progress = sys.stderr.isatty() and not sys.stdout.isatty() and "-" not in files

    async def command() -> int:
        tagging = Tagging(files, parse, form, say)
        await tagging.run(
            client, scores=scores, tags=output is Output.CONLL, min_probability=min_probability, progress=progress
        )
        return SOME_FAILED if tagging.failures else OK

    return run(client, command)


@app.command()
def health(
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for it to be ready.")] = 0,
) -> int:
    """Says whether the server is ready.

    It is: SERVING and exit code 0. It is not: the reason, and exit code 3.

    \b
        nerclient health --wait 60 && nerclient tag corpus.txt
    """
    client = connect(address, tls, ca, cert, key, token_file, timeout_s=min(5.0, wait or 5.0))

    from nerclient.errors import DeadlineExceeded, Unavailable

    async def command() -> int:
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        while True:
            try:
                status = await client.health()
                problem = f"the server at {address} is {status}"
            except (DeadlineExceeded, Unavailable) as error:
                status, problem = "", str(error)
            if status == "SERVING":
                typer.echo(status)
                return OK
            if now() >= deadline:
                say(f"{problem} (waited {wait:g} s)" if wait else problem)
                return UNAVAILABLE
            await asyncio.sleep(min(0.25, deadline - now()))

    return run(client, command)


@app.command()
def model(
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> int:
    """Describes the model that the server has loaded.

    Its version, labels and tags, the figures measured when it was trained, and the limits of what the server accepts.
    """
    client = connect(address, tls, ca, cert, key, token_file)

    async def command() -> int:
        described = await client.model()
        typer.echo(
            json.dumps(dataclasses.asdict(described), default=datetime.isoformat) if as_json else _described(described)
        )
        return OK

    return run(client, command)


def main() -> None:
    """Runs the command line and exits."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log lines would stand between ours
    if sys.stdout is None:
        say("standard output is closed; redirect it to a file or /dev/null")
        sys.exit(SOME_FAILED)
    try:
        code = app(prog_name="nerclient", standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:
        code = unwritable(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "nerclient"
        say(f"{error.format_message().rstrip('.')}; see `{path} --help`")
        code = USAGE
    sys.exit(code)


def _described(described: "Model") -> str:
    time = described.create_time
    rows = {
        "name": described.name,
        "version": described.version,
        "published": time.strftime("%Y-%m-%d %H:%M:%S UTC") if time else "unknown",
        "labels": " ".join(described.labels),
        "tags": " ".join(described.tags),
        **{name: f"{value:.4f}" for name, value in sorted(described.metrics.items())},
        **{name: f"{value:,}" for name, value in dataclasses.asdict(described.limits).items()},
        "sha256": described.sha256,
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())
