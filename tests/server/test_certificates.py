"""Certificates that a TLS client on loopback accepts, and keys in the form that Flower reads."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from server import certificates
from server.certificates import Certificates, node_key, shared_secret


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_accepts_the_server(tmp_path: Path, name: str) -> None:
    files = Certificates.of(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(files.certificate, files.key)
    trusting = ssl.create_default_context(cafile=str(files.authority))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 and later do of themselves
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with serving.wrap_socket(accepted, server_side=True) as stream:
                stream.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            trusting.wrap_socket(plain, server_hostname=name) as stream,
        ):
            assert stream.recv(5) == b"hello"
        thread.join()


def test_certificates_are_kept_while_they_last_and_renewed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "VALID_DAYS", certificates.RENEW_DAYS - 1)
    short = Certificates.of(tmp_path).certificate.read_bytes()
    monkeypatch.setattr(certificates, "VALID_DAYS", 90)
    renewed = Certificates.of(tmp_path).certificate.read_bytes()
    assert renewed != short
    assert Certificates.of(tmp_path).certificate.read_bytes() == renewed


def test_a_node_key_is_a_pair_on_the_curve_that_flower_takes(tmp_path: Path) -> None:
    path = node_key(tmp_path / "key")
    private = load_ssh_private_key(path.read_bytes(), password=None)
    public = load_ssh_public_key((tmp_path / "key.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.public_key().public_numbers() == public.public_numbers()
    assert private.curve.name == "secp384r1"
    before = path.read_bytes()
    assert node_key(path).read_bytes() == before


def test_only_the_owner_reads_secrets(tmp_path: Path) -> None:
    secrets = [Certificates.of(tmp_path / "tls").key, node_key(tmp_path / "key"), shared_secret(tmp_path / "secret")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 3
    assert len(secrets[2].read_bytes()) == 64
