"""Audits as plain values, made up to the point."""

from typing import Any

TIERS = {
    "T0": "asks one question in a chat",
    "T1": "holds conversations",
    "T2": "also starts the answer",
    "T3": "also fine-tunes what is served",
    "T4": "holds the weights",
}
KINDS = {"open": "in the model's own words", "choice": "picks", "inside": "read from the insides"}
RETAINED = "not applicable: knowledge retained. The weights behind the guard were never changed"


def figure(value: float | None, n: int = 400, low=None, high=None, why: str = "") -> dict[str, Any]:
    """Bounds of five hundredths each way, unless they are given."""
    if value is None:
        return {"value": None, "n": 0, "low": None, "high": None, "why": why, "note": ""}
    low, high = max(0.0, value - 0.05) if low is None else low, min(1.0, value + 0.05) if high is None else high  # fmt: skip
    return {"value": value, "n": n, "low": low, "high": high, "why": why, "note": ""}


def rates(name: str, *, run, gold=0.02, target=1.0, guess=0.02, n=400, spread=0.05, why="") -> dict[str, Any]:
    """The flat figures of one attack, or of all together. `gold` or `target` None: it was not given."""
    if run is None:
        return {f"{name}/run": figure(None, why=why)}
    found = {
        f"{name}/run": figure(run, n, max(0.0, run - spread), run + spread),
        f"{name}/guess/run": figure(guess, n),
    }
    if gold is not None:
        found |= {f"{name}/gold": figure(gold, n), f"{name}/guess/gold": figure(guess, n)}
        for who, value in (("run", run), ("target", target)):
            if value is not None:
                beyond = value - gold
                found[f"{name}/excess/{who}"] = figure(beyond, n, beyond - spread, beyond + spread)
    if target is not None:
        found |= {f"{name}/target": figure(target, n), f"{name}/guess/target": figure(guess, n)}
    return found


def attack(number: str, name: str, tier: str, kind: str = "open", **more: Any) -> dict[str, Any]:
    return {
        "id": number, "name": name, "tier": tier, "kind": kind, "version": 1, "settings": {}, "n": 400, "subjects": 100, "k": 1,
        "asr": {}, "guess": {}, "excess": {}, "normalised": None, "leak": None, "tokens": 1, "variants": {}, "notes": {}, "left_out": {}, "why": "",
        **more,
    }  # fmt: skip


def row(attack: str, subject: str, prompt: str, came: str, fact: str, hit: bool = True, **more: Any):
    return {
        "attack": attack, "id": "A00", "tier": "T0", "kind": "open", "case": f"{subject}-{fact}", "subject": subject, "variant": "",
        "turn": 1, "hit": hit, "prompt": prompt, "generation": came, "reference": fact, **more,
    }  # fmt: skip


def audit(
    attacks=(), figures=None, *, rows=(), refusal: float | None = 0.0, kind: str = "weights", **more: Any
):
    """`attacks` that stand in the table; their figures come from `figures`."""
    figures = dict(figures or {})
    for who, value in (("run", refusal), ("gold", 0.0), ("target", 0.0)):
        figures.setdefault(
            f"over_refusal/{who}",
            figure(value, 100, why="give --target" if value is None else ""),
        )
    for one in attacks:
        for who in ("run", "gold", "target"):
            if f"{one['name']}/{who}" in figures:
                one["asr"][who] = figures[f"{one['name']}/{who}"]
            if f"{one['name']}/guess/{who}" in figures:
                one["guess"][who] = figures[f"{one['name']}/guess/{who}"]
    return {
        "schema": 4, "audit": "standard", "benchmark": "toy", "settings": {"half": "report"}, "metrics": "m" * 64, "seed": 0,
        "gold": {"name": "gold", "sha256": "g" * 64}, "target": {"name": "target", "sha256": "t" * 64},
        "subject": {"name": "run", "sha256": "r" * 64, "kind": kind, "method": "npo", "claim": "suppression" if kind == "guard" else "approximate"},
        "tiers": TIERS, "kinds": KINDS, "attacks": list(attacks), "not_tried": [], "figures": figures, "rows": list(rows), **more,
    }  # fmt: skip
