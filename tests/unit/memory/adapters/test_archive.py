"""A backup is whole or refused, and nothing in it leads out of the folder that it is unpacked to."""

import gzip
import io
import random
import stat
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memory.adapters.archive import MANIFEST, BackupRefused, Manifest, Part, pack, unpack

FACTS = Manifest(version="1.2.3", database="sqlite", revision="0001", created_at=datetime(2026, 3, 1, tzinfo=UTC))
PARTS = {
    "stratamem.db": random.Random(3).randbytes(30_000) + b"text " * 2_000,
    "receipts/a/one.json": b"{}",
    "empty": b"",
}


def untold(what: str, done: int, total: int | None) -> None: ...


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    sources = {}
    for number, (name, content) in enumerate(PARTS.items()):
        sources[name] = tmp_path / str(number)
        sources[name].write_bytes(content)
    pack(tmp_path / "backup.tar.gz", FACTS, sources, untold)
    return tmp_path / "backup.tar.gz"


def made(path: Path, manifest: str | bytes, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """An archive that we would not make."""
    with tarfile.open(path, "w:gz") as tar:
        for member, content in [(tarfile.TarInfo(MANIFEST), manifest), *members]:
            body = content if isinstance(content, bytes) else content.encode()
            member.size = len(body) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(body))
    return path


def naming(*names: str) -> str:
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    parts = tuple(Part(name=name, size=1, sha256=digest) for name in names)
    return FACTS.model_copy(update={"parts": parts}).model_dump_json()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_was_packed_comes_out(packed: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    (tmp_path / "out").mkdir()
    told: list[tuple[str, int, int | None]] = []
    manifest = unpack(packed, tmp_path / "out", lambda *step: told.append(step))
    assert manifest.model_copy(update={"parts": ()}) == FACTS
    for name, content in PARTS.items():
        assert (tmp_path / "out" / name).read_bytes() == content
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600
    size = sum(map(len, PARTS.values()))
    assert told[-1] == ("unpacking", size, size)
    with tarfile.open(packed) as tar:  # readable by everybody's tar
        assert tar.getnames() == [MANIFEST, *PARTS]


def test_a_byte_that_was_flipped_anywhere_is_found(packed: Path, tmp_path: Path) -> None:
    whole, draw = packed.read_bytes(), random.Random(5)
    header = 10  # of gzip: a time and a system that nobody reads
    for number, place in enumerate([header, len(whole) - 1, *draw.sample(range(header, len(whole)), 60)]):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        (tmp_path / f"out{number}").mkdir()
        with pytest.raises(BackupRefused, match="is damaged"):
            unpack(packed, tmp_path / f"out{number}", untold)


@pytest.mark.parametrize("length", [0, 5, 400, -1])
def test_an_archive_that_was_cut_off_is_refused(packed: Path, tmp_path: Path, length: int) -> None:
    packed.write_bytes(packed.read_bytes()[:length])
    (tmp_path / "out").mkdir()
    with pytest.raises(BackupRefused):
        unpack(packed, tmp_path / "out", untold)


@pytest.mark.parametrize("name", ["../out-there", "/tmp/out-there", "a/../../out-there", "", ".", "a\\b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    archive = made(tmp_path / "x.tar.gz", naming(name), [(member(name), b"x")])
    with pytest.raises(BackupRefused):
        unpack(archive, tmp_path / "in", untold)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "x.tar.gz"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "in").mkdir()
    archive = made(tmp_path / "x.tar.gz", naming("a"), [(member("a", kind, "/etc/passwd"), b"x")])
    with pytest.raises(BackupRefused, match="is not where the manifest says"):
        unpack(archive, tmp_path / "in", untold)
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize(
    ("manifest", "names", "told"),
    [
        (naming("a"), "ab", "more in it"),
        (naming("a", "b"), "a", "'b' is not where"),
        (naming("a", "a"), "aa", "exist"),
        (naming("a").replace('"format":1', '"format":2'), "a", "the format 2"),
        ("{}", "a", "is damaged"),
        ("no json", "a", "is damaged"),
    ],
)
def test_what_is_not_as_its_manifest_says_is_refused(tmp_path: Path, manifest: str, names: str, told: str) -> None:
    (tmp_path / "in").mkdir()
    archive = made(tmp_path / "x.tar.gz", manifest, [(member(name), b"x") for name in names])
    with pytest.raises(BackupRefused, match=told):
        unpack(archive, tmp_path / "in", untold)


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for content in (b"", b"hello", gzip.compress(b"hello"), gzip.compress(b"\0" * 20_000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(BackupRefused, match="no backup of ours"):
            unpack(tmp_path / "x", tmp_path / "in", untold)
    with pytest.raises(BackupRefused, match="No such file"):
        unpack(tmp_path / "nothing", tmp_path / "in", untold)


def test_a_failure_leaves_the_earlier_backup(packed: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    (tmp_path / "part").write_bytes(b"x")

    def full(what: str, done: int, total: int | None) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        pack(packed, FACTS, {"a": tmp_path / "part"}, full)
    assert packed.read_bytes() == before
    assert not list(tmp_path.glob("*.draft"))
