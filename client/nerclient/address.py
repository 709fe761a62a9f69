"""Where a server is."""

DEFAULT_ADDRESS = "127.0.0.1:50051"


def check(address: str) -> None:
    """Raises ValueError unless `address` is HOST:PORT or unix:PATH, since grpc would take much else for something."""
    if address.startswith("unix:"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        example = f"such as {DEFAULT_ADDRESS}"
        raise ValueError(f"an address is HOST:PORT with a port from 1 to 65535, {example}, got {address!r}")
