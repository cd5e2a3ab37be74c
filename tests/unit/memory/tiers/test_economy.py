import math

import pytest

from memory.tiers import economy
from memory.tiers.economy import SEGMENT, TOKEN, Price


def test_a_byte_is_worth_what_its_absence_costs_times_the_chance_that_it_is_asked_for():
    price = Price(seconds=2.0, bytes=100)
    assert price.per_byte == 0.02
    assert math.exp(economy.score(price, math.log(0.5))) == pytest.approx(0.01)


def test_a_byte_of_the_semantic_tier_saves_more_than_one_of_kv():
    """So in a joint economy KV gives way first, unless it is asked for more often."""
    assert SEGMENT.per_byte > TOKEN.per_byte
    assert economy.score(SEGMENT, 0.0) > economy.score(TOKEN, 0.0)
