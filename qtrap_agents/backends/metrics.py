"""vLLM's own counters, from the text that it publishes for Prometheus."""

from collections import defaultdict
from collections.abc import Mapping

from qtrap_agents.measures import ServerStats

PREFIX = "vllm:"
GAPS = ("inter_token_latency_seconds", "time_per_output_token_seconds")
"""The same histogram under its present and its former name."""


def read_metrics(text: str) -> ServerStats | None:
    """The counters since the engine was started, all models and engines of the page together; None where it is not vLLM's."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        if family.name.startswith(PREFIX):
            for sample in family.samples:
                totals[sample.name.removeprefix(PREFIX)] += sample.value
    if "generation_tokens_total" not in totals:
        return None
    gaps = next((name for name in GAPS if f"{name}_sum" in totals), GAPS[0])
    return ServerStats(
        requests=int(totals["request_success_total"]),
        prompt_tokens=int(totals["prompt_tokens_total"]),
        output_tokens=int(totals["generation_tokens_total"]),
        first_tokens=_count(totals, "time_to_first_token_seconds_count"),
        ttft_total_s=totals.get("time_to_first_token_seconds_sum"),
        gaps=_count(totals, f"{gaps}_count"),
        gap_total_s=totals.get(f"{gaps}_sum"),
        queue_total_s=totals.get("request_queue_time_seconds_sum"),
        prefix_cache_hits=_count(totals, "prefix_cache_hits_total"),
    )


def _count(totals: Mapping[str, float], name: str) -> int | None:
    return int(totals[name]) if name in totals else None
