"""Servers under measurement: where they are installed, and the processes that they are."""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_S = 20


class InstallError(Exception):
    """Why packages cannot be had, in one line."""


def install(home: Path, packages: Sequence[str], index: str) -> None:
    """Make a virtual environment with these packages, unless it is there; torch may come from another index."""
    done = home / "installed"
    wanted = "\n".join([platform.python_version(), *packages])
    if done.exists() and done.read_text() == wanted:
        return
    pip = [str(home / "bin/pip"), "install", "--quiet"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(home)]]
    # As the Makefile does it: torch first and by itself, so that nothing else is looked for in its index.
    torch = [package for package in packages if package.startswith("torch==")]
    if torch and index:
        steps.append([*pip, "--retries", "1", "--no-deps", "--extra-index-url", index, *torch])
    steps.append([*pip, *packages])
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or [f"exit status {result.returncode}"]
            raise InstallError(next((line for line in lines if line.startswith("ERROR")), lines[-1]))
    done.write_text(wanted)


def versions(home: Path, packages: Sequence[str]) -> dict[str, str]:
    """What is installed there of these packages."""
    names = [re.split(r"[\[=<>~]", package)[0] for package in packages]
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    result = subprocess.run([home / "bin/python", "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, result.stdout.split(), strict=True))


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a folder, with the processes of its group; what they print goes to the log."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        os.killpg(server.pid, signal.SIGINT)  # as Ctrl-C does, after which all of them clean up
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
