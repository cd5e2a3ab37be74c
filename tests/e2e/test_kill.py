"""I1: what was acknowledged is there after `kill -9`, once, whole and in order."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable

import httpx

from tests.e2e.server import Server, append, backlog, events_of, indexed, ok, recall, sound, texts, until

CLIENTS = 4
ROUNDS = 5


class Talker(threading.Thread):
    """Appends one event after another until the connection breaks; remembers what was acknowledged."""

    def __init__(self, server: Server, number: int, round_: int) -> None:
        super().__init__(daemon=True)
        self.http = server.client()
        # Two clients share a session, two have their own: one log gets events from both sides.
        self.session = f"kill-{min(number, 2)}"
        self.prefix = f"c{number}r{round_}"
        self.acknowledged: dict[str, tuple[int, str]] = {}

    def run(self) -> None:
        number = 0
        with self.http:
            while True:
                marker = f"marker{uuid.uuid4().hex[:12]}"
                events = [
                    {"event_id": f"{self.prefix}-{number}-{part}", "role": "user", "content": f"{marker} part{part}"}
                    for part in range(1 + number % 3)
                ]
                try:
                    answer = self.http.post(f"/v1/sessions/{self.session}/events", json={"events": events})
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    body = answer.json()
                    for offset, event in enumerate(events):
                        self.acknowledged[event["event_id"]] = (body["first_seq"] + offset, event["content"])
                number += 1


def test_acknowledged_events_survive_five_kills(new_server: Callable[..., Server]) -> None:
    # By default what a killed worker held waits two minutes for its lease to end.
    server = new_server(JOBS__LEASE=3, JOBS__SWEEP_EVERY=1, JOBS__SWEEP_IDLE=1)
    acknowledged: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for round_ in range(ROUNDS):
        server.start()
        talkers = [Talker(server, number, round_) for number in range(CLIENTS)]
        for talker in talkers:
            talker.start()
        until(lambda talkers=talkers: all(t.acknowledged for t in talkers), what="each was told that something is kept")
        time.sleep(0.1 * round_)
        server.kill()
        for talker in talkers:
            talker.join(20)
            acknowledged[talker.session] |= talker.acknowledged
    server.start()
    for session, expected in acknowledged.items():
        log = events_of(server.http, session)
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        stored = {event["event_id"]: (event["seq"], event["content"]) for event in log}
        assert len(stored) == len(log), "an event is there twice"
        assert {name: stored.get(name) for name in expected} == expected
        counted = ok(server.http.get(f"/v1/sessions/{session}"))
        assert (counted["last_seq"], counted["event_count"]) == (len(log), len(log))
    indexed(server.http, 120)
    for session, expected in acknowledged.items():
        for name in list(expected)[:: max(1, len(expected) // 10)]:
            content = expected[name][1]
            assert content in texts(recall(server.http, content.split()[0], session_ids=[session], top_k=3))
    assert sound(server.http)["longterm"]["pending"] == 0
    assert server.stop() == 0


def test_a_kill_in_the_middle_of_a_bulk_ingest_loses_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server(LONGTERM__SNAPSHOT_SECONDS=0.2, LONGTERM__COMMIT_AFTER=50, JOBS__LEASE=3, JOBS__SWEEP_EVERY=1)
    server.start()
    for batch in range(2):
        for half in (0, 1):
            notes = [f"note {2 * batch + half} {n}: the {WORDS[n % 8]} of {n}" for n in range(120)]
            append(server.http, f"bulk-{half}", *notes)
        recall(server.http, "the garden")
        time.sleep(0.4 * batch)
        assert backlog(server.http), "it was done before the kill: nothing is shown"
        server.kill()
        server.start()
    indexed(server.http, 120)
    tiers = sound(server.http)
    assert (tiers["longterm"]["items"], tiers["longterm"]["pending"]) == (480, 0)
    assert tiers["longterm"]["details"]["vectors"] == 480
    assert recall(server.http, "note 3 119: the guitar of 119", top_k=1)[0]["text"].startswith("note 3 119")


WORDS = "garden kitchen meeting train doctor holiday invoice guitar".split()
