"""From a question to a ranked list: pure functions over what the tiers found."""
