"""What can somebody at the page do about a problem?"""

from memory.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, RateLimited, Retryable, StratamemError

_ADVICE: tuple[tuple[type[StratamemError], str], ...] = (
    (RateLimited, "Wait, or raise the limit in the settings."),
    (Retryable, "It may pass by itself: try again; `stratamem doctor` says what is missing."),
    (NotFound, "It may have been purged, or be another tenant's."),
    (Forbidden, "Sign in with a key that may, or look as an agent that may."),
    (InvalidInput, "Change what you entered."),
    (Conflict, "Look at it again: it has changed meanwhile."),
)


def advice(error: StratamemError) -> str:
    return next((text for kind, text in _ADVICE if isinstance(error, kind)), "The log has more about it.")
