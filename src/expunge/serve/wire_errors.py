"""Errors as OpenAI's clients know them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
"""An error's type by its status; the rest of 4xx is the client's mistake, of 5xx ours."""


class ApiError(Exception):
    """What a client is told instead of an answer. The message never holds a prompt."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def describe(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(message: str, code: str = "overloaded", seconds: float = 1.0) -> ApiError:
    return ApiError(503, message, code, headers={"Retry-After": str(max(1, round(seconds)))})


def guard_unavailable() -> ApiError:
    """A detector, the watch or the ledger broke: nothing is answered, and least of all without the guard."""
    return busy("The guard cannot decide now, so there is no answer.", "guard_unavailable", 5)


def trace(error: BaseException) -> str:
    """What broke and where, for the log: without its message, which may hold a prompt."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip()
