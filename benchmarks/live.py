"""Peak memory of a piece of work, counted by the allocator's own events: tensors and the kernels' scratch, nothing of Python's."""

import os
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is imported

from torch.profiler import ProfilerActivity, profile


def live_bytes(work: Callable[[], object]) -> tuple[int, int]:
    """Peak, and what is left while the result is held, both beyond what was there before. For work on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        held = work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del held
    return peak, live
