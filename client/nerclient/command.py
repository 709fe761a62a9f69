"""What the commands of `nerclient` share: the options of a connection, and an end with one line and an exit code.

What is slow to import is imported when it is needed, so that --help answers at once.
"""
# ruff: noqa: PLC0415

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nerclient.client import Client

OK, SOME_FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130

Address = Annotated[
    str, typer.Option("--address", "-a", envvar="NERCLIENT_ADDRESS", help="Where the server is: HOST:PORT.")
]
UseTls = Annotated[bool, typer.Option("--tls", envvar="NERCLIENT_TLS", help="Use TLS; so does each of the next three.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        envvar="NERCLIENT_CA", metavar="FILE", help="Who may sign the server's certificate, if not Mozilla's."
    ),
]
Cert = Annotated[
    Path | None, typer.Option(envvar="NERCLIENT_CERT", metavar="FILE", help="Your own certificate, for mutual TLS.")
]
Key = Annotated[
    Path | None, typer.Option(envvar="NERCLIENT_KEY", metavar="FILE", help="Its key, in a file that is yours alone.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="NERCLIENT_TOKEN_FILE", metavar="FILE", help="Your token in a line, in a file that is yours alone."
    ),
]


def connect(
    address: str,
    tls: bool,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    token_file: Path | None,
    timeout_s: float = 60.0,
) -> "Client":
    """The client that the options ask for; BadParameter says which of them is wrong."""
    from nerclient.client import Client
    from nerclient.credentials import Tls, read_token

    try:
        return Client(
            address,
            tls=Tls(ca, cert, key) if tls or ca or cert or key else None,
            token=read_token(token_file) if token_file else None,
            timeout_s=timeout_s,
        )
    except (OSError, ValueError) as error:
        raise _wrong(error) from None


def run(client: "Client", command: Callable[[], Awaitable[int]]) -> int:
    """The exit code of a command that uses the client, which is connected meanwhile."""
    from nerclient.errors import NerstreamError

    async def connected() -> int:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(client)
            except (OSError, ValueError) as error:  # of the files for TLS
                raise _wrong(error) from None
            return await command()

    try:
        return asyncio.run(connected())
    except NerstreamError as error:
        say(str(error))
        return UNAVAILABLE
    except OSError as error:
        return unwritable(error)


def unwritable(error: OSError) -> int:
    """What a failure of standard output comes to; what it still buffers must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # its reader has seen enough
        return OK
    say(f"cannot write the output: {error.strerror}")
    return SOME_FAILED


def say(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"nerclient: {' '.join(message.split())}", err=True)


def _wrong(error: OSError | ValueError) -> typer.BadParameter:
    return typer.BadParameter(
        f"cannot read {error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    )
