"""The command `nertrainer`: its subcommands, and how their errors are said."""

import sys
from typing import NoReturn

import typer

from nermodel.checkpoint import CheckpointError
from nertrainer.commands.check import check_command
from nertrainer.commands.compare import compare_command
from nertrainer.commands.evaluate import evaluate_command
from nertrainer.commands.fetch import fetch_command
from nertrainer.commands.publish import publish_command
from nertrainer.commands.train import train_command

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def nertrainer() -> None:
    """Train BiLSTM-CRF taggers on annotated text, and score them."""


app.command("train")(train_command)
app.command("check")(check_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("publish")(publish_command)
app.command("fetch")(fetch_command)


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
        _fail("interrupted", 130)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"nertrainer: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
