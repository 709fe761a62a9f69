"""TLS and tokens: who is let near whom, what is said when not, and that no token is ever shown."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme
from tests.client.conftest import Server

from nerclient import Admin, Client, Retry, SyncClient, Tls, Unauthenticated, Unavailable, Unimplemented, Untrusted

if TYPE_CHECKING:
    from tests.client.conftest import Command

TOKEN = "very-secret-token"
READY, FAILING = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE


@dataclass(frozen=True)
class Papers:
    """Files of certificates from two authorities, ours and one that nobody knows."""

    folder: Path

    def server(self, name: str, client_ca: str = "") -> grpc.ServerCredentials:
        pair = [((self.folder / f"{name}.key").read_bytes(), (self.folder / f"{name}.pem").read_bytes())]
        ca = (self.folder / client_ca).read_bytes() if client_ca else None
        return grpc.ssl_server_credentials(pair, ca, require_client_auth=ca is not None)

    def tls(self, ca: str | None = "ca.pem", own: str | None = None) -> Tls:
        pair = (None, None) if own is None else (self.folder / f"{own}.pem", self.folder / f"{own}.key")
        return Tls(None if ca is None else self.folder / ca, *pair)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    now, day = datetime.now(UTC), timedelta(days=1)
    ours, foreign = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    foreign.cert_pem.write_to_path(folder / "foreign-ca.pem")
    made = {
        "good": ours.issue_cert("127.0.0.1"),
        "renewed": ours.issue_cert("127.0.0.1"),
        "foreign": foreign.issue_cert("127.0.0.1"),
        "other-name": ours.issue_cert("example.org"),
        "expired": ours.issue_cert("127.0.0.1", not_before=now - 9 * day, not_after=now - day),
        "early": ours.issue_cert("127.0.0.1", not_before=now + day, not_after=now + 9 * day),
    }
    for name, cert in made.items():
        (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
        cert.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.key").chmod(0o600)
    return Papers(folder)


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None) -> AsyncIterator[Server]:
    server = Server(credentials=credentials)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_mutual_tls(papers: Papers) -> None:
    """Both sides show certificates, and every kind of call works."""
    async with (
        serving(papers.server("good", "ca.pem")) as server,
        Client(server.address, tls=papers.tls(own="good")) as client,
    ):
        assert (await client.tag("Ada")).entities
        assert [result.error async for result in client.stream(["Ada"])] == [None]
        assert await client.health() == "SERVING"


@pytest.mark.parametrize(
    ("shown", "client_ca", "tls", "kind", "words"),
    [
        ("foreign", "", {}, Untrusted, "not signed by one that is trusted here: give --ca"),
        ("good", "", {"ca": None}, Untrusted, "not signed by one that is trusted here: give --ca"),
        ("expired", "", {}, Untrusted, "has expired"),
        ("early", "", {}, Untrusted, "not valid yet"),
        ("other-name", "", {}, Untrusted, "for another name"),
        (None, "", {}, Untrusted, "does not speak TLS"),
        ("good", "", None, Unavailable, "does not speak gRPC over plaintext: .* --tls"),
        ("good", "ca.pem", None, Unavailable, "does not speak gRPC over plaintext: .* --tls"),
        ("good", "ca.pem", {}, Unavailable, "give --cert and --key"),
        ("good", "ca.pem", {"own": "foreign"}, Unavailable, "give --cert and --key, or others"),
        ("good", "ca.pem", {"own": "expired"}, Unavailable, "give --cert and --key, or others"),
    ],
)
async def test_who_is_not_let_near(
    papers: Papers,
    shown: str | None,
    client_ca: str,
    tls: dict[str, str | None] | None,
    kind: type[Exception],
    words: str,
) -> None:
    """What is wrong with either side's TLS is one line that says what, and no handler is called."""
    async with (
        serving(papers.server(shown, client_ca) if shown else None) as server,
        Client(server.address, tls=None if tls is None else papers.tls(**tls), token=TOKEN) as client,
    ):
        with pytest.raises(kind, match=words) as caught:
            await client.tag("Ada")
    assert server.address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.door.calls == []


class Impatient(Retry):
    """Says whether it was asked to try again."""

    def delay_s(self, failures: int) -> float | None:
        raise AssertionError("tried again")


