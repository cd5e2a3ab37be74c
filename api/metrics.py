"""What is counted? Labels are route templates, never paths: a label per session would grow without bound."""

from collections.abc import Iterator, Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memory.domain.generation import RuntimeStats

REQUESTS = Counter("stratamem_http_requests_total", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "stratamem_http_request_seconds",
    "Time to the end of the answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
EVENTS = Counter("stratamem_events_appended_total", "Events acknowledged for the first time.")
DEGRADED = Counter("stratamem_recall_degraded_total", "Recalls that a tier did not answer.", ["tier"])


class RuntimeMetrics(Collector):
    """What the model runtime of this process counts itself."""

    def __init__(self, stats: RuntimeStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield _counter(
            "kv_reused_tokens", "Tokens of prompts that were not computed again.", "tier", stats.reused_tokens
        )
        yield _counter("kv_streamed_bytes", "Read for a step from where they lie.", "tier", stats.streamed_bytes)
        missed = "Tokens of prompts that a tier was asked for and did not have."
        yield _counter("kv_missed_tokens", missed, "tier", stats.missed_tokens)
        yield _counter("kv_prefetched_blocks", "Blocks brought up on request.", "tier", stats.prefetched)
        evicted = CounterMetricFamily(
            "stratamem_kv_evicted_blocks", "Blocks that left a tier.", labels=["tier", "reason"]
        )
        for tier, reasons in stats.evicted.items():
            for reason, count in reasons.items():
                evicted.add_metric([tier, reason], count)
        yield evicted
        tokens = {"prefill": stats.computed_tokens, "decode": stats.written_tokens}
        rates = {phase: tokens[phase] / spent if spent else 0.0 for phase, spent in stats.seconds.items()}
        yield _gauge("tokens_per_second", "While computing, since the start.", "phase", rates)
        yield _counter("compute_seconds", "Spent on prompts and on answers.", "phase", stats.seconds)
        yield _counter("kv_gate", "Blocks that were loaded, or quicker computed again.", "decision", stats.gate)
        totals = {
            "computed_tokens": (stats.computed_tokens, "Tokens of prompts that were computed."),
            "written_tokens": (stats.written_tokens, "Tokens of answers."),
            "kv_lost_blocks": (stats.lost, "Blocks that were known and could not be read."),
            "kv_quarantined_blocks": (stats.quarantined, "Files that were not as they were written."),
        }
        for name, (value, text) in totals.items():
            yield CounterMetricFamily(f"stratamem_{name}", text, value=value)
        yield _counter("sparse", "Steps of sparse answers, and the blocks of their layers.", "count", stats.sparse)
        if stats.coverage is not None:
            yield GaugeMetricFamily(
                "stratamem_sparse_coverage", "Share of the attention's mass that sparse steps read.", stats.coverage
            )
        yield _gauge("kv_blocks", "Blocks now.", "tier", stats.blocks)
        yield _gauge("kv_bytes", "Bytes of blocks now.", "tier", stats.bytes)
        yield _gauge("kv_capacity_bytes", "Bytes of blocks that there may be.", "tier", stats.capacity)
        used = "Of its share, what the tenant has that has the most of it."
        yield _gauge("kv_quota_used_ratio", used, "tier", stats.quota_used)
        yield GaugeMetricFamily("stratamem_kv_pinned_bytes", "Bytes of pinned blocks now.", value=stats.pinned_bytes)
        yield GaugeMetricFamily("stratamem_kv_sessions", "Sessions with a manifest now.", value=stats.sessions)
        yield _gauge("answers", "Answers now.", "state", stats.answers)


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(CounterMetricFamily(f"stratamem_{name}", text, labels=[label]), values)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(GaugeMetricFamily(f"stratamem_{name}", text, labels=[label]), values)


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
