"""Which tiers are there? In the order of speed; each is a cache of the event log."""

from memory.tiers.hot.tier import HotTier
from memory.tiers.longterm.tier import LongTermTier
from memory.tiers.semantic.tier import SemanticTier

TIERS = (HotTier, SemanticTier, LongTermTier)
