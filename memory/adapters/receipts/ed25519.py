"""How is a receipt signed, and kept where no purge reaches it? Ed25519, a file each, flushed before the answer."""

import base64
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from memory.adapters.files import replaced, sync
from memory.domain.errors import ReceiptsUnavailable
from memory.domain.receipts import SignedReceipt

_KEY = "signing-key.pem"


class Ed25519Notary:
    """`key`: the file of the private key; None: one in `folder`. It is made when it is first needed, for its owner."""

    def __init__(self, folder: Path, key: Path | None = None) -> None:
        self._folder = folder
        self._file = key or folder / _KEY
        self._key: Ed25519PrivateKey | None = None

    def public_key(self) -> str:
        raw = self._private().public_key().public_bytes_raw()
        return base64.b64encode(raw).decode()

    def sign(self, statement: str) -> str:
        return base64.b64encode(self._private().sign(statement.encode())).decode()

    def valid(self, receipt: SignedReceipt) -> bool:
        return is_signed(receipt)

    def keep(self, receipt: SignedReceipt) -> None:
        with _explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            content = asdict(receipt) | {"at": receipt.at.isoformat()}
            with replaced(self._folder / f"{receipt.receipt_id}.json") as draft:
                draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def kept(self) -> list[SignedReceipt]:
        with _explained(self._folder):
            return [_read(path) for path in sorted(self._folder.glob("*.json"))]

    def _private(self) -> Ed25519PrivateKey:
        if self._key is None:
            with _explained(self._file):
                if not self._file.exists():
                    _make(self._file)
                key = serialization.load_pem_private_key(self._file.read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ReceiptsUnavailable(f"{self._file} holds a key of another kind than Ed25519")
            self._key = key
        return self._key


def is_signed(receipt: SignedReceipt) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(receipt.public_key, validate=True))
        key.verify(base64.b64decode(receipt.signature, validate=True), receipt.statement.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def _make(file: Path) -> None:
    """Whole or not at all, and once: of two processes that make one at once the first wins."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}.draft")
    written = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(written, _pem(Ed25519PrivateKey.generate()))
        os.fsync(written)
    finally:
        os.close(written)
    try:
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    sync(file.parent)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path) -> SignedReceipt:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return SignedReceipt(**content | {"at": datetime.fromisoformat(content["at"])})


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        raise ReceiptsUnavailable(f"receipts can't be kept or read at {path}: {error}") from error
