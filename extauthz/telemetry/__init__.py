"""Traces, metrics and logs of our own processes: counted and kept here at little cost, told to Prometheus and by OTLP.

    span ─┐                 ┌─▶ exposition ─▶ `metrics_site` (Prometheus)
    metric ┴▶ process ──────┴─▶ delivery (a thread) ─▶ otlp ─▶ the receiver of `LEGATION_OTLP_ENDPOINT`

`process` is the way in. While telemetry is off nothing of OpenTelemetry is imported, and nothing is kept.
"""
