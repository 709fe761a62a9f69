"""TLS over real handshakes: who gets in, what is no certificate, and rotation."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.conftest import Figure

from ner.v1 import tagger_pb2 as pb
from ner.v1 import tagger_pb2_grpc
from nerserver.errors import StartError
from nerserver.gate import Gate
from nerserver.server import Server
from nerserver.settings import Settings
from nerserver.tls import _configuration

PAST = datetime.now(UTC) - timedelta(days=1)
REQUEST = pb.TagRequest(inputs=[pb.Input(text="Ada met Acme.")])
OURS, FOREIGN = trustme.CA(), trustme.CA()


def issue(ca: trustme.CA = OURS, name: str = "127.0.0.1", **more: Any) -> tuple[bytes, bytes]:
    """A chain of certificates and its key."""
    leaf = ca.issue_cert(name, **more)
    return b"".join(each.bytes() for each in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


SERVER, CLIENT = issue(), issue(name="client")


class Files:
    """Certificate and key behind one link that is swapped, as Kubernetes does it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.write(*SERVER)
        for name in ("cert", "key"):
            (folder / name).symlink_to(folder / "now" / name)
        (folder / "ca").write_bytes(OURS.cert_pem.bytes())

    def write(self, cert: bytes, key: bytes, mode: int = 0o600) -> None:
        """Put others in their place."""
        self.number += 1
        version = self.folder / str(self.number)
        version.mkdir()
        (version / "cert").write_bytes(cert)
        (version / "key").write_bytes(key)
        (version / "key").chmod(mode)
        (self.folder / "next").symlink_to(version)
        (self.folder / "next").replace(self.folder / "now")

    def settings(self, mutual: bool = False) -> dict[str, Any]:
        """Settings of a server that serves with them."""
        client_ca = {"tls_client_ca": self.folder / "ca"} if mutual else {}
        return {"tls_cert": self.folder / "cert", "tls_key": self.folder / "key", **client_ca}

    def read(self) -> object:
        """What gRPC would get."""
        return _configuration(self.folder / "cert", self.folder / "key", self.folder / "ca")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A good pair."""
    (tmp_path / "tls").mkdir()
    return Files(tmp_path / "tls")


@asynccontextmanager
async def connected(
    address: str, root: trustme.CA | None = OURS, client: Any = None, name: str = ""
) -> AsyncIterator[Any]:
    """A channel over a connection of its own; without a root in plaintext."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if root is None:
        channel = grpc.aio.insecure_channel(address, options)
    else:
        cert, key = client or (None, None)
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(root.cert_pem.bytes(), key, cert)
        channel = grpc.aio.secure_channel(address, credentials, options)
    async with channel:
        yield tagger_pb2_grpc.TaggerStub(channel)  # type: ignore[no-untyped-call]


async def tags(address: str, **how: Any) -> bool:
    """Whether a caller gets an answer; one who does not is told UNAVAILABLE."""
    async with connected(address, **how) as stub:
        try:
            return len((await stub.Tag(REQUEST, timeout=30)).outcomes) == 1
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods of the calls that came through TLS to the server's first code."""
    methods: list[str] = []
    intercept = Gate.intercept_service

    async def counting(self: Gate, continuation: Any, call: grpc.HandlerCallDetails) -> Any:
        methods.append(call.method)
        return await intercept(self, continuation, call)

    monkeypatch.setattr(Gate, "intercept_service", counting)
    return methods


@pytest.mark.promise
async def test_matrix(serve: Callable[..., Any], files: Files, reached: list[str], figure: Figure) -> None:
    """TLS matrix: nobody gets in without the right root, name and certificate, and no server starts without a pair."""
    outsiders: dict[str, dict[str, Any]] = {
        "no certificate": {},
        "expired certificate": {"client": issue(name="client", not_after=PAST)},
        "foreign CA": {"client": issue(FOREIGN, "client")},
        "plaintext to TLS": {"root": None},
        "wrong root": {"root": FOREIGN, "client": CLIENT},
        "wrong name": {"name": "elsewhere.test", "client": CLIENT},
    }
    async with serve(**files.settings(mutual=True)) as running:
        address = running.server.address
        got_in = [name for name, how in outsiders.items() if await tags(address, **how)]
        assert reached == []
        files.write(SERVER[0], issue()[1])
        if not await tags(address, client=CLIENT):
            got_in.append("mismatched key at rotation")
        assert len(reached) == 1
    async with serve() as running:
        if await tags(running.server.address, client=CLIENT):
            got_in.append("TLS to plaintext")
    for name, pair in {
        "mismatched key": (SERVER[0], issue()[1]),
        "expired at start": issue(not_after=PAST),
    }.items():
        files.write(*pair)
        try:
            Server(Settings(address="127.0.0.1:0", device="cpu", **files.settings()))
        except StartError:
            continue
        got_in.append(name)
    cases = len(outsiders) + 4
    figure(f"{cases - len(got_in)} of {cases} refused; handler calls {len(reached) - 1}")
    assert got_in == []
    assert len(reached) == 1


