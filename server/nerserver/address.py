"""Where to listen: the address as the user gives it, checked so that what is wrong can be said in one line."""

import ipaddress
import socket


def check_address(address: str, insecure: bool) -> None:
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
        raise ValueError(f"the address {address!r} is not HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"the host {host!r} of the address is not known ({_reason(error)}); give one of this machine"
        ) from None
    if not insecure and not all(ipaddress.ip_address(place[0]).is_loopback for *_, place in found):
        raise ValueError(
            f"{address} can be reached from other machines and there is no TLS yet; "
            "add --insecure if that is what you want, or listen on 127.0.0.1"
        )
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen()
        except OSError as error:
            raise ValueError(
                f"cannot listen on {address} ({_reason(error)}); give another --address, or port 0 for a free one"
            ) from None


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "malformed"
