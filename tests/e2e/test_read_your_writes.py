"""I9: what was acknowledged is found at once, by its words and by its meaning."""

import uuid

from tests.e2e.server import Server, append, indexed, recall, sound, texts

FACTS = [
    ("I bought a new car on Saturday.", "purchased an automobile"),
    ("My daughter broke her arm at school.", "child injured a limb"),
    ("We are moving to Norway next spring.", "relocating to Scandinavia"),
    ("The physician prescribed antibiotics.", "the doctor gave me medicine"),
    ("Our cat had four kittens.", "the pet gave birth"),
    ("He plays the violin in an orchestra.", "musician with a string instrument"),
    ("The flight was cancelled because of snow.", "plane did not leave due to weather"),
    ("She became a vegetarian last year.", "stopped eating meat"),
]


def test_two_hundred_events_are_found_at_once(shared: Server, name: str) -> None:
    with shared.client() as other:
        for number in range(60):
            fact, paraphrase = FACTS[number % len(FACTS)]
            marker = f"mark{uuid.uuid4().hex[:10]}"
            session = f"{name}-{number // len(FACTS)}"
            append(shared.http, session, f"{fact} {marker}")
            assert marker in recall(other, marker, top_k=10)[0]["text"], number
            found = texts(recall(other, paraphrase, top_k=10, session_ids=[session]))
            assert any(marker in text for text in found), (number, paraphrase)
            if number % 8 == 0:  # among all the others, most of which say it in the same words
                append(shared.http, session, f"Object {marker} weighs {number} kilograms.")
                assert any(marker in text for text in texts(recall(other, f"the weight of {marker}", top_k=10)))
    indexed(shared.http)
    sound(shared.http)
