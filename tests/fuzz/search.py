"""Make requests, ask everybody, compare; what disagrees is made small and kept.

`make fuzz SECONDS=600` (python -m tests.fuzz.search --seconds 600 --seed N): exits 1 when something was found.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.fuzz.judge import Passed, gate, judged
from tests.fuzz.readers import Readers
from tests.fuzz.requests import make_sent
from tests.fuzz.sent import Sent, corpus, keep

BATCH = 64
SMALLEST_STEPS = 400
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One disagreement."""

    sent: Sent
    reader: str
    told: str

    def __str__(self) -> str:
        return f"{self.reader}: {self.told}\n  {self.sent.method} {dict(self.sent.headers)}\n  {self.sent.body!r}"


@dataclass(slots=True)
class Tally:
    """What has been tried: requests, those that passed, and how many of them each reader executed."""

    sent: int = 0
    passed: int = 0
    executed: Counter[str] = field(default_factory=Counter)


def compare(readers: Readers, sents: Sequence[Sent], tally: Tally | None = None) -> Iterator[Found]:
    """Everything that any reader executes otherwise than the gate decided."""
    tally = tally if tally is not None else Tally()
    tally.sent += len(sents)
    passing: list[tuple[Sent, Passed]] = [(sent, passed) for sent in sents if (passed := gate(sent)) is not None]
    tally.passed += len(passing)
    # Streams and ends of sessions have no body to disagree on, and servers without sessions do not take them.
    passing = [pair for pair in passing if pair[0].method == "POST"]
    readings = readers.read([passed.upstream for _, passed in passing])
    for name, answers in readings.items():
        tally.executed[name] += sum(1 for executed in answers if executed)
    for index, reader, told in judged([passed for _, passed in passing], readings, readers.running):
        yield Found(sent=passing[index][0], reader=reader, told=told)


def smallest(readers: Readers, found: Found) -> Found:
    """The same kind of disagreement with fewer headers and bytes."""
    best, steps = found, 0
    size = max(len(found.sent.body) // 2, 1)
    while size >= 1 and steps < SMALLEST_STEPS:
        smaller = False
        for changed in _without_parts(best.sent, size):
            steps += 1
            again = next((each for each in compare(readers, [changed]) if each.reader == best.reader), None)
            if again is not None:
                best, smaller = again, True
                break
        if not smaller:
            size //= 2
    return best


def _without_parts(sent: Sent, size: int) -> Iterator[Sent]:
    for index in range(len(sent.headers)):
        yield Sent(method=sent.method, headers=sent.headers[:index] + sent.headers[index + 1 :], body=sent.body)
    for start in range(0, len(sent.body), size):
        yield Sent(method=sent.method, headers=sent.headers, body=sent.body[:start] + sent.body[start + size :])


def search(readers: Readers, rng: random.Random, until: Callable[[], bool], tell: Callable[[Tally, int], None]) -> list[Found]:
    """Search until told to stop; one finding of each kind is made small and written into the corpus."""
    tally, found = Tally(), dict[tuple[str, str], Found]()
    while not until():
        for each in compare(readers, [make_sent(rng) for _ in range(BATCH)], tally):
            kind = (each.reader, each.told.split(" ", 1)[0])
            if kind not in found:
                found[kind] = smallest(readers, each)
                file = keep(found[kind].sent, each.reader)
                print(f"\n{found[kind]}\n  kept as {file.name}", flush=True)
        tell(tally, len(found))
    return list(found.values())


def main() -> int:
    """The long run."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    started, told_at = time.monotonic(), [0.0]

    def tell(tally: Tally, found: int) -> None:
        now = time.monotonic() - started
        if now - told_at[0] < PROGRESS_SECONDS and now < arguments.seconds:
            return
        told_at[0] = now
        executed = ", ".join(f"{name} {count}" for name, count in sorted(tally.executed.items()))
        print(
            f"{now:5.0f} s  {tally.sent} requests, {tally.passed} passed; executed: {executed}; {found} kinds of disagreement", flush=True
        )

    with Readers() as readers:
        print(f"seed {seed}; readers: {', '.join(sorted(readers.running))}")
        for name, why in readers.missing.items():
            print(f"missing: {name} ({why})")
        replayed = [found for name, sent in corpus() for found in _replayed(readers, name, sent)]
        rng = random.Random(seed)
        found = search(readers, rng, lambda: time.monotonic() - started >= arguments.seconds, tell)
    return 1 if found or replayed else 0


def _replayed(readers: Readers, name: str, sent: Sent) -> Iterator[Found]:
    for found in compare(readers, [sent]):
        print(f"still in the corpus: {name}\n{found}")
        yield found


if __name__ == "__main__":
    sys.exit(main())
