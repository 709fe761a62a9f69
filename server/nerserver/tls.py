"""TLS: certificate and key are proved before gRPC gets them, at the start and whenever their files change."""

import logging
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nerserver.rotated import Rotated, read_file, read_secret

logger = logging.getLogger(__name__)
WARN_BEFORE = timedelta(days=30)


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
    if not _is_taken(first):
        raise ValueError(f"the key of {cert} is of a kind that gRPC does not take; use ECDSA over P-256, P-384, or RSA")
    expires = first.not_valid_after_utc
    left = expires - datetime.now(UTC)
    if left <= timedelta():
        raise ValueError(f"the certificate in {cert} expired on {expires:%Y-%m-%d %H:%M} UTC; renew it")
    authorities = read_file(client_ca) if client_ca else None
    if client_ca and authorities is not None:
        _certificates(authorities, client_ca)
    logger.log(
        logging.WARNING if left < WARN_BEFORE else logging.INFO,
        "the certificate in %s expires on %s UTC, in %s days",
        cert,
        f"{expires:%Y-%m-%d %H:%M}",
        left.days,
    )
    return grpc.ssl_server_certificate_configuration([(secret, chain)], root_certificates=authorities)


def _certificates(data: bytes, path: Path) -> list[x509.Certificate]:
    """Those of a PEM file, none of them cut off."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        found = []
    if not found or len(found) != data.count(b"-----BEGIN"):
        raise ValueError(f"{path} is not a whole PEM file of certificates (-----BEGIN CERTIFICATE-----); give one")
    return found


def _is_taken(certificate: x509.Certificate) -> bool:
    """Whether gRPC's TLS signs with a certificate's key."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    return isinstance(key, rsa.RSAPublicKey)


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
