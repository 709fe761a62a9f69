"""The command `nerserver`."""

import os

# OpenMP's threads must sleep while they wait: spinning on shared cores they made two threads slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
# gRPC writes a line of its own to stderr for each connection that fails to speak TLS.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nerserver import logs
from nerserver.errors import StartError
from nerserver.settings import Device, LogFormat, Precision, Settings
from nerserver.sources import PREFIX, check_environment, take_file
from nerserver.workers import supervise

if TYPE_CHECKING:  # they bring torch, which the supervisor of workers does without
    from nermodel.tagger import Tagger
    from nerserver.server import Server

logger = logging.getLogger(__name__)
DEFAULTS = Settings()


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, show_envvar=False, **more)  # the docstring tells how they are called


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(context_settings={"auto_envvar_prefix": PREFIX, "help_option_names": ["-h", "--help"]})
def nerserver(
    context: typer.Context,
    model: Annotated[
        Path,
        _option(help="Checkpoint, or folder whose newest checkpoint is served and followed.", show_default=False),
    ] = DEFAULTS.model,
    address: Annotated[
        str, _option(metavar="HOST:PORT", help="Where to listen; port 0 is any free one.")
    ] = DEFAULTS.address,
    http_address: Annotated[
        str, _option(metavar="HOST:PORT", help="Where to serve /healthz, /readyz and /metrics in plain HTTP.")
    ] = DEFAULTS.http_address,
    tls_cert: Annotated[
        Path | None, _option(help="PEM of the server's certificate; TLS files are read again when they change.")
    ] = DEFAULTS.tls_cert,
    tls_key: Annotated[Path | None, _option(help="PEM of its key, which others must not read.")] = DEFAULTS.tls_key,
    tls_client_ca: Annotated[
        Path | None, _option(help="PEM of who signs clients' certificates; no other client gets in.")
    ] = DEFAULTS.tls_client_ca,
    token_file: Annotated[
        Path | None, _option(help="Bearer tokens, one a line; a call must carry one of them, but for health.")
    ] = DEFAULTS.token_file,
    admin_token_file: Annotated[
        Path | None, _option(help="Bearer tokens of `nerclient admin`, which is off without them.")
    ] = DEFAULTS.admin_token_file,
    insecure: Annotated[bool, _option("--insecure", help="Listen beyond loopback, without TLS.")] = False,
    reflection: Annotated[bool, _option("--reflection", help="Offer gRPC reflection.")] = False,
    device: Annotated[Device, _option(help="Where the model runs.")] = DEFAULTS.device,
    precision: Annotated[
        Precision,
        _option(help="What the LSTM computes in: auto is int8 on a CPU where that is fast and dev F1 holds."),
    ] = DEFAULTS.precision,
    workers: Annotated[
        int, _option(help="Processes that share the address, each with a model of its own; for CPUs.")
    ] = DEFAULTS.workers,
    threads: Annotated[
        int,
        _option(help="CPU threads of a worker's model; 0 is all cores but one, or with --workers a share."),
    ] = DEFAULTS.threads,
    max_batch_tokens: Annotated[int, _option(help="Tokens of one batch.")] = DEFAULTS.max_batch_tokens,
    max_batch_sentences: Annotated[int, _option(help="Sentences of one batch.")] = DEFAULTS.max_batch_sentences,
    max_queue_tokens: Annotated[
        int,
        _option(
            help="Queue limit in tokens; beyond it a caller who has work waiting is refused, or waits on a stream."
        ),
    ] = DEFAULTS.max_queue_tokens,
    max_inputs: Annotated[int, _option(help="Inputs of one request.")] = DEFAULTS.max_inputs,
    max_request_bytes: Annotated[int, _option(help="Bytes of one request.")] = DEFAULTS.max_request_bytes,
    max_text_bytes: Annotated[int, _option(help="UTF-8 bytes of one text.")] = DEFAULTS.max_text_bytes,
    max_sentence_tokens: Annotated[
        int,
        _option(
            help="Tokens of one sentence; any length works, read in windows, but all wait until a long one is done."
        ),
    ] = DEFAULTS.max_sentence_tokens,
    stream_window: Annotated[int, _option(help="Unanswered inputs read ahead on one stream.")] = DEFAULTS.stream_window,
    max_streams: Annotated[int, _option(help="Calls in flight on one connection.")] = DEFAULTS.max_streams,
    max_calls: Annotated[int, _option(help="Calls in flight on all connections.")] = DEFAULTS.max_calls,
    max_connections: Annotated[int, _option(help="Connections open at once.")] = DEFAULTS.max_connections,
    max_slowdown: Annotated[
        float, _option(help="A new checkpoint so many times slower than the one that serves is refused.")
    ] = DEFAULTS.max_slowdown,
    reload_poll_s: Annotated[
        float, _option(help="Seconds between polls of the folder, besides file-system notices.")
    ] = DEFAULTS.reload_poll_s,
    drain_s: Annotated[float, _option(help="Seconds to answer what was read when told to stop.")] = DEFAULTS.drain_s,
    log_format: Annotated[LogFormat, _option(help="Of the log, on stderr.")] = DEFAULTS.log_format,
    traces: Annotated[
        str, _option(metavar="URL", help="Where OpenTelemetry traces go, by OTLP over HTTP; needs an extra.")
    ] = DEFAULTS.traces,
    config: Annotated[
        Path | None,
        _option(is_eager=True, callback=take_file, help="TOML file of these options, for what is not given here."),
    ] = None,
) -> None:
    """Serve named-entity tagging over gRPC.

    Listens on loopback with the model that comes with the package unless told otherwise. With --model FOLDER a newer
    checkpoint in the folder is taken as soon as it proves good, while calls run. SIGTERM or Ctrl-C answers what was
    read and stops; a second one stops at once.

    Every option can also be an environment variable (NERSERVER_MAX_INPUTS for --max-inputs) or stand in the TOML file
    of --config (max_inputs = 100); the command line goes before the environment, and that before the file.
    """
    check_environment(context, os.environ)
    try:
        settings = Settings(**{field.name: context.params[field.name] for field in fields(Settings)})
    except ValueError as error:
        _fail(str(error), 1)
    logs.configure(settings.log_format)
    try:
        if settings.workers > 1:
            sys.exit(asyncio.run(supervise(settings, greeting, _print)))
        from nerserver.life import serve  # noqa: PLC0415

        asyncio.run(serve(settings, lambda server, http_address: _print(greeting(server, http_address))))
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


