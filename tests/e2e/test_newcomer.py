"""The first hour with the product: say something, find it, stop, start, find it again."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.e2e.server import (
    COMMAND,
    Server,
    append,
    context,
    events_of,
    indexed,
    recall,
    said,
    same_answers,
    sound,
    texts,
    until,
)

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


def test_two_agents_share_a_session_as_the_readme_says(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """The section's own lines, one block after the other."""
    _, section = (Path(__file__).parents[2] / "README.md").read_text().split("## Two agents share a session", 1)
    says, follow, goes_on, finds, over_http = re.findall(r"```sh\n(.*?)```", section.split("\n## ", 1)[0], re.DOTALL)
    server = new_server().start()  # others' memories would be found as well
    address = str(server.http.base_url).removeprefix("http://")
    told = tmp_path / "told"
    environment = {**os.environ, "STRATAMEM_URL": f"http://{address}"}

    def shell(block: str) -> str:
        lines = block.replace(".venv/bin/stratamem", str(COMMAND)).replace("localhost:8080", address)
        return f"cd {tmp_path} && exec 2>&1 && {lines}"

    def run(block: str) -> str:
        command = ["bash", "-ec", shell(block)]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=120, check=True).stdout.decode()

    run(says)
    # exec: what is ended is the command, not the shell around it
    follows = shell(follow).replace(str(COMMAND), f"exec {COMMAND}")
    with told.open("wb") as file, subprocess.Popen(["bash", "-c", follows], env=environment, stdout=file) as rob:
        try:
            until(lambda: b"centrifuge" in told.read_bytes())
            run(goes_on)
            until(lambda: b"batch eight" in told.read_bytes(), 5)
        finally:
            rob.kill()
    assert b"spoiled" not in told.read_bytes()
    robs, adas = run(finds).split(" ms\n", 1)
    assert "centrifuge" in robs
    assert "spoiled" not in robs
    assert "spoiled" in adas
    found = texts(json.loads(run(over_http))["results"])
    assert len(found) == 2
    assert not [text for text in found if "spoiled" in text]
