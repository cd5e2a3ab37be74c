"""I5: before a purge the planted words and vectors are in the files; after the receipt they are in none."""

import sqlite3
from pathlib import Path

import numpy as np
import tantivy

from memory.adapters.lexical.analysis import ANALYSIS, Analyzer
from tests.e2e.server import Server, append, context, events_of, indexed, ok, recall, said, sound, texts, until

# Words that no analyser changes and no other text has.
PLANTED = ["quetzalkoatl", "xylofonist", "brzeszczyk"]
SENTENCE = "The Quetzalkoatl figure stands behind the Xylofonist, said Brzeszczyk."


def holding(data: Path, *patterns: bytes) -> list[str]:
    """The files with one of these bytes, the server running."""
    found = []
    for path in data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{path.relative_to(data)}: {p[:20]!r}" for p in patterns if p in content]
    return found


def indexed_terms(data: Path) -> set[str]:
    """Which of the planted terms the dictionaries of tantivy's files have."""
    found = set()
    for meta in data.rglob("meta.json"):
        index = tantivy.Index.open(str(meta.parent))
        searcher = index.searcher()
        for word in PLANTED:
            for term in Analyzer().terms(word):
                query = tantivy.Query.term_query(index.schema, ANALYSIS, term)
                if searcher.search(query, 1).hits:
                    found.add(word)
    return found


def vectors_of(data: Path, text: str) -> list[bytes]:
    """float16, as the database keeps it; asked while it is there."""
    with sqlite3.connect(data / "stratamem.db") as database:
        rows = database.execute(
            "SELECT s.vector FROM segments s LEFT JOIN events e ON s.item = e.event_key * 2"
            " LEFT JOIN memories m ON s.item = m.memory_key * 2 + 1 WHERE e.content = ? OR m.text = ?",
            (text, text),
        ).fetchall()
    assert rows
    assert all(row[0] is not None for row in rows)
    return [row[0] for row in rows]


def patterns(text: str, *vectors: bytes) -> list[bytes]:
    words = [word.encode() for word in PLANTED]
    stemmed = [term.encode() for word in PLANTED for term in Analyzer().terms(word)]
    # A vector in float32, or its beginning in float16, would be a trace as well.
    wide = [np.frombuffer(v, "<f2").astype("<f4").tobytes() for v in vectors]
    return [text.encode(), *words, *[w.title() for w in words], *stemmed, *vectors, *wide, *[v[:64] for v in vectors]]


def on_disk(server: Server, words: set[str]) -> None:
    """Waits until the index with these words has been written."""
    until(lambda: indexed_terms(server.data) >= words, 30, what="the words are in tantivy's files")


def test_nothing_is_left_of_a_purged_session(tmp_path: Path) -> None:
    with Server(tmp_path / "data", LONGTERM__SNAPSHOT_SECONDS=0.3, LONGTERM__COMMIT_AFTER=1) as server:
        http, data = server.http, server.data
        append(http, "kept", *(f"An ordinary remark about item {n}." for n in range(30)))
        append(http, "gone", SENTENCE, *(f"More about {PLANTED[n % 3]} and item {n}." for n in range(30)))
        append(http, "gone", said("Brzeszczyk whispers.", agent_id="ann", visibility="private"))
        filler = " ".join(f"{PLANTED[n % 3]} did thing number {n}." for n in range(900))  # enough for a summary
        append(http, "gone", filler)
        derived = {
            "text": "A Xylofonist is somewhere.",
            "kind": "fact",
            "source": {"session_id": "gone", "event_ids": ["x"]},
        }
        inside = {"text": "Quetzalkoatl is a god.", "kind": "note", "session_id": "gone"}
        other = {"text": "Tea is at five.", "kind": "fact"}
        made = ok(http.post("/v1/memories", json={"memories": [derived, inside, other]}))["items"]
        indexed(http)
        recall(http, SENTENCE)
        context(http, "gone", 300, query="item")
        on_disk(server, set(PLANTED))
        vectors = vectors_of(data, SENTENCE) + vectors_of(data, derived["text"])  # type: ignore[arg-type]
        until(lambda: holding(data / "index", vectors[0]), 30, what="the vector is in FAISS' file")
        before = holding(data, *patterns(SENTENCE, *vectors))
        assert any(line.startswith("stratamem.db") for line in before)
        receipt = ok(http.delete("/v1/sessions/gone"), 200)
        assert receipt["verified"] is True
        assert receipt["purged"]["events"] == 33
        assert receipt["purged"]["memories"] == 2
        assert holding(data, *patterns(SENTENCE, *vectors)) == []
        assert indexed_terms(data) == set()
        assert http.get("/v1/sessions/gone").status_code == 404
        assert http.delete("/v1/sessions/gone").status_code == 404
        assert http.get(f"/v1/memories/{made[0]['memory_id']}").status_code == 404
        assert http.get(f"/v1/memories/{made[2]['memory_id']}").status_code == 200
        assert not [t for t in texts(recall(http, SENTENCE, top_k=200)) if "lofonist" in t or "lkoatl" in t]
        assert len(recall(http, "remark", top_k=200)) == 31
        sound(http)
        # The same name again is another session.
        assert append(http, "gone", "A fresh start.")["first_seq"] == 1
        assert [event["content"] for event in events_of(http, "gone")] == ["A fresh start."]
        assert texts(recall(http, "anything", session_ids=["gone"], kinds=["event"])) == ["A fresh start."]
        indexed(http)
        assert server.stop() == 0
        assert holding(data, *patterns(SENTENCE, *vectors)) == []
        server.start()
        assert not [t for t in texts(recall(http, SENTENCE, top_k=200)) if "lofonist" in t]
        purge_a_memory(server)


