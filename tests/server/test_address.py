"""An address is checked before anything is built on it."""

import socket

import pytest

from nerserver.address import check_address, is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "127.1.2.3:0"])
def test_loopback(address: str) -> None:
    """Every way to write loopback may be listened on."""
    check_address(address, insecure=False)


@pytest.mark.parametrize(
    "address", ["", "foo", "127.0.0.1", ":1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "::1:0"]
)
def test_malformed(address: str) -> None:
    """What is not HOST:PORT is refused with an example of one that is."""
    with pytest.raises(ValueError, match=r"not HOST:PORT, such as 127\.0\.0\.1:50051"):
        check_address(address, insecure=False)


def test_beyond_loopback() -> None:
    """Plaintext beyond loopback must be asked for."""
    with pytest.raises(ValueError, match="--insecure"):
        check_address("0.0.0.0:0", insecure=False)
    check_address("0.0.0.0:0", insecure=True)


@pytest.mark.parametrize(("address", "is_local"), [("127.0.0.1:0", True), ("[::1]:0", True), ("0.0.0.0:0", False)])
def test_is_loopback(address: str, is_local: bool) -> None:
    """Loopback is what no other machine reaches, in either family."""
    assert is_loopback(address) is is_local


def test_port_in_use() -> None:
    """A port that another listens on is refused, although gRPC would share it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}.*in use.*port 0"):
            check_address(f"127.0.0.1:{port}", insecure=False)


def test_unknown_host() -> None:
    """A host that nobody knows is named."""
    with pytest.raises(ValueError, match=r"the host 'nobody\.invalid'"):
        check_address("nobody.invalid:1", insecure=False)
