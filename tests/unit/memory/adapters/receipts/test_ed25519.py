"""A key is made once, for its owner; what was signed can't be changed; what is kept is on disk."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from memory.adapters.receipts.ed25519 import Ed25519Notary, is_signed
from memory.domain.errors import ReceiptsUnavailable
from memory.domain.receipts import SignedReceipt


def receipt(notary: Ed25519Notary, statement: str = '{"purged":{"events":1}}') -> SignedReceipt:
    at = datetime(2026, 3, 31, tzinfo=UTC)
    return SignedReceipt(1, "r1", "acme", statement, notary.sign(statement), notary.public_key(), at)


def test_what_was_signed_is_valid_and_nothing_else(tmp_path: Path) -> None:
    notary = Ed25519Notary(tmp_path / "receipts")
    signed = receipt(notary)
    assert is_signed(signed)
    other = Ed25519Notary(tmp_path / "others")
    for wrong in (
        replace(signed, statement='{"purged":{"events":2}}'),
        replace(signed, signature=other.sign(signed.statement)),
        replace(signed, public_key=other.public_key()),
        replace(signed, signature="not base64!"),
        replace(signed, public_key="AAAA"),
    ):
        assert not is_signed(wrong)


def test_the_key_is_made_once_by_whoever_is_first(tmp_path: Path) -> None:
    notaries = [Ed25519Notary(tmp_path / "receipts") for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda notary: notary.public_key(), notaries))
    assert len(keys) == 1
    (file,) = (tmp_path / "receipts").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "receipts").stat().st_mode & 0o777 == 0o700
    assert Ed25519Notary(tmp_path / "elsewhere", file).public_key() in keys


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    notary = Ed25519Notary(tmp_path / "receipts")
    assert notary.kept() == []
    signed = receipt(notary)
    for _ in range(2):  # a purge that ended twice
        notary.keep(signed)
    assert Ed25519Notary(tmp_path / "receipts").kept() == [signed]
    file = tmp_path / "receipts" / "r1.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["statement"] == signed.statement


def test_a_folder_or_key_that_is_no_good_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ReceiptsUnavailable):
        Ed25519Notary(tmp_path / "file" / "receipts").sign("{}")
    with pytest.raises(ReceiptsUnavailable):
        Ed25519Notary(tmp_path, tmp_path / "file").sign("{}")
    rsa = generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "rsa.pem").write_bytes(rsa)
    with pytest.raises(ReceiptsUnavailable, match="another kind"):
        Ed25519Notary(tmp_path, tmp_path / "rsa.pem").sign("{}")