def test_what_a_fork_shares_stays_and_goes_with_the_last_that_sees_it(tmp_path: Path) -> None:
    """The parent's rest is in no file when only it is purged; the shared part is in none after the last fork."""
    early, late = "Quetzalkoatl was here.", "The Xylofonist came after the fork, said Brzeszczyk."
    with Server(tmp_path / "data", LONGTERM__SNAPSHOT_SECONDS=0.3, LONGTERM__COMMIT_AFTER=1) as server:
        http, data = server.http, server.data
        append(http, "kept", *(f"An ordinary remark about item {n}." for n in range(30)))
        append(http, "parent", early)
        ok(http.post("/v1/sessions/parent/fork", json={"session_id": "child"}))
        ok(http.post("/v1/sessions/child/fork", json={"session_id": "grandchild"}))
        append(http, "parent", late)
        indexed(http)
        recall(http, early)
        on_disk(server, set(PLANTED))
        shared, own = vectors_of(data, early), vectors_of(data, late)
        until(lambda: holding(data / "index", own[0]), 30, what="the vector is in FAISS' file")
        receipt = ok(http.delete("/v1/sessions/parent"), 200)
        assert receipt["verified"] is True
        assert (receipt["kept"]["events"], receipt["kept_for"]) == (1, ["child", "grandchild"])
        assert holding(data, late.encode(), b"xylofon", b"Xylofon", *own) == []
        assert indexed_terms(data) == {PLANTED[0]}
        indexed(http)
        for fork in ("child", "grandchild"):
            assert texts(recall(http, "Quetzalkoatl", session_ids=[fork])) == [early]
        sound(http)
        assert server.stop() == 0
        server.start()
        assert texts(recall(http, "Quetzalkoatl", session_ids=["grandchild"])) == [early]
        ok(http.delete("/v1/sessions/child"), 200)
        assert texts(recall(http, "Quetzalkoatl", session_ids=["grandchild"])) == [early]
        receipt = ok(http.delete("/v1/sessions/grandchild"), 200)
        assert receipt["purged"]["events"] == 1
        assert holding(data, early.encode(), b"quetzal", b"Quetzal", *shared) == []
        assert indexed_terms(data) == set()
        sound(http)


def purge_a_memory(server: Server) -> None:
    http, data = server.http, server.data
    body = {"memories": [{"text": SENTENCE, "kind": "fact"}]}
    memory = ok(http.post("/v1/memories", json=body))["items"][0]["memory_id"]
    old = "Brzeszczyk said something else first."
    ok(http.patch(f"/v1/memories/{memory}", json={"text": old}))
    ok(http.patch(f"/v1/memories/{memory}", json={"text": SENTENCE}))
    indexed(http)
    recall(http, SENTENCE)
    on_disk(server, set(PLANTED))
    vectors = vectors_of(data, SENTENCE)
    until(lambda: holding(data / "index", vectors[0]), 30, what="the vector is in FAISS' file")
    receipt = ok(http.delete(f"/v1/memories/{memory}"), 200)
    assert receipt["verified"] is True
    assert holding(data, *patterns(SENTENCE, *vectors)) == []
    assert indexed_terms(data) == set()
    assert http.get(f"/v1/memories/{memory}").status_code == 404
    sound(http)
