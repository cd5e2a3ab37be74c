"""Do the indexes and the KV of this data folder still know what a receipt says is gone? By keys, not by text."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from memory.domain.receipts import ReceiptKind, SignedReceipt
from memory.domain.traces import Look


def looks(data: Path, receipt: SignedReceipt, *, tenant_is_there: bool) -> list[Look]:
    # As the long-term tier names it.
    name = hashlib.blake2b(receipt.tenant_id.encode(), digest_size=16).hexdigest()
    folders = [path for path in sorted((data / "index").glob(f"*/{name}")) if path.is_dir()]
    whole = receipt.content["what"]["kind"] == ReceiptKind.TENANT
    if whole and not tenant_is_there:
        there = tuple(f"{folder.relative_to(data)} is there" for folder in folders)
        return [Look("index folders", f"{len(folders)} of the tenant", there), _manifests(data, receipt)]
    catalogues = [path for folder in folders for path in folder.glob("catalogue-*.npz")]
    found = tuple(f"{path.relative_to(data)}: {count} items" for path in catalogues if (count := _held(path, receipt)))
    return [Look("index catalogues", f"{len(catalogues)} of the tenant", found), _manifests(data, receipt)]


def _held(path: Path, receipt: SignedReceipt) -> int:
    what = receipt.content["what"]
    with np.load(path, allow_pickle=False) as archive:
        item, session, alive = (archive[name] for name in ("item", "session", "alive"))
    gone = np.isin(item, [key * 2 for key in what.get("event_keys", ())])
    gone |= np.isin(item, [key * 2 + 1 for key in what.get("memory_keys", ())])
    gone |= np.isin(session, what.get("session_keys", []))
    if what["kind"] == ReceiptKind.TENANT:
        upto = what["upto"]
        gone |= np.where(item % 2 == 0, item <= upto["event_key"] * 2, item <= upto["memory_key"] * 2 + 1)
    return int((gone & alive).sum())


def _manifests(data: Path, receipt: SignedReceipt) -> Look:
    """A purge takes all KV of the tenant along: what is there was computed since."""
    seen, found = 0, []
    for path in sorted((data / "kv").rglob("*.json")):
        content = _json(path)
        if content.get("tenant") == receipt.tenant_id and "memory_key" in content:
            seen += 1
            if path.stat().st_mtime < receipt.at.timestamp() - _SLACK:
                found.append(f"{path.relative_to(data)} is older than the receipt")
    return Look("KV manifests", f"{seen} of the tenant", tuple(found))


_SLACK = 5.0
"""Seconds: a turn may have begun between the cleaning of the KV and the receipt."""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
