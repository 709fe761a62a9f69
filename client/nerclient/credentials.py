"""What proves the server to the client and the client to the server: TLS files and bearer tokens."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server, and mutual TLS with a certificate of the client's own. All files are PEM.

    `ca` holds who may have signed the server's certificate; None is Mozilla's list, which comes with grpc. `cert` (the
    client's first, then those between it and its authority) and `key` go together, or ValueError. The files are read
    whenever a client connects.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate and its key go together: give both, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises OSError for one that cannot be read and ValueError for one that cannot be used."""
        roots = None if self.ca is None else self.ca.read_bytes()
        key = None if self.key is None else read_private(self.key)
        cert = None if self.cert is None else self.cert.read_bytes()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it says which file is wrong, and grpc does not
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError:
                raise ValueError(f"{self.ca} holds no certificate in PEM: give the file of the authority") from None
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password="")
            except ssl.SSLError as error:
                raise ValueError(
                    f"{self.cert} and {self.key} are of no use together ({error.reason or 'unreadable'}): "
                    "give a certificate in PEM and its own key, not encrypted"
                ) from None
        return grpc.ssl_channel_credentials(roots, key, cert)


def bearer(token: str) -> tuple[str, str]:
    """The metadata that carries a token. Raises ValueError, without the token, for one that cannot travel so."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token is empty or not of printable ASCII without spaces, so it cannot be sent")
    return ("authorization", f"Bearer {token}")


def read_token(path: Path) -> str:
    """The first line of a file that is neither empty nor a # comment. Raises OSError or ValueError."""
    for line in read_private(path).decode("utf-8-sig", errors="replace").splitlines():
        token = line.strip()
        if token and not token.startswith("#"):
            return token
    raise ValueError(f"{path} holds no token: write one in a line of it")


def read_private(path: Path) -> bytes:
    """The content of a file that is its owner's alone; raises ValueError for one that others may use, as ssh does.

    Where root owns it, its group may read it, as mounted secrets are.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if os.name == "posix" and found.st_mode & (0o037 if found.st_uid == 0 else 0o077):
            raise ValueError(f"{path} is open to others (mode {found.st_mode & 0o777:04o}): run chmod 600 {path}")
        return file.read()