async def test_a_server_that_is_not_trusted_is_not_tried_again(papers: Papers) -> None:
    """A client that once reached the server does not knock again at one with another's certificate, nor sends to it."""
    async with (
        serving(papers.server("good")) as server,
        Client(server.address, tls=papers.tls(), retry=Impatient()) as client,
    ):
        await client.model()
        await server.stop()
        channel = client.connection.channel()
        while channel.get_state() is READY:
            await channel.wait_for_state_change(READY)
        server.credentials = papers.server("foreign")
        await server.start()
        calls = len(server.door.calls)
        with pytest.raises(Untrusted):
            await client.tag("Ada")
        with pytest.raises(Untrusted):
            await anext(client.stream(["Ada"]))
        assert len(server.door.calls) == calls


async def test_a_renewed_certificate(papers: Papers) -> None:
    """A stream outlasts a change of certificate, and a client one that was wrong for a while."""
    async with (
        serving(papers.server("good")) as server,
        Client(server.address, tls=papers.tls(), retry=Retry(first_s=0.01, longest_s=0.1)) as client,
    ):

        async def restart(name: str) -> None:
            await server.stop()
            server.credentials = papers.server(name)
            await server.start()

        answered = asyncio.Semaphore(0)

        async def source() -> AsyncIterator[str]:
            for name in ("renewed", "good"):
                yield "Ada"
                await answered.acquire()
                await restart(name)
            yield "Ada"

        async for result in client.stream(source()):
            assert result.entities
            answered.release()
        assert server.tagger.streams == 3
        await restart("expired")
        with pytest.raises(Untrusted):
            await client.tag("Ada")
        await restart("renewed")
        channel = client.connection.channel()
        while channel.get_state(try_to_connect=True) is not READY:
            await channel.wait_for_state_change(channel.get_state())
        assert (await client.tag("Ada")).entities


@pytest.mark.parametrize("secure", [True, False])
async def test_the_token_goes_with_every_call(papers: Papers, secure: bool) -> None:
    """Every method of every service gets it, once; without TLS on loopback only."""
    async with (
        serving(papers.server("good") if secure else None) as server,
        Client(server.address, tls=papers.tls() if secure else None, token=TOKEN) as client,
    ):
        await client.tag("Ada")
        assert [result.error async for result in client.stream(["Ada"])] == [None]
        await client.health()
        with pytest.raises(Unimplemented):
            await Admin(client).versions()
    assert {method for method, _ in server.door.calls} == {"GetModel", "Tag", "StreamTag", "Check", "ListVersions"}
    assert all(tokens == [f"Bearer {TOKEN}"] for _, tokens in server.door.calls)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:1", "example.org:1", "[2001:db8::1]:1", "0.0.0.0:1", "127.0.0.1.nip.io:1"]
)
def test_a_token_does_not_leave_the_machine_in_the_clear(address: str) -> None:
    """Without TLS a token is refused for any host but loopback, and with it taken."""
    with pytest.raises(ValueError, match="could be read on its way: use TLS") as caught:
        Client(address, token=TOKEN)
    assert TOKEN not in str(caught.value)
    Client(address, token=TOKEN, tls=Tls())
    for loopback in ("localhost:1", "[::1]:1", "127.1.2.3:1"):
        Client(loopback, token=TOKEN)


