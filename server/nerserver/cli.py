"""The command `nerserver`."""

import os

# OpenMP's threads must sleep while they wait: spinning on shared cores they made two threads slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

import asyncio
import gc
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from nermodel.tagger import Tagger
from nerserver.server import Server, StartError
from nerserver.settings import Device, Precision, Settings

logger = logging.getLogger(__name__)
DEFAULTS = Settings()
OVERTIME_S = 2.0  # that closing may take after draining

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def serve(
    model: Annotated[
        Path,
        typer.Option(help="Checkpoint, or folder whose newest checkpoint is served and followed.", show_default=False),
    ] = DEFAULTS.model,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 is any free one.")
    ] = DEFAULTS.address,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback, without TLS.")] = False,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = DEFAULTS.device,
    precision: Annotated[
        Precision,
        typer.Option(help="What the LSTM computes in: auto is int8 on a CPU where that is fast and dev F1 holds."),
    ] = DEFAULTS.precision,
    threads: Annotated[int, typer.Option(help="CPU threads of the model; 0 is all cores but one.")] = DEFAULTS.threads,
    max_batch_tokens: Annotated[int, typer.Option(help="Padded tokens of one batch.")] = DEFAULTS.max_batch_tokens,
    max_batch_sentences: Annotated[int, typer.Option(help="Sentences of one batch.")] = DEFAULTS.max_batch_sentences,
    max_queue_tokens: Annotated[
        int,
        typer.Option(
            help="Queue limit in tokens; beyond it a caller who has work waiting is refused, or waits on a stream."
        ),
    ] = DEFAULTS.max_queue_tokens,
    max_inputs: Annotated[int, typer.Option(help="Inputs of one request.")] = DEFAULTS.max_inputs,
    max_request_bytes: Annotated[int, typer.Option(help="Bytes of one request.")] = DEFAULTS.max_request_bytes,
    max_text_bytes: Annotated[int, typer.Option(help="UTF-8 bytes of one text.")] = DEFAULTS.max_text_bytes,
    max_sentence_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of one sentence; any length works, read in windows, but all wait until a long one is done."
        ),
    ] = DEFAULTS.max_sentence_tokens,
    stream_window: Annotated[
        int, typer.Option(help="Unanswered inputs read ahead on one stream.")
    ] = DEFAULTS.stream_window,
    max_streams: Annotated[int, typer.Option(help="Calls in flight on one connection.")] = DEFAULTS.max_streams,
    reload_poll_s: Annotated[
        float, typer.Option(help="Seconds between polls of the folder, besides file-system notices.")
    ] = DEFAULTS.reload_poll_s,
    drain_s: Annotated[
        float, typer.Option(help="Seconds to answer what was read when told to stop.")
    ] = DEFAULTS.drain_s,
) -> None:
    """Serve named-entity tagging over gRPC.

    Listens on loopback with the model that comes with the package unless told otherwise. With --model FOLDER a newer
    checkpoint in the folder is taken as soon as it proves good, while calls run. SIGTERM or Ctrl-C answers what was
    read and stops; a second one stops at once.
    """
    try:
        settings = Settings(**locals())
    except ValueError as error:
        _fail(str(error), 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes
    try:
        asyncio.run(_serve(settings))
    except StartError as error:
        _fail(str(error), 1)


def main() -> None:
    """Run the command; what is wrong is one line on stderr."""
    try:
        sys.exit(app(prog_name="nerserver", standalone_mode=False))
    except typer.TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}; see `nerserver --help`", 2)
    except (KeyboardInterrupt, typer.Abort):  # before the server had started
        sys.exit(130)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"nerserver: {' '.join(message.split())}", err=True)
    sys.exit(code)


async def _serve(settings: Settings) -> None:
    server = Server(settings)
    await server.startup()
    gc.collect()
    gc.freeze()  # what start-up made stays: the collector need not stop every caller to look at it again
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, server, number)
    try:
        _greet(server)
        await server.main()
    finally:
        await server.shutdown()
    logger.info("stopped")


def _on_signal(server: Server, number: int) -> None:
    if server.stopping:
        os._exit(128 + number)
    logger.info("stopping: answering what was read, for %s s at most", server.settings.drain_s)
    server.stop()
    # Whatever hangs, a stopping server does not.
    timer = threading.Timer(server.settings.drain_s + OVERTIME_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _greet(server: Server) -> None:
    """Print where the server is and what it serves; one whose output nobody takes serves all the same."""
    try:
        typer.echo("\n".join(_greeting(server)))
    except OSError as error:
        logger.warning("listening on %s; standard output cannot be written: %s", server.address, error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered must not fail again at exit


def _greeting(server: Server) -> list[str]:
    tagger = server.engine.tagger
    lines = [f"nerserver: listening on {server.address}"]
    if tagger is None:
        lines.append(f"  model   none yet: waiting for a checkpoint in {server.settings.model}")
    else:
        model = tagger.model
        score = f", dev F1 {model.card.metrics['dev_f1']:.3f}" if "dev_f1" in model.card.metrics else ""
        lines.append(f"  model   {model.version} from {server.model_path}")
        lines.append(f"          {' '.join(model.labels)}{score}")
    threads = f", CPU threads: {server.threads}" if server.device.type == "cpu" else ""
    lines.append(f"  device  {server.device.type}{threads}")
    if tagger is not None:
        lines.append(f"  engine  {tagger.name}{_int8_score(tagger)}")
    lines.append(f"  next    nerclient tag FILE --address {server.address}")
    return lines


def _int8_score(tagger: Tagger) -> str:
    if "int8" not in tagger.name:
        return ""
    score = tagger.model.card.metrics.get("dev_f1_int8")
    return "; dev F1 in int8 not measured" if score is None else f"; dev F1 in int8 {score:.3f}"
