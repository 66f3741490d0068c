"""vLLM's page for Prometheus becomes sums; what is not on it is None."""

import pytest

from qtrap_agents.backends.metrics import read_metrics
from qtrap_agents.measures import ServerStats

PAGE = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 12345.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 7.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 30.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 10.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 0.0
# TYPE vllm:request_success_created gauge
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.79e+09
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1200.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 340.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 16.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 39.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 40.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 40.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 2.5
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 300.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 300.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 6.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="m"} 40.0
vllm:request_queue_time_seconds_count{engine="0",model_name="m"} 40.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="m"} 0.8
"""
"""As published, most buckets left out."""

COUNTED = ServerStats(
    requests=40,
    prompt_tokens=1200,
    output_tokens=340,
    first_tokens=40,
    ttft_total_s=2.5,
    gaps=300,
    gap_total_s=6.0,
    queue_total_s=0.8,
    prefix_cache_hits=16,
)


def without(*names: str) -> str:
    """The page without the lines of these metrics."""
    return "".join(line for line in PAGE.splitlines(keepends=True) if not any(name in line for name in names))


def test_the_page_is_added_up() -> None:
    assert read_metrics(PAGE) == COUNTED


def test_engines_of_one_page_are_added() -> None:
    other = "".join(line for line in PAGE.replace('engine="0"', 'engine="1"').splitlines(keepends=True) if "# " not in line)
    assert read_metrics(PAGE + other) == COUNTED + COUNTED


def test_the_former_name_of_the_gaps_is_read_too() -> None:
    assert read_metrics(PAGE.replace("inter_token_latency_seconds", "time_per_output_token_seconds")) == COUNTED


@pytest.mark.parametrize(
    ("metric", "fields"),
    [
        ("time_to_first_token", ("first_tokens", "ttft_total_s")),
        ("inter_token_latency", ("gaps", "gap_total_s")),
        ("request_queue_time", ("queue_total_s",)),
        ("prefix_cache_hits", ("prefix_cache_hits",)),
    ],
)
def test_a_missing_metric_is_not_measured(metric: str, fields: tuple[str, ...]) -> None:
    assert read_metrics(without(metric)) == COUNTED.model_copy(update=dict.fromkeys(fields))


@pytest.mark.parametrize("page", ["", without("vllm:"), without("generation_tokens")])
def test_a_page_of_something_else_tells_nothing(page: str) -> None:
    assert read_metrics(page) is None


def test_the_work_between_two_looks_is_their_difference() -> None:
    later = PAGE.replace("} 30.0", "} 34.0").replace("} 340.0", "} 372.0").replace("} 2.5", "} 3.0").replace("} 40.0", "} 44.0")
    before, after = read_metrics(PAGE), read_metrics(later)
    assert before is not None
    assert after is not None
    found = after.since(before)
    assert (found.requests, found.output_tokens, found.prompt_tokens, found.first_tokens) == (4, 32, 0, 4)
    assert found.ttft_s == pytest.approx(0.125)
    assert found.inter_token_s is None, "no gap was counted between the looks"
