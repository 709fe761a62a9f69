"""The commands `nerclient admin`: parse, run, and print what serves."""
# ruff: noqa: PLC0415 what is slow to import

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nerclient.address import DEFAULT_ADDRESS
from nerclient.command import OK, Address, Ca, Cert, Key, TokenFile, UseTls, connect, run

if TYPE_CHECKING:
    from nerclient.results import Version

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def admin() -> None:
    """Chooses which version of the model serves.

    The server must have been started with --admin-token-file, and --token-file here must hold one of those tokens. A
    version that fails the server's checks is refused with the cause, the one that serves goes on, and the exit code is
    3.
    """


@app.command("list")
def list_versions(
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON array.")] = False,
) -> int:
    """Lists the checkpoints in the model's folder, newest first: when written, how large, and in what state."""
    client = connect(address, tls, ca, cert, key, token_file)

    from nerclient.admin import Admin

    async def command() -> int:
        versions = await Admin(client).versions()
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(version) for version in versions], default=datetime.isoformat))
        else:
            typer.echo(_table(versions))
        return OK

    return run(client, command)


@app.command()
def pin(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Such as en/000002, or 2.")] = "",
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    newest: Annotated[bool, typer.Option("--newest", help="Let go: follow the newest good version again.")] = False,
) -> int:
    """Serves VERSION and keeps to it, also when newer ones come, and prints the version that serves now."""
    if bool(version) == newest:
        raise typer.BadParameter("give a VERSION to keep to, or --newest to let go")
    client = connect(address, tls, ca, cert, key, token_file)

    from nerclient.admin import Admin

    async def command() -> int:
        typer.echo(await (Admin(client).unpin() if newest else Admin(client).pin(version)))
        return OK

    return run(client, command)


@app.command()
def rollback(
    address: Address = DEFAULT_ADDRESS,
    tls: UseTls = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
) -> int:
    """Serves what served before the present version, keeps to it, and prints the version that serves now."""
    client = connect(address, tls, ca, cert, key, token_file)

    from nerclient.admin import Admin

    async def command() -> int:
        typer.echo(await Admin(client).rollback())
        return OK

    return run(client, command)


def _table(versions: list["Version"]) -> str:
    rows = [("VERSION", "WRITTEN", "SIZE", "STATE")]
    for version in versions:
        written = version.update_time.strftime("%Y-%m-%d %H:%M:%S UTC") if version.update_time else "-"
        rows.append((version.version, written, f"{version.bytes / 1e6:,.1f} MB", _state(version)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:{widths[0]}}  {written:{widths[1]}}  {size:>{widths[2]}}  {state}"
        for name, written, size, state in rows
    )


def _state(version: "Version") -> str:
    states = ["serving"] * version.serving + ["pinned"] * version.pinned
    if version.refused:
        states.append(f"refused: {' '.join(version.refused.split())}")
    return ", ".join(states) or "-"
