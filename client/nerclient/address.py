"""Where a server is."""

import ipaddress

DEFAULT_ADDRESS = "127.0.0.1:50051"


def check(address: str) -> None:
    """Raises ValueError unless `address` is HOST:PORT, since grpc would take much else for something."""
    host, _, port = address.rpartition(":")
    host_ok = host and "/" not in host and (":" not in host or (host[0] == "[" and host[-1] == "]"))
    if not host_ok or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        example = f"such as {DEFAULT_ADDRESS} or [::1]:50051"
        raise ValueError(f"an address is HOST:PORT with a port from 1 to 65535, {example}, got {address!r}")


def is_loopback(address: str) -> bool:
    """Whether what is sent to `address` stays on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
