"""The first hour with the product: say something, find it, stop, start, find it again."""

from collections.abc import Callable

from tests.e2e.server import Server, append, context, events_of, indexed, recall, said, same_answers, sound, texts

TALK = [
    said("Hi, I moved to Lisbon last month with my dog Biscuit.", agent_id="mia"),
    said("Welcome! How is Biscuit taking to the new city?", "assistant"),
    said("He loves the beach, but the trams scare him.", agent_id="mia"),
    said("By the way, the spare key is under the blue flower pot.", agent_id="mia"),
    said("Noted. Anything to prepare for your exam?", "assistant"),
    said("The Portuguese exam is on the twelfth of May, remind me to bring my passport.", agent_id="mia"),
    said("My sister Clara is allergic to peanuts, so no satay on Friday.", agent_id="mia"),
]
QUESTIONS = {
    "Where did I leave the house key?": 4,
    "What frightens the dog?": 3,
    "What can Clara not eat?": 7,
    "When is the language test?": 6,
}


def test_what_was_said_is_found_before_and_after_a_restart(new_server: Callable[..., Server]) -> None:
    server = new_server(forked=False).start()
    append(server.http, "demo", *TALK)
    indexed(server.http)
    before = {}
    for question, seq in QUESTIONS.items():
        before[question] = recall(server.http, question, session_ids=["demo"])
        assert seq in [r["events"][0]["seq"] for r in before[question][:2]], question
        assert len(before[question]) == len(TALK)
        ready = context(server.http, "demo", 500, query=question)
        assert any(TALK[seq - 1]["content"] in message["content"] for message in ready["messages"])
        assert ready["messages"][-1] == {"role": "user", "content": question}
    sound(server.http)
    assert server.stop() == 0
    server.start()
    assert [event["content"] for event in events_of(server.http, "demo")] == [event["content"] for event in TALK]
    for question, found in before.items():
        same_answers(found, recall(server.http, question, session_ids=["demo"]))
    assert texts(before["What frightens the dog?"])
    sound(server.http)
    assert server.stop() == 0