async def test_no_proxy_gets_what_is_for_loopback(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not asked, since a token would pass through it in the clear."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Client(server.address, token=TOKEN) as client:
        assert await client.health() == "SERVING"


@pytest.mark.parametrize("token", ["", "secret token", "secret\n", "secret\x00", "sécret", "secret\x7f"])
def test_a_token_that_cannot_travel(token: str) -> None:
    """What HTTP metadata cannot carry is refused without being repeated."""
    with pytest.raises(ValueError, match="cannot be sent") as caught:
        Client(token=token)
    assert "cret" not in str(caught.value)


async def test_a_token_is_never_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Neither errors, with all they came from, nor logs, nor what objects say of themselves hold it."""
    caplog.set_level(logging.DEBUG)
    server.tagger.unary_error = (grpc.StatusCode.UNAUTHENTICATED, "no such token")
    async with Client(server.address, token=TOKEN) as client:
        with pytest.raises(Unauthenticated, match=r"give --token-file, or token= \(no such token\)") as caught:
            await client.tag("Ada")
        shown = [repr(client), repr(client.connection), caplog.text, *traceback.format_exception(caught.value)]
    assert TOKEN not in "".join(shown)


@pytest.fixture
def wrong(papers: Papers, tmp_path: Path) -> dict[str, Tls]:
    open_key = tmp_path / "open.key"
    open_key.write_bytes((papers.folder / "good.key").read_bytes())
    open_key.chmod(0o604)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    good, key = papers.folder / "good.pem", papers.folder / "good.key"
    return {
        "open to others": Tls(cert=good, key=open_key),
        "holds no certificate": Tls(ca=garbage),
        "of no use together .*MISMATCH": Tls(cert=good, key=papers.folder / "foreign.key"),
        "of no use together": Tls(cert=garbage, key=key),
        "No such file": Tls(ca=tmp_path / "none"),
    }


async def test_files_of_no_use(wrong: dict[str, Tls], papers: Papers) -> None:
    """A file that cannot be read, is no PEM, fits no other or can be read by others is named before a call is made."""
    for words, tls in wrong.items():
        with pytest.raises((OSError, ValueError), match=words):
            await Client(tls=tls).__aenter__()
    for half in ({"cert": papers.folder / "good.pem"}, {"key": papers.folder / "good.key"}):
        with pytest.raises(ValueError, match="go together"):
            Tls(**half)


def test_a_blocking_client_that_cannot_connect_leaves_nothing(wrong: dict[str, Tls]) -> None:
    """Where a file is of no use, SyncClient raises the same and its thread ends."""
    before = threading.enumerate()
    with pytest.raises(OSError, match="No such file"):
        SyncClient(tls=wrong["No such file"]).__enter__()
    assert threading.enumerate() == before


async def test_a_blocking_client_over_tls(papers: Papers) -> None:
    """SyncClient takes the same proofs."""

    def use(address: str) -> None:
        with SyncClient(address, tls=papers.tls(), token=TOKEN) as client:
            assert client.tag("Ada").entities

    async with serving(papers.server("good")) as server:
        await asyncio.to_thread(use, server.address)
    assert server.door.calls[-1] == ("Tag", [f"Bearer {TOKEN}"])


@pytest.fixture
def token_file(nerclient: Command) -> str:
    """A file as people write it."""
    name = nerclient.file("token", f"# of the tests\n\n  {TOKEN} \nanother\n")
    (nerclient.folder / name).chmod(0o600)
    return name


@pytest.mark.parametrize("by", ["options", "environment"])
async def test_the_command(papers: Papers, nerclient: Command, token_file: str, by: str) -> None:
    """The options or their variables give both proofs; --ca alone means TLS."""
    given = {"ca": "ca.pem", "cert": "good.pem", "key": "good.key"}
    files = {name: str(papers.folder / file) for name, file in given.items()} | {"token-file": token_file}
    async with serving(papers.server("good", "ca.pem")) as server:
        options = [part for name, value in files.items() for part in (f"--{name}", value)]
        if by == "environment":
            options = []
            variables = {f"NERCLIENT_{name.upper().replace('-', '_')}": value for name, value in files.items()}
            nerclient.options["env"] |= variables
        run = await nerclient("tag", "-", "--address", server.address, *options, stdin=b"Ada")
    assert (run.code, run.out, run.err) == (0, "[Ada ORG]\n", "")
    assert all(tokens == [f"Bearer {TOKEN}"] for _, tokens in server.door.calls)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--ca", "none.pem"], 2, "cannot read none.pem: No such file or directory"),
        (["--cert", "none.pem"], 2, "a certificate and its key go together"),
        (["--token-file", "open"], 2, "open is open to others (mode 0644)"),
        (["--token-file", "empty"], 2, "empty holds no token"),
        (["--token-file", "token", "--address", "example.org:1"], 2, "could be read on its way"),
        (["--tls"], 3, "does not speak TLS"),
    ],
)
async def test_one_line_for_one_mistake(
    nerclient: Command, token_file: str, options: list[str], code: int, words: str
) -> None:
    """A mistake in the proofs is one line and an exit code, never the token."""
    (nerclient.folder / nerclient.file("open", TOKEN)).chmod(0o644)
    (nerclient.folder / nerclient.file("empty", "# nothing\n")).chmod(0o600)
    run = await nerclient("health", *options)
    assert words in run.err
    assert run.err.count("\n") == 1
    assert TOKEN not in run.err
    assert (run.code, run.out) == (code, "")