def _print(lines: Sequence[str]) -> None:
    """Print where the server is and what it serves; one whose output nobody takes serves all the same."""
    try:
        typer.echo("\n".join(lines))
    except OSError as error:
        where = lines[0].removeprefix("nerserver: ")
        logger.warning("%s; standard output cannot be written: %s", where, error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered must not fail again at exit


def greeting(server: "Server", http_address: str) -> list[str]:
    """Tell in lines where the server is, what it serves and what to do next."""
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
    if server.settings.workers > 1:
        lines.append(f"  workers {server.settings.workers}, each with a model of its own")
    if tagger is not None:
        lines.append(f"  engine  {tagger.name}{_int8_score(tagger)}")
    if http_address:
        lines.append(f"  probes  http://{http_address}/healthz /readyz /metrics")
    access, flags = _access(server.settings)
    lines.append(f"  access  {access}")
    lines.append(f"  next    nerclient tag FILE --address {server.address}{flags}")
    return lines


def _access(settings: Settings) -> tuple[str, str]:
    """Who gets in, and what a client must be given for it."""
    how, flags = ("TLS", " --ca CA.pem") if settings.tls_cert else ("plaintext", "")
    if settings.tls_client_ca:
        how, flags = "mutual TLS", f"{flags} --cert CLIENT.pem --key CLIENT.key"
    if settings.token_file:
        return f"{how}, tokens", f"{flags} --token-file TOKEN"
    return f"{how}, no tokens", flags


def _int8_score(tagger: "Tagger") -> str:
    if "int8" not in tagger.name:
        return ""
    score = tagger.model.card.metrics.get("dev_f1_int8")
    return "; dev F1 in int8 not measured" if score is None else f"; dev F1 in int8 {score:.3f}"
