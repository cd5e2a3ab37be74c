"""How many examples does a costly property get? Few while somebody waits, ten times as many where nobody does."""

import os


def examples(few: int) -> int:
    """`HYPOTHESIS_PROFILE=thorough` is for nights and before a release."""
    return few * (10 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 1)
