"""Requests that come one after the other (O3's setting; Gao et al., 2024, arXiv:2407.10223).

    θ_k = U( θ_{k-1}, D_k ),   k = 1 ... K,      reference of request k = θ_{k-1} (now) or θ_0 (start)

The forget set is cut into K requests of whole groups, in their order, and the same recipe runs on each in turn. What a frozen
reference is after the first request is a choice that papers leave open, so it is a setting: `now` holds what earlier requests
left, `start` pulls towards the model that still knew them.
Needs: forget rows with a group or subject, so that requests can be told apart.
Differs from the paper: O3 adds one orthogonal adapter a request (+orthogonal) and mixes them by a detector; any recipe runs here.
Differs from the authors' code: O3's resumes from the adapter that it penalises the overlap with.
Fails when: later requests relearn what earlier ones took away: earlier rows are in nobody's retain set, so measure them all.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge.config import Settings
from expunge.errors import DataError
from expunge.types import Course, Stage


class Continual(Settings):
    claim: ClassVar = "approximate"
    forgets: ClassVar = True
    start: ClassVar = "target"

    requests: int = Field(3, ge=1)
    """K: how many requests the forget set is cut into."""
    reference: Literal["now", "start"] = "now"
    """Which model a frozen reference is: the one that the request before left, or the first one."""

    def stage(self, number: int, course: Course) -> Stage | None:
        groups = list(dict.fromkeys(record.group or record.id for record in course.forget))
        if len(groups) < self.requests:
            raise DataError(
                f"procedure.requests is {self.requests}, but the forget rows belong to {len(groups)} group{'s' * (len(groups) != 1)}.\n"
                "Ask for fewer requests, or say which rows belong together by a field 'group' or 'subject' in each."
            )
        if number == self.requests:
            return None
        bounds = [len(groups) * k // self.requests for k in (number, number + 1)]
        mine = set(groups[slice(*bounds)])
        rows = [record for record in course.forget if (record.group or record.id) in mine]
        return Stage(course.recipe, course.show(rows), f"request {number + 1}", self.reference)
