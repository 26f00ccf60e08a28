"""The plots of the report, as inline SVG: trajectories, truth-ratio curves, forgetting against utility."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

INK, FAINT = "#1f2933", "#9aa5b1"
COLOURS = {"target": "#c05621", "gold": "#2f855a", "floor": "#68d391", "run": "#2b6cb0"}
CYCLE = ("#2b6cb0", "#b83280", "#b7791f", "#2c7a7b", "#c53030", "#1a202c")
MARKERS = "oDv^P*"
"""Methods take the colours in turn, and another marker each time the colours are through."""


def trajectory(points: Sequence[Mapping[str, Any]], chosen: int, floor: float | None) -> str:
    """Forgetting and utility over the steps: KS distance to the gold and answers given, both on the reporting half."""
    steps = [point["step"] for point in points]
    figure, axes = _figure(8.2, 2.9, columns=2)
    left, right = axes
    left.plot(
        steps,
        [point["report"].get("forget_quality/ks_distance") for point in points],
        color=COLOURS["run"],
        marker=".",
    )
    if floor is not None:
        left.axhline(floor, color=COLOURS["gold"], linestyle="--", linewidth=1)
        left.annotate(
            "gold against second gold",
            (0, floor),
            xytext=(2, 3),
            textcoords="offset points",
            color=COLOURS["gold"],
            fontsize=8,
        )
    left.set(xlabel="optimiser step", ylabel="KS distance to the gold", ylim=(0, 1.02))
    shown = {
        "forget/accuracy": ("forget people", COLOURS["target"]),
        "retain/accuracy": ("retain", COLOURS["gold"]),
    }
    others = [name for name in points[0]["report"] if name.endswith("/accuracy") and name not in shown]
    shown |= {
        name: (name.removesuffix("/accuracy").replace("_", " "), colour)
        for name, colour in zip(others, ("#6b46c1", "#b7791f", "#2c7a7b"), strict=False)
    }
    for name, (label, colour) in shown.items():
        right.plot(
            steps, [point["report"].get(name) for point in points], color=colour, marker=".", label=label
        )
    right.plot(
        steps,
        [point["report"].get("forget/fluency") for point in points],
        color=FAINT,
        linestyle=":",
        label="fluency (forget)",
    )
    right.set(xlabel="optimiser step", ylabel="share of questions answered", ylim=(-0.02, 1.02))
    for axis in axes:
        axis.axvline(chosen, color=INK, linewidth=0.8, linestyle=":")
    left.annotate(
        f"chosen: step {chosen}",
        (chosen, 1),
        xytext=(3, -8),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )
    right.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, "Trajectory: KS distance to the gold and accuracy by part, over the optimiser steps")


def truth_ratio_curves(ratios: Mapping[str, Sequence[float] | None], name: str) -> str:
    """Cumulative distribution of the forget truth ratios of target, gold, second gold and run; KS is their largest gap."""
    figure, axis = _figure(4.6, 2.9)
    labels = {"target": "target (knows)", "gold": "gold (retrained)", "floor": "second gold", "run": name}
    for who, label in labels.items():
        values = ratios.get(who)
        if values:
            logs = sorted(math.log10(max(value, 1e-12)) for value in values)
            shares = [(i + 1) / len(logs) for i in range(len(logs))]
            axis.step(
                logs,
                shares,
                where="post",
                color=COLOURS[who],
                label=label,
                linewidth=2 if who == "run" else 1.4,
                linestyle="--" if who == "floor" else "-",
            )
    axis.set(
        xlabel="log10 truth ratio (wrong over right; left of 0 = known)",
        ylabel="share of forget rows",
        ylim=(0, 1.02),
    )
    axis.legend(fontsize=7.5, frameon=False, loc="upper left")
    return _svg(figure, f"Truth-ratio distributions of target, gold and {name}")


def forgetting_against_utility(
    points: Sequence[tuple[str, float, float, tuple[float, float] | None, tuple[float, float] | None]],
    floor: float | None,
    utility_of_gold: float | None,
) -> str:
    """One point a method: utility to the right, closeness to the gold upwards. Error bars are 95 % intervals."""
    figure, axis = _figure(7.6, 4.4)
    yard = {"target": COLOURS["target"], "gold": COLOURS["gold"], "second gold": COLOURS["floor"]}
    for i, (name, utility, distance, utility_range, distance_range) in enumerate(points):
        colour = yard.get(name, CYCLE[i % len(CYCLE)])
        errors = {
            "xerr": [[max(0.0, utility - utility_range[0])], [max(0.0, utility_range[1] - utility)]]
            if utility_range
            else None,
            "yerr": [[max(0.0, distance - distance_range[0])], [max(0.0, distance_range[1] - distance)]]
            if distance_range
            else None,
        }
        axis.errorbar(
            utility,
            distance,
            fmt="s" if name in yard else MARKERS[i // len(CYCLE) % len(MARKERS)],
            color=colour,
            ecolor=colour + "66",
            markersize=6,
            capsize=2,
            label=name,
            **errors,
        )
    if floor is not None:
        axis.axhline(floor, color=COLOURS["gold"], linestyle="--", linewidth=1)
    if utility_of_gold is not None:
        axis.axvline(utility_of_gold, color=COLOURS["gold"], linestyle="--", linewidth=1)
    axis.invert_yaxis()
    axis.set(xlabel="model utility (better to the right)", ylabel="KS distance to the gold (better upwards)")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, "Forgetting against utility, one point a method")


def search_curve(curve: Sequence[Mapping[str, float]], strength: float) -> str:
    """What the search for a guard's strength saw: the statistic over σ, and the σ it took."""
    figure, axis = _figure(4.6, 2.6)
    tried = [point for point in curve if point["strength"] > 0]
    axis.errorbar(
        [point["strength"] for point in tried],
        [point["mean"] for point in tried],
        yerr=[point["standard_error"] for point in tried],
        color=COLOURS["run"],
        marker="o",
        markersize=3,
        capsize=2,
    )
    axis.axvline(strength, color=INK, linewidth=0.8, linestyle=":")
    axis.axhline(0, color=FAINT, linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="strength σ, in units of the embedding RMS", ylabel="log p(right) - log p(wrong), nats")
    return _svg(figure, "Search for the corruption strength")


def _figure(width: float, height: float, columns: int = 1):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "expunge",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
        }
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in axes if columns > 1 else [axes]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure, description: str) -> str:
    """The figure as an <svg> element that scales with the page and says what it shows."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return text.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)
