from memory.services.activity import Activity


def test_rates_are_means_over_the_last_minute():
    now = [100.0]
    activity = Activity(lambda: now[0])
    for _ in range(30):
        activity.note("events", 4)
        now[0] += 1
    assert activity.per_second("events", "recalls") == {"events": 2.0, "recalls": 0.0}
    now[0] += 45
    assert activity.per_second("events") == {"events": 0.933}  # 14 of the 30 seconds are left
    now[0] += 60
    assert activity.per_second("events") == {"events": 0.0}


async def test_the_overview_has_what_an_operator_asks_for(container):
    from memory.domain.recall import RecallRequest
    from tests.unit.memory.services.conftest import ME, say

    await say(container, "s", "one", "two")
    await container.recall.recall(ME, RecallRequest("one"))
    overview = await container.admin.overview(ME)
    assert (overview["tenants"], overview["sessions"], overview["events"], overview["tokens"]) == (1, 1, 2, 2)
    assert overview["rates"]["events_per_second"] > 0
    assert overview["rates"]["recalls_per_second"] > 0
    assert overview["hit_ratios"] == {"hot": 1.0, "semantic": 0.0, "longterm": 0.0}
    assert set(overview["bytes_by_tier"]) == {"hot", "semantic", "longterm"}
    assert overview["queue"]["queued"] == overview["queue_depth"] == 1
