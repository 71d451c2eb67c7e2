"""Panels for the local model, from its server's own metrics: llama.cpp, vLLM and LocalAI name theirs differently.

A colon in a name arrives as an underscore where prometheus_client, which vLLM uses, is asked for OpenMetrics, and
Prometheus asks for that (findings/prometheus-client-colons.sh): the panels look for both. The proxy's `cloned_proxy_*`
metrics know the model only as a destination. What a server does not measure has no line.
"""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import timeseries

from dashboards.kit import graph

_RATE = "[$__rate_interval]"


def _either(one: str, other: str) -> str:
    return f"sum(rate({_both(one)}{_RATE})) or sum(rate({_both(other)}{_RATE}))"


def _both(name: str) -> str:
    """A metric under either spelling."""
    return f'{{__name__=~"{name.replace(":", "[:_]")}"}}'


def _quantile(buckets: str) -> str:
    return f"histogram_quantile(0.95, sum by (le) (rate({buckets}{_RATE})))"


def model_panels() -> Iterator[timeseries.Panel]:
    yield graph(
        "Model: tokens",
        [
            (_either("llamacpp:tokens_predicted_total", "vllm:generation_tokens_total"), "written"),
            (_either("llamacpp:prompt_tokens_total", "vllm:prompt_tokens_total"), "read"),
        ],
        "Tokens a second of all callers together (llama.cpp, vLLM).", unit="short",
    )  # fmt: skip
    yield graph(
        "Model: queue",
        [
            (f"sum({_both('llamacpp:requests_processing')}) or sum({_both('vllm:num_requests_running')})", "working"),
            (f"sum({_both('llamacpp:requests_deferred')}) or sum({_both('vllm:num_requests_waiting')})", "waiting"),
        ],
        "Requests that are being answered, and those that wait for a place (llama.cpp, vLLM).", unit="short",
    )  # fmt: skip
    yield graph(
        "Model: time to first token",
        [
            (_quantile(_both("vllm:time_to_first_token_seconds_bucket")), "first token (p95)"),
            (_quantile('api_call_bucket{path=~"/v1/chat/completions|/chat/completions"}'), "whole call (p95)"),
        ],
        "vLLM measures the first token, LocalAI whole calls; llama.cpp neither.", unit="s",
    )  # fmt: skip
    yield graph(
        "Model: memory",
        [('sum(process_resident_memory_bytes{job="localai"})', "server")],
        "Of the server's own process (LocalAI, vLLM); `docker stats cloned-localai` has the whole slot.", unit="bytes",
    )  # fmt: skip
