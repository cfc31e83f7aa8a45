"""Certificates and keys of a federation whose machines all answer on loopback: made afresh for a run directory."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from imaging.atomic import write_bytes

VALID_DAYS = 90
"""Longer than any simulation is left lying about; renewed when fewer than `RENEW_DAYS` are left."""
RENEW_DAYS = 30


@dataclass(frozen=True)
class Certificates:
    """Files of a TLS server: its authority's certificate, its own certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> Certificates:
        """Loopback certificates in `folder`, made unless some that last another month lie there already."""
        files = cls(folder / "ca.crt", folder / "server.pem", folder / "server.key")
        if not _lasts(files):
            _make(files)
        return files


def _lasts(files: Certificates) -> bool:
    if not all(path.exists() for path in (files.authority, files.certificate, files.key)):
        return False
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    return certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=RENEW_DAYS)


def _make(files: Certificates) -> None:
    """An authority and a server certificate for `localhost` and 127.0.0.1; the authority's key is never written."""
    authority_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Preceptor simulation authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    root = (
        _builder(issuer, issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_signs_certificates(), critical=True)  # Python 3.13 and later refuse an authority without
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    server = (
        _builder(subject, issuer, server_key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    write_bytes(files.authority, root.public_bytes(Encoding.PEM))
    write_secret(files.key, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_bytes(files.certificate, server.public_bytes(Encoding.PEM))


def _signs_certificates() -> x509.KeyUsage:
    allowed = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**allowed, key_cert_sign=True, crl_sign=True)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=VALID_DAYS))
    )


def node_key(path: Path) -> Path:
    """A site's ECDSA P-384 key in OpenSSH's format, as Flower reads it; `<path>.pub` is registered. Kept if there."""
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        key = ec.generate_private_key(ec.SECP384R1())
        write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        write_bytes(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path


def shared_secret(path: Path) -> Path:
    """A file of 32 random bytes, in hex, that a Flower daemon and its executor share. Kept if there."""
    if not path.exists():
        write_secret(path, secrets.token_hex(32).encode())
    return path


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_bytes(path, data)
    path.chmod(0o600)
