"""TLS: certificate and key are proved before gRPC gets them, at the start and whenever their files change."""

import logging
import re
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import grpc

from nerserver.rotated import Rotated, read_file, read_secret

logger = logging.getLogger(__name__)
WARN_BEFORE = timedelta(days=30)
# Keys that gRPC's TLS signs with, as their algorithm identifiers begin: RSA, P-256, P-384.
_KINDS = tuple(
    map(
        bytes.fromhex,
        ("06092a864886f70d010101", "06072a8648ce3d020106082a8648ce3d030107", "06072a8648ce3d020106052b81040022"),
    )
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials that follow their files; with `client_ca` only clients with a certificate of one of these get in.

    Raises ValueError where a file cannot be used. Later such a file is named in the log, and what was good serves on.
    """
    paths = [cert, key, *([client_ca] if client_ca else [])]
    rotated = Rotated(paths, partial(_configuration, cert, key, client_ca))
    first = served = rotated.get()

    def newer() -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks for at every handshake; None is no change, and spares it a new TLS context."""
        nonlocal served
        newest = rotated.get()
        if newest is served:
            return None
        served = newest
        return newest

    return grpc.dynamic_ssl_server_credentials(
        first,
        newer,  # type: ignore[arg-type]
        require_client_authentication=client_ca is not None,
    )


def _configuration(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    """What gRPC serves with; ValueError says what of it is wrong."""
    chain = read_file(cert)
    first = _certificates(chain, cert)[0]
    secret = read_secret(key)
    _check_pair(cert, key)
    expires, kind = _expiry_and_kind(ssl.PEM_cert_to_DER_cert(first.decode("ascii")))
    if not kind.startswith(_KINDS):
        raise ValueError(f"the key of {cert} is of a kind that gRPC does not take; use ECDSA over P-256, P-384, or RSA")
    left = expires - datetime.now(UTC)
    if left <= timedelta():
        raise ValueError(f"the certificate in {cert} expired on {expires:%Y-%m-%d %H:%M} UTC; renew it")
    authorities = read_file(client_ca) if client_ca else None
    if client_ca and authorities is not None:
        _check_authorities(authorities, client_ca)
    logger.log(
        logging.WARNING if left < WARN_BEFORE else logging.INFO,
        "the certificate in %s expires on %s UTC, in %s days",
        cert,
        f"{expires:%Y-%m-%d %H:%M}",
        left.days,
    )
    return grpc.ssl_server_certificate_configuration([(secret, chain)], root_certificates=authorities)


def _certificates(data: bytes, path: Path) -> list[bytes]:
    """PEM blocks, none of them cut off."""
    found = _CERTIFICATE.findall(data)
    if not found or len(found) != data.count(b"-----BEGIN"):
        raise ValueError(f"{path} is not a whole PEM file of certificates (-----BEGIN CERTIFICATE-----); give one")
    return found


def _check_pair(cert: Path, key: Path) -> None:
    def encrypted() -> NoReturn:
        raise ValueError(f"{key} is encrypted; decrypt it: openssl pkey -in {key} -out NEW.key")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"the key in {key} is not that of the certificate in {cert}; give two of a pair") from None
        if error.reason:
            raise ValueError(f"cannot use {cert} with {key} ({error.reason}); give a certificate and its key") from None
        raise ValueError(f"{cert} or {key} is not whole PEM; give a certificate and its key") from None
    except OSError as error:
        raise ValueError(f"cannot read {cert} or {key} ({error.strerror})") from None


def _check_authorities(data: bytes, path: Path) -> None:
    try:
        for each in _certificates(data, path):
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=each.decode("ascii"))
    except ssl.SSLError as error:
        raise ValueError(f"{path} holds a certificate that cannot be read ({error.reason}); give whole ones") from None


def _expiry_and_kind(der: bytes) -> tuple[datetime, bytes]:
    """When a certificate that OpenSSL has read ends, and the algorithm of its key in DER (RFC 5280, section 4.1)."""
    fields, _ = _contents(_contents(der)[0])  # of the part that is signed
    if fields[0] == 0xA0:  # the version, which the first edition lacks
        fields = _contents(fields)[1]
    for _ in ("serial number", "algorithm", "issuer"):
        fields = _contents(fields)[1]
    validity, fields = _contents(fields)
    until = _contents(validity)[1]
    form = "%y%m%d%H%M%SZ" if until[0] == 0x17 else "%Y%m%d%H%M%SZ"
    _, fields = _contents(fields)  # the subject
    kind, _ = _contents(_contents(fields)[0])
    return datetime.strptime(_contents(until)[0].decode("ascii"), form).replace(tzinfo=UTC), kind


def _contents(der: bytes) -> tuple[bytes, bytes]:
    """What the first value of DER holds, and what follows it."""
    start, length = 2, der[1]
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start])
    return der[start : start + length], der[start + length :]
