"""What is counted? Labels are route templates, never paths: a label per session would grow without bound."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter("stratamem_http_requests_total", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "stratamem_http_request_seconds",
    "Time to the end of the answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
EVENTS = Counter("stratamem_events_appended_total", "Events acknowledged for the first time.")
DEGRADED = Counter("stratamem_recall_degraded_total", "Recalls that a tier did not answer.", ["tier"])
