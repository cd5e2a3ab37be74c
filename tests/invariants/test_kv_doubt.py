"""Whatever happens to kept KV, an answer is that of a cold run or a clear error. `benchmarks/kv_faults.py` in short."""

import logging

import pytest

from benchmarks.fault_kills import Killer
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_world import World
from benchmarks.kv_faults import CONTROLS, KILL, believing, play

SEED = 20


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory):
    logger = logging.getLogger("model_runtime")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    made = World(tmp_path_factory.mktemp("faults"), SEED, chains=1)
    yield made
    logger.setLevel(level)


@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_makes_a_wrong_answer(tiny_world, kind):
    cases = [play(tiny_world, kind, number, SEED) for number in range(3)]
    assert [case.wrong for case in cases] == [[]] * len(cases), [case.notes for case in cases]
    assert any(case.met for case in cases)


def test_a_process_that_is_killed_while_writing_leaves_nothing_wrong(tiny_world):
    case = play(tiny_world, KILL, 0, SEED, Killer())
    assert case.wrong == []


def test_the_faults_would_be_seen_if_nothing_were_checked(tiny_world):
    with believing():
        cases = [play(tiny_world, kind, number, SEED) for kind in CONTROLS for number in range(3)]
    assert sum(bool(case.wrong) for case in cases) >= len(cases) // 2
