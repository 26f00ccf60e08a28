"""How much one key may ask: requests and tokens a minute, and answers at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from expunge.serve.auth import Access
from expunge.serve.settings import ServeSettings
from expunge.serve.wire_errors import ApiError


class Bucket:
    """Fills up steadily to a minute's worth."""

    def __init__(self, a_minute: int, now: float):
        self.a_minute, self._level, self._at = a_minute, float(a_minute), now

    def fill(self, now: float) -> None:
        self._level = min(float(self.a_minute), self._level + max(0.0, now - self._at) * self.a_minute / 60.0)
        self._at = now

    def wait(self, amount: float) -> float:
        """Seconds until so much is there; 0 where it is. More than a minute's worth never is."""
        if amount > self.a_minute:
            return math.inf
        return max(0.0, amount - self._level) * 60.0 / self.a_minute

    def take(self, amount: float) -> None:
        """A negative amount is given back."""
        self._level = min(float(self.a_minute), self._level - amount)

    @property
    def left(self) -> int:
        return max(0, math.floor(self._level))

    @property
    def full_in(self) -> float:
        """Seconds."""
        return (self.a_minute - self._level) * 60.0 / self.a_minute


class _Account:
    def __init__(self, requests: int, tokens: int, now: float):
        self.requests, self.tokens = Bucket(requests, now), Bucket(tokens, now)
        self.running = 0


class Reservation:
    """What one answer took out; the tokens that it did not use are given back."""

    def __init__(self, limits: Limits, account: _Account, tokens: int):
        self._limits, self._account, self._reserved = limits, account, tokens
        self.headers = limits.headers(account)
        self._settled = False

    def settle(self, tokens: int) -> None:
        """Once; what comes after does nothing."""
        with self._limits.lock:
            if not self._settled:
                self._settled = True
                self._account.running -= 1
                self._account.tokens.take(tokens - self._reserved)


class Limits:
    """Safe to use from several threads."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float] = time.monotonic):
        self._settings, self._clock = settings, clock
        self._accounts: dict[str, _Account] = {}
        self.lock = threading.Lock()

    def reserve(self, access: Access, tokens: int) -> Reservation:
        """For an answer of so many tokens, prompt included. Raises ApiError (429) with the seconds to wait."""
        with self.lock:
            account = self._account(access)
            now = self._clock()
            for what, bucket, amount in (
                ("requests", account.requests, 1),
                ("tokens", account.tokens, tokens),
            ):
                bucket.fill(now)
                if seconds := bucket.wait(amount):
                    raise self._over(account, what, bucket, amount, seconds)
            if account.running >= self._settings.per_key:
                raise ApiError(
                    429,
                    f"{account.running} answers are under way for this key, as many as it may have at once.",
                    "too_many_at_once",
                    headers={"Retry-After": "1", **self.headers(account)},
                )
            account.requests.take(1)
            account.tokens.take(tokens)
            account.running += 1
            return Reservation(self, account, tokens)

    def _account(self, access: Access) -> _Account:
        account = self._accounts.get(access.id)
        if account is None:
            requests = access.rpm or self._settings.requests_per_minute
            tokens = access.tpm or self._settings.tokens_per_minute
            account = self._accounts[access.id] = _Account(requests, tokens, self._clock())
        return account

    def _over(self, account: _Account, what: str, bucket: Bucket, amount: float, seconds: float) -> ApiError:
        if seconds == math.inf:
            return ApiError(
                429,
                f"This would take {amount:.0f} tokens, and the key has {bucket.a_minute} a minute. Ask for fewer with max_tokens.",
                "rate_limit_exceeded",
                headers=self.headers(account),
            )
        return ApiError(
            429,
            f"The key's {bucket.a_minute} {what} a minute are used up. Try again in {math.ceil(seconds)} s.",
            "rate_limit_exceeded",
            headers={"Retry-After": str(math.ceil(seconds)), **self.headers(account)},
        )

    @staticmethod
    def headers(account: _Account) -> dict[str, str]:
        found = {}
        for what, bucket in (("requests", account.requests), ("tokens", account.tokens)):
            found[f"x-ratelimit-limit-{what}"] = str(bucket.a_minute)
            found[f"x-ratelimit-remaining-{what}"] = str(bucket.left)
            found[f"x-ratelimit-reset-{what}"] = f"{bucket.full_in:.3f}s"
        return found
