"""The command: what it prints, how it stops, and one line for each thing that is wrong."""

import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from ner.v1 import tagger_pb2 as pb
from ner.v1 import tagger_pb2_grpc
from nerserver.cli import _access, app, main
from nerserver.settings import Settings

MAIN = "from nerserver.cli import main; main()"
HUNG = """
import threading
from nerserver import engine
engine.INLINE_TOKENS = 0
engine.Engine._tag = lambda *_: print("hung", flush=True) or threading.Event().wait()
"""
REQUEST = pb.TagRequest(inputs=[pb.Input(text="Ada")])


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the command does to the process when it is run in that of the tests."""
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    monkeypatch.setattr("threading.excepthook", threading.excepthook)
    yield
    logging.captureWarnings(False)
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


@contextmanager
def started(folder: Path, *options: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A server in a process of its own, and a stub of a client."""
    command = [sys.executable, "-c", f"{before}\n{MAIN}", "--model", str(folder), "--address", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--threads", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith("nerserver: listening on 127.0.0.1:")
            with grpc.insecure_channel(first.split()[-1]) as channel:
                yield process, tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
        finally:
            process.kill()


def hang(process: subprocess.Popen[str], stub: Any) -> Any:
    """A call that has arrived in the engine, which is HUNG; it lasts as long as the caller holds it."""
    call = stub.Tag.future(REQUEST)
    assert process.stdout is not None
    assert "hung\n" in process.stdout
    return call


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """A line of the log that holds the word."""
    assert process.stderr is not None
    return next(line for line in process.stderr if word in line)


def test_sigterm(folder: Path) -> None:
    """SIGTERM ends an open stream with UNAVAILABLE and the process with 0, and no traceback is seen."""
    sent: queue.SimpleQueue[pb.TagRequest] = queue.SimpleQueue()
    sent.put(REQUEST)
    with started(folder) as (process, stub):
        answers = stub.StreamTag(iter(sent.get, None))
        assert next(answers).model_version == "en/000001"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "draining" in str(ended.value.details())
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
    assert "en/000001 from" in out
    assert "LOC MISC ORG PER, dev F1 0.500" in out
    assert "nerclient tag FILE --address 127.0.0.1:" in out
    assert "stopped" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal(folder: Path, number: signal.Signals) -> None:
    """While a call keeps the server from stopping, a second signal stops it at once."""
    with started(folder, "--drain-s", "600", before=HUNG) as (process, stub):
        _call = hang(process, stub)
        process.send_signal(number)
        read_until(process, "stopping")
        process.send_signal(number)
        assert process.wait(10) == 128 + number


def test_hung_engine(folder: Path) -> None:
    """An engine that hangs for ever does not keep the process from ending, which then is no success."""
    with started(folder, "--drain-s", "0.1", before=HUNG) as (process, stub):
        _call = hang(process, stub)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "/nowhere/x"], "/nowhere/x: No such file or directory; give --model a checkpoint"),
        (["--address", "foo"], "the address 'foo' is not HOST:PORT, such as 127.0.0.1:50051"),
        (["--address", "0.0.0.0:0"], "give --tls-cert and --tls-key, or add --insecure"),
        (["--address", "nobody.invalid:1"], "the host 'nobody.invalid' of the address is not known"),
        (["--max-inputs", "0"], "max_inputs is 0, expected 1 to 2147483647"),
        (["--device", "cuda"], "use --device cpu or auto"),
        (["--threads", "many"], "Invalid value for '--threads'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["--model", "a" * 300], "File name too long; give --model a checkpoint"),
        (["--threads", "1025"], "threads is 1025, expected 0 to 1024"),
        (["--traces", "foo"], "traces is 'foo', expected a URL such as http://127.0.0.1:4318/v1/traces"),
        (["--http-address", "foo"], "the address 'foo' of --http-address is not HOST:PORT"),
        (["--workers", "2", "--address", "foo"], "the address 'foo' is not HOST:PORT"),
    ],
)
def test_one_line(
    folder: Path,
    options: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is wrong is one line that says what, why and what to do, and the exit is no success."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["nerserver", "--model", str(folder), "--address", "127.0.0.1:0", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code in (1, 2)
    assert out == ""
    assert err.startswith("nerserver: ")
    assert said in err
    assert err.count("\n") == 1


def test_output_that_nobody_takes(folder: Path) -> None:
    """A server whose greeting cannot be printed serves all the same, and ends well."""
    command = [sys.executable, "-c", MAIN, "--model", str(folder), "--address", "127.0.0.1:0"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = next(line for line in iter(process.stderr.readline, "") if "listening on" in line)
        with grpc.insecure_channel(said.split("listening on ")[1].split(";")[0]) as channel:
            stub = tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]
            assert len(stub.Tag(REQUEST, timeout=30).outcomes) == 1
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=30)[1]
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_bug(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback, also where it raises what settings are refused with."""

    async def buggy(_: object) -> None:
        raise ValueError("bug")

    monkeypatch.setattr("nerserver.server.Server.startup", buggy)
    monkeypatch.setattr("sys.argv", ["nerserver", "--model", str(folder), "--address", "127.0.0.1:0"])
    with pytest.raises(ValueError, match="bug"):
        main()


def test_port_in_use(folder: Path) -> None:
    """A port that another server has is refused in one line."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["--model", str(folder), "--address", f"127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "access", "flags"),
    [
        ("", "plaintext, no tokens", ""),
        ("tls_cert tls_key", "TLS, no tokens", " --ca CA.pem"),
        (
            "tls_cert tls_key tls_client_ca token_file",
            "mutual TLS, tokens",
            " --ca CA.pem --cert CLIENT.pem --key CLIENT.key --token-file TOKEN",
        ),
    ],
)
def test_access(given: str, access: str, flags: str) -> None:
    """The greeting tells who gets in, and what a client must be given for it."""
    files: dict[str, Any] = dict.fromkeys(given.split(), Path("x"))
    assert _access(Settings(**files)) == (access, flags)


def test_help() -> None:
    """The help names every setting."""
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in output
