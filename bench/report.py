"""The table that `make bench` prints and `bench/RESULTS.md` holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.load import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRun:
    """One load: who answered, how it was loaded, what it cost each process (microseconds of CPU per call)."""

    target: str
    shape: str
    outcome: Outcome
    cpu_us: dict[str, float]

    @property
    def total_cpu_us(self) -> float:
        return sum(self.cpu_us.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRun:
    """Calls at saturation with one sink of the record; CPU in microseconds per call."""

    sink: str
    connections: int
    outcome: Outcome
    cpu_us: dict[str, float]

    @property
    def total_cpu_us(self) -> float:
        return sum(self.cpu_us.values())

    def beside(self, other: AuditRun) -> str:
        """How much more it takes."""
        more = 100 * (self.total_cpu_us / other.total_cpu_us - 1)
        return f"{more:+.1f} % CPU, {self.outcome.p50_ms - other.outcome.p50_ms:+.2f} ms p50"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRun:
    """Edits of one registry: from the request to the first call that Envoy served by the new configuration."""

    servers: int
    edits: int
    p50_ms: float
    p95_ms: float
    failed_calls: int
    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Start and memory. `first_seconds`: an empty data directory; `again_seconds`: the second start."""

    first_seconds: float
    again_seconds: float
    memory_mb: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRun:
    """Pages of a long, filtered list, in milliseconds. `first`: a caller's first page after a change of policies."""

    tools: int
    listed: int
    page_bytes: int
    first_p50_ms: float
    page_p50_ms: float
    page_p95_ms: float
    page_cpu_ms: float

    def text(self) -> str:
        """One sentence after the other."""
        return (
            f"{self.tools} tools, of which a caller sees up to {self.listed}, in pages of up to {self.page_bytes / 1024:.0f} KiB. "
            f"A caller's first page after a change of policies: p50 {self.first_p50_ms:.1f} ms. Every other page: "
            f"p50 {self.page_p50_ms:.1f} ms, p95 {self.page_p95_ms:.1f} ms. CPU of a page, client included: {self.page_cpu_ms:.1f} ms."
        )


@dataclass(kw_only=True)
class Report:
    """Everything of one run."""

    commit: str
    machine: str
    measured_at: str
    idle: Idle | None = None
    calls: list[CallRun] = field(default_factory=list)
    edits: list[EditRun] = field(default_factory=list)
    lists: ListRun | None = None
    audit: list[AuditRun] = field(default_factory=list)

    def text(self) -> str:
        """Markdown."""
        parts = [
            "# Results",
            f"`make bench` at commit `{self.commit}` on {self.measured_at}; {self.machine}.",
            "Numbers of one run; CPU per call is the steadiest of them.",
            *self._calls(),
            *self._audit(),
            *self._edits(),
            *(["", "## Lists", self.lists.text()] if self.lists is not None else []),
            *self._idle(),
        ]
        return "\n".join(parts) + "\n"

    def _calls(self) -> list[str]:
        if not self.calls:
            return []
        roles = sorted({role for run in self.calls for role in run.cpu_us})
        lines = ["", "## Calls", "CPU in microseconds per call, all threads; latency in milliseconds.", ""]
        lines.append(
            "| target | load | calls/s | p50 | p99 | failed | " + " | ".join(f"{role} CPU" for role in roles) + " | CPU in all | ratio |"
        )
        lines.append("|---|---|---|---|---|---|" + "---|" * (len(roles) + 2))
        plain = {run.shape: run.total_cpu_us for run in self.calls if run.target == "plain Envoy"}
        for run in self.calls:
            outcome = run.outcome
            costs = " | ".join(f"{run.cpu_us[role]:.0f}" if role in run.cpu_us else "" for role in roles)
            ratio = run.total_cpu_us / plain[run.shape] if plain.get(run.shape) else float("nan")
            lines.append(
                f"| {run.target} | {run.shape} | {outcome.calls / outcome.seconds:.0f} | {outcome.p50_ms:.2f} | {outcome.p99_ms:.2f} "
                f"| {outcome.failed} | {costs} | {run.total_cpu_us:.0f} | {ratio:.1f} |"
            )
        return lines

    def _audit(self) -> list[str]:
        if not self.audit:
            return []
        roles = sorted({role for run in self.audit for role in run.cpu_us})
        lines = [
            "",
            "## The record",
            "As fast as so many connections can ask; all deployments are up and loaded in turns; CPU in microseconds per call.",
            "",
        ]
        lines.append(
            "| connections | sink | calls | calls/s | p50 | p99 | failed | " + " | ".join(f"{role} CPU" for role in roles)
            + " | CPU in all | beside no record | beside the null sink |"
        )  # fmt: skip
        lines.append("|---|---|---|---|---|---|---|" + "---|" * (len(roles) + 3))
        of = {(run.connections, run.sink): run for run in self.audit}
        for run in self.audit:
            outcome = run.outcome
            costs = " | ".join(f"{run.cpu_us.get(role, 0):.0f}" for role in roles)
            beside = " | ".join(run.beside(of[run.connections, other]) for other in ("no record", "null sink"))
            lines.append(
                f"| {run.connections} | {run.sink} | {outcome.calls} | {outcome.calls_per_second:.0f} | {outcome.p50_ms:.2f} "
                f"| {outcome.p99_ms:.2f} | {outcome.failed} | {costs} | {run.total_cpu_us:.0f} | {beside} |"
            )
        return lines

    def _edits(self) -> list[str]:
        if not self.edits:
            return []
        lines = [
            "",
            "## Edit to live",
            "From the request that changes an address to the first call that the new address answered; an edit every 0.3 s.",
            "",
        ]
        lines.append("| servers | edits | p50 ms | p95 ms | failed calls | applying all of them, s |")
        lines.append("|---|---|---|---|---|---|")
        lines.extend(
            f"| {run.servers} | {run.edits} | {run.p50_ms:.1f} | {run.p95_ms:.1f} | {run.failed_calls} | {run.load_seconds:.1f} |"
            for run in self.edits
        )
        return lines

    def _idle(self) -> list[str]:
        if self.idle is None:
            return []
        lines = ["", "## Start and memory", ""]
        first, again = self.idle.first_seconds, self.idle.again_seconds
        lines.append(f"Ready {first:.1f} s after `legation up` in an empty directory, {again:.1f} s the next time.")
        lines.append("Proportional set size, idle, in MB: " + ", ".join(f"{role} {mb:.0f}" for role, mb in self.idle.memory_mb.items()))
        lines.append(f"In all: {sum(self.idle.memory_mb.values()):.0f} MB.")
        return lines
