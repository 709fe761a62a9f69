"""Where to listen: the address as the user gives it, checked so that what is wrong can be said in one line."""

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any


def check_address(address: str, insecure: bool, option: str = "--address") -> None:
    """ValueError says why a server cannot listen on HOST:PORT, or should not: without TLS it is for loopback alone."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (
        not host
        or (":" in host) != address.startswith("[")
        or not port.isascii()
        or not port.isdecimal()
        or int(port) > 65_535
    ):
        of = "" if option == "--address" else f" of {option}"
        raise ValueError(f"the address {address!r}{of} is not HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"the host {host!r} of the address is not known ({_reason(error)}); give one of this machine"
        ) from None
    if not insecure and not _are_loopback(found):
        tls = "give --tls-cert and --tls-key, or " if option == "--address" else ""
        raise ValueError(
            f"{address} can be reached from other machines, which could read along without TLS; "
            f"{tls}add --insecure if that is what you want, or listen on 127.0.0.1"
        )
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen()
        except OSError as error:
            raise ValueError(
                f"cannot listen on {address} ({_reason(error)}); give another {option}, or port 0 for a free one"
            ) from None


def reserve(address: str) -> tuple[list[socket.socket], str]:
    """Sockets that hold an address for processes that share it, but do not listen; and the address, with its real port.

    OSError where it is taken.
    """
    host, _, port = address.rpartition(":")
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, place in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
        each = socket.socket(family, kind, protocol)
        sockets.append(each)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        each.bind((place[0], int(port), *place[2:]))
        port = str(each.getsockname()[1])
    return sockets, f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address that `check_address` has passed."""
    host, _, port = address.rpartition(":")
    return _are_loopback(socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM))


def _are_loopback(found: Iterable[tuple[Any, ...]]) -> bool:
    return all(ipaddress.ip_address(place[0]).is_loopback for *_, place in found)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "malformed"
