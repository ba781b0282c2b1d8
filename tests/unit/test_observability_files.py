"""Dashboards and alerts of deploy/observability: what they read is there, and alerts do what their tests say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.observability_files import OBSERVABILITY, expressions

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.external
def test_the_rules_of_alerts_do_what_their_tests_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (apt install prometheus): alerts were not tested")

    for arguments in (["check", "config", "prometheus.yaml"], ["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=OBSERVABILITY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_and_every_panel_reads_metrics_that_there_are() -> None:
    metrics = METRICS.read_text()
    known = set(re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE)) | {"up"}
    texts = [expression for _, expression in expressions()]
    texts += re.findall(r"expr: (.*(?:\n {10,}.*)*)", (OBSERVABILITY / "alerts.yaml").read_text())
    named = {name for text in texts for name in re.findall(r"\b(?:legation|mcp|http|process)_[a-z_]+", without_labels(text))}

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} <= known


def without_labels(expression: str) -> str:
    """Without what stands in braces and behind `by`."""
    return re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)


def test_every_alert_has_a_test_of_its_own() -> None:
    rules = set(re.findall(r"- alert: (\w+)", (OBSERVABILITY / "alerts.yaml").read_text()))
    fired = re.findall(r"alertname: (\w+)\n\s+exp_alerts", (OBSERVABILITY / "alerts_test.yaml").read_text())

    assert set(fired) == rules


def test_the_page_says_of_every_alert_what_to_do_and_of_no_other() -> None:
    rules = set(re.findall(r"- alert: (\w+)", (OBSERVABILITY / "alerts.yaml").read_text()))
    told = re.findall(r"`(Legation\w+)`", (METRICS.parent / "observability.md").read_text())

    assert sorted(told) == sorted(rules)
