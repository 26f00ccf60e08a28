"""What the server counts and remembers of its work: numbers and names of requests, never a text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from expunge.recipes import catalog_name

if TYPE_CHECKING:
    from expunge.guards.guard import Guard

GUARD_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
HELD_CHARACTERS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SCORES = (-10.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0, 5.0, 10.0)
FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Decided(NamedTuple):
    """One decision, as the console shows it."""

    number: int
    time: float
    """Unix time."""
    tenant: str
    requests: tuple[str, ...]
    stage: str
    """On the prompt ("input"), or on what the model wrote ("output")."""
    action: str
    """What was done; "pass": nothing."""
    ms: float
    epoch: int


class Telemetry:
    def __init__(self, kept: int = 1_000, clock: Callable[[], float] = time.time):
        self.registry = registry = CollectorRegistry()
        self._recent: deque[Decided] = deque(maxlen=kept)
        self._clock, self._number = clock, 0

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"expunge_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"expunge_{name}", what, registry=registry)

        self.http = counter("http_requests", "Answered HTTP requests.", "route", "code")
        self.decisions = counter(
            "decisions", "Decisions by where they fell and what was done.", "stage", "action"
        )
        self.guard_seconds = Histogram(
            "expunge_guard_seconds",
            "Time of a decision.",
            ["stage"],
            buckets=GUARD_SECONDS,
            registry=registry,
        )
        self.first_seconds = Histogram(
            "expunge_ttft_seconds",
            "From a request to the first text of its answer.",
            buckets=FIRST_SECONDS,
            registry=registry,
        )
        self.held = Histogram(
            "expunge_holdback_chars",
            "Characters of an answer held back after each piece of it.",
            buckets=HELD_CHARACTERS,
            registry=registry,
        )
        self.scores = Histogram(
            "expunge_detector_score",
            "Scores on which fitted guards decided.",
            ["method"],
            buckets=SCORES,
            registry=registry,
        )
        self.tokens = counter("tokens", "Tokens read and written.", "kind")
        self.limited = counter("rate_limited", "Requests refused for now.", "reason")
        self.guard_failures = counter(
            "guard_failures", "Decisions that a broken or late guard did not make; nothing was answered."
        )
        self.backend_errors = counter("upstream_errors", "Answers that the model failed to write.")
        self.gone = counter(
            "clients_gone", "Answers ended because the client left or took nothing of it.", "how"
        )
        self.fallbacks = counter(
            "action_fallbacks",
            "Requests whose action this server cannot carry out and that are refused instead.",
        )
        self.canary_leaks = counter("canary_leaks", "Probes of the canary that were not held back.")
        self.canary_checks = counter("canary_checks", "Checks that the guard is live.")
        self.running = gauge("answers_running", "Answers under way.")
        self.epoch = gauge("policy_epoch", "Ledger row up to which the policy is enforced.")
        self.lag = gauge(
            "policy_lag_seconds",
            "From the last change in the ledger to its enforcement here; nothing was decided in between.",
        )
        self.active = gauge("active_requests", "Removal requests in force.")
        self.ledger_seq = gauge("ledger_seq", "Rows in the ledger's history.")

    def decided(
        self, tenant: str, requests: tuple[str, ...], stage: str, action: str, seconds: float, epoch: int
    ) -> None:
        self.decisions.labels(stage, action).inc()
        self.guard_seconds.labels(stage).observe(seconds)
        self._number += 1
        self._recent.append(
            Decided(
                self._number, self._clock(), tenant, requests, stage, action, round(seconds * 1e3, 3), epoch
            )
        )

    def follow(self, guard: Guard) -> None:
        """Count the scores of a guard's detector from now on, by the detector's name."""
        scores = self.scores.labels(catalog_name(guard.detection.settings))

        def observe(found: np.ndarray) -> None:
            for score in found[np.isfinite(found)].tolist():
                scores.observe(score)

        guard.detection.listener = observe

    def recent(self, since: int = 0, limit: int | None = 100) -> list[dict[str, Any]]:
        """The newest decisions after number `since`, newest first."""
        newest = [found for found in reversed(list(self._recent)) if found.number > since]
        return [found._asdict() for found in newest[:limit]]

    def page(self) -> bytes:
        """For Prometheus."""
        return generate_latest(self.registry)
