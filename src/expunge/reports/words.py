"""What the report says in words: verdicts that follow from figures, and limits that always stand."""

from __future__ import annotations

from typing import Any

from expunge.reports.view import RunView

ATTACKS = (
    (
        "any/T2",
        "black-box",
        "share of forget facts that at least one attack through the interface (T0 to T2) brings back in the model's own words (ASR_any)",
    ),
    (
        "any/T2/excess",
        "over gold",
        "black-box less what the same attacks bring out of the gold, fact by fact",
    ),
    ("prefill", "prefill", "share of forget facts that come back when the start of the answer is given"),
    (
        "relearning/excess",
        "relearned",
        "share of forget facts that come back after a few steps on other forgotten people, less what the gold relearns on the same rows",
    ),
    ("quantization", "quantized", "share of forget facts that come back when the weights are rounded"),
    (
        "over_refusal",
        "over-refused",
        "share of the neighbours' questions that the target answers and this does not; an attack that fails on a model that answers nothing shows nothing",
    ),
)
"""Columns of the table beside those of the benchmark, of an audit: figure, heading, meaning."""
LONGEST_SETTING = 40
"""Characters of a setting that is shown."""
MOST_NAMES = 12
"""Attacks that one sentence names."""


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a benchmark that a person reads: no hashes, and nothing that is not set."""
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, (str, int, float))
        and value is not False
        and name not in ("benchmark", "version", "most")
        and 0 < len(str(value)) < LONGEST_SETTING
    }


def limits(run: RunView) -> list[str]:
    """What must be said beside the figures of a run, in plain words."""
    manifest, evaluation = run.manifest, run.evaluation
    n = (run.figure("forget_quality/ks_distance") or {}).get("n", 0)
    said = []
    if run.is_guard:
        known = run.value("forget/accuracy", "target")
        said.append(
            "This guard suppresses; it erases nothing. The weights behind it are unchanged: "
            + (
                f"with the guard taken off they answer {known:.0%} of these forget questions. "
                if known is not None
                else ""
            )
            + "Whoever holds the weights, or can send embeddings of their own, is past it."
        )
        said.append(
            "The guard's file holds the target's names and what the detector learnt, so it is as private as the request itself."
        )
        if manifest.get("names_found_in_text"):
            said.append(
                f"No subject was given; these names were found in the text and are what is corrupted: {', '.join(manifest['names_found_in_text'])}."
            )
    elif manifest["claim"] == "approximate":
        said.append(
            "The weights were changed to answer as if the data had not been seen. Nothing proves that the knowledge is gone."
        )
    said += manifest.get("warnings", [])
    if manifest.get("level_reached") is False:
        wanted = {
            "level": "were right and wrong answers equally likely on the selection half",
            "gold": "did it know as little of the selection half as the retrained model",
        }[manifest["recipe"]["train"]["select"]]
        said.append(f"At no probed step {wanted}, so the last step was taken.")
    if evaluation["gold"] is None:
        said.append("No gold model was given, so forget quality is not known.")
    elif n:
        said.append(
            f"Forget quality compares {n} rows with {n}: distances below about {1.358 * (2 / n) ** 0.5:.2f} are not told from zero at the 5 % level, so a p above 0.05 is weak evidence."
        )
    said.append(attacks_said(run))
    plausible = run.value("forget/fluency")
    gold = run.value("forget/fluency", "gold")
    if plausible is not None and gold is not None and plausible < 0.5 * gold:
        said.append(
            f"The answers to forget questions are not what a model without the data would write (fluency {plausible:.2f}, the gold's own {gold:.2f}): a refusal or broken text, and either tells who was forgotten."
        )
    return said


def attacks_said(run: RunView) -> str:
    """Which attacks stand behind the figures, and which were not tried."""
    audit = run.audit
    if audit is None:
        return f"Attacks tried: none. `expunge attack {run.name}` tries to get the knowledge back."
    barred = [row["name"] for row in audit["attacks"] if row["name"] not in run.tried]
    missing = [row["name"] for row in audit["not_tried"]]
    differ = [
        key
        for key, value in run.evaluation["settings"].items()
        if key in audit["settings"] and audit["settings"][key] != value
    ]
    return (
        f"Attacks tried: {_names(run.tried)}."
        + (f" Without a figure: {_names(barred)}." if barred else "")
        + (f" Not tried: {_names(missing)}." if missing else "")
        + (
            f" The audit was made with another {', '.join(differ)} than the other figures here."
            if differ
            else ""
        )
    )


def _names(names: list[str]) -> str:
    """At most so many that a person reads them; the audit's page has all."""
    if not names:
        return "none"
    plain = [name.replace("_", " ") for name in names]
    rest = len(plain) - MOST_NAMES
    return ", ".join(plain[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def guard_verdicts(runs: list[RunView]) -> list[str]:
    """Whether corrupting embeddings is closer to the gold than the same detector with something simpler behind it."""
    said = []
    controls = [
        run
        for run in runs
        if run.is_guard and run.manifest["recipe"]["action"]["name"] in ("refuse", "neutral")
    ]
    for run in runs:
        if not run.is_guard or run in controls:
            continue
        for control in controls:
            name = control.manifest["recipe"]["action"]["name"]
            parts = []
            mine, theirs = (
                run.value("forget_quality/ks_distance"),
                control.value("forget_quality/ks_distance"),
            )
            if mine is not None and theirs is not None:
                parts.append(_closer("KS distance", mine, theirs))
            elif mine is not None:
                parts.append("a fixed text has no truth ratio, so KS distances do not compare")
            mine, theirs = run.behaviour_gap, control.behaviour_gap
            if mine is not None and theirs is not None:
                parts.append(_closer("behaviour (accuracy, ROUGE, fluency, prefill)", mine, theirs))
            said.append(f"{run.name} against the same detector with '{name}': {'; '.join(parts)}.")
    return said


def _closer(what: str, mine: float, theirs: float) -> str:
    verdict = "closer to the gold" if mine < theirs else "not closer to the gold"
    return f"{verdict} in {what} ({mine:.3f} against {theirs:.3f})"


def number(figure: dict | None, *, interval: bool = False) -> str:
    """A figure as text: a small p in powers of ten, everything else with three digits, or a dash."""
    if figure is None or figure["value"] is None:
        return "–"
    value = figure["value"]
    text = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"
    return (
        f"{text} [{figure['low']:.2f}, {figure['high']:.2f}]"
        if interval and figure["low"] is not None
        else text
    )


def calibration_sentence(calibration: dict[str, Any]) -> str:
    """What a guard's detector promises and on what it was counted, or that it promises nothing."""
    counts = []
    for what, rows, wrong in (("forget", "forget_rows", "missed"), ("retain", "retain_rows", "false_alarms")):
        if calibration[rows]:
            high = calibration["miss_interval" if what == "forget" else "false_alarm_interval"][1]
            counts.append(
                f"{wrong.replace('_', ' ')} {calibration[wrong]} of {calibration[rows]} {what} prompts (95 % up to {high:.3f})"
            )
    counted = ", ".join(counts) or "there were no prompts to count on"
    if calibration["alpha"] is None:
        return f"Detector: a fixed threshold, which promises no rate. On the prompts given: {counted}."
    broken = (
        ""
        if calibration["both_hold"]
        else " One threshold cannot keep both promises here: misses are held, false alarms are not."
    )
    return (
        f"Detector: promises a rate of {calibration['alpha']:g} for misses and for false alarms. On prompts that it was not trained on: "
        f"{counted}.{broken} The promise is for prompts like these, not for an attacker's."
    )