async def test_rotation(serve: Callable[..., Any], files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """New files serve new connections at once, while a stream goes on; bad ones never do, and are named once."""
    async with serve(**files.settings(mutual=True)) as running:
        address = running.server.address
        async with connected(address, client=CLIENT) as stub:
            stream = stub.StreamTag()
            await stream.write(REQUEST)
            assert (await stream.read()).outcomes
            good = issue(FOREIGN)
            bad = {
                "is not that of the certificate": (good[0], SERVER[1]),
                "not a whole PEM": (good[0][:-40], good[1]),
                "not whole PEM": (good[0], good[1][:-40]),
                "expired on": issue(FOREIGN, not_after=PAST),
                "is not a whole PEM": (b"", b""),
            }
            for said, pair in bad.items():
                caplog.clear()
                files.write(*pair)
                for _ in range(3):
                    assert await tags(address, client=CLIENT), said
                [record] = [each for each in caplog.records if each.name.startswith("nerserver")]
                assert said in record.message
            (files.folder / "now").unlink()
            assert await tags(address, client=CLIENT)
            assert "cannot read" in caplog.text
            files.write(*good)
            assert not await tags(address, client=CLIENT)
            assert await tags(address, root=FOREIGN, client=CLIENT)
            (files.folder / "ca").write_bytes(FOREIGN.cert_pem.bytes())
            assert not await tags(address, root=FOREIGN, client=CLIENT)
            assert await tags(address, root=FOREIGN, client=issue(FOREIGN, "client"))
            await stream.write(REQUEST)
            assert (await stream.read()).outcomes
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF


def ed25519() -> tuple[bytes, bytes]:
    """A pair that OpenSSL serves with, and gRPC does not."""
    key = Ed25519PrivateKey.generate()
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(100))
    form = serialization.Encoding.PEM
    secret = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, None).public_bytes(form), secret


def encrypted(key: bytes) -> bytes:
    """The key behind a password."""
    found = serialization.load_pem_private_key(key, None)
    cipher = serialization.BestAvailableEncryption(b"secret")
    return found.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        (SERVER[0], issue()[1], "is not that of the certificate in .*cert; give two of a pair"),
        (SERVER[0], encrypted(SERVER[1]), "key is encrypted; decrypt it: openssl pkey"),
        (SERVER[0], b"", "not whole PEM"),
        (SERVER[0], SERVER[0], "not whole PEM"),
        (SERVER[1], SERVER[1], "cert is not a whole PEM file of certificates"),
        (b"\xff\x00junk", SERVER[1], "cert is not a whole PEM file of certificates"),
        (SERVER[0].replace(b"M", b"N", 3), SERVER[1], "not a? ?whole PEM|cannot use"),
        (*issue(not_after=PAST), "expired on .* UTC; renew it"),
        (*ed25519(), "of a kind that gRPC does not take"),
    ],
)
def test_bad_files(files: Files, cert: bytes, key: bytes, said: str) -> None:
    """What gRPC could not serve with is told in one line."""
    files.write(cert, key)
    with pytest.raises(ValueError, match=said) as refused:
        files.read()
    assert "\n" not in str(refused.value)


def test_bad_authorities(files: Files) -> None:
    """A file of authorities that holds none would let nobody in."""
    (files.folder / "ca").write_bytes(b"")
    with pytest.raises(ValueError, match="ca is not a whole PEM file of certificates"):
        files.read()


def test_cut_anywhere(files: Files) -> None:
    """A pair that was written to no matter where is refused, or is whole."""
    cert, key = SERVER
    for end in range(0, len(cert) - 1, 97):
        files.write(cert[:end], key)
        with pytest.raises(ValueError, match="PEM"):
            files.read()
    for end in range(0, len(key) - 1, 17):
        files.write(cert, key[:end])
        with pytest.raises(ValueError, match="PEM"):
            files.read()


def test_missing(files: Files) -> None:
    """A file that is not there is named."""
    (files.folder / "now" / "key").unlink()
    with pytest.raises(ValueError, match=r"cannot read .*key \(No such file or directory\); give"):
        files.read()


@pytest.mark.parametrize(("mode", "owner", "is_fit"), [
    (0o600, "me", True), (0o400, "me", True), (0o640, "me", False), (0o604, "me", False), (0o620, "me", False),
    (0o440, "root", True), (0o640, "root", True), (0o660, "root", False), (0o644, "root", False),
])  # fmt: skip
def test_key_of_others(files: Files, mode: int, owner: str, is_fit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that others may use is refused, but for reading by the group of a file that root owns."""
    files.write(*SERVER, mode=mode)
    fstat = os.fstat

    def owned(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        return os.stat_result((*found[:4], 0 if owner == "root" else 1000, *found[5:]))

    monkeypatch.setattr(os, "fstat", owned)
    if is_fit:
        files.read()
        return
    with pytest.raises(ValueError, match=f"mode {mode:04o}.*run: chmod 600"):
        files.read()


@pytest.mark.parametrize(("days", "level"), [(29, logging.WARNING), (60, logging.INFO), (20_000, logging.INFO)])
def test_expiry(files: Files, days: int, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """The day a certificate expires is told, as a warning when it is near."""
    until = datetime.now(UTC) + timedelta(days=days)
    files.write(*issue(not_after=until))
    with caplog.at_level(logging.INFO):
        files.read()
    [record] = caplog.records
    assert record.levelno == level
    assert f"expires on {until:%Y-%m-%d}" in record.message
