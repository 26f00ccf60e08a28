"""What was measured for a request: the evaluations and the audit of a run folder, or one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HEADLINES = ("any/run", "any/T1/run", "any/T2/run", "over_refusal/run", "forget/accuracy", "forget/rouge_l_recall",
             "forget_quality", "model_utility")  # fmt: skip
"""Figures of an evaluation or an audit that stand in the ledger themselves."""
SERVED = "A server is attacked with:  EXPUNGE_API_KEY=KEY expunge attack http://HOST:PORT/v1#MODEL --forget ROWS --retain ROWS --target MODEL --out report.json"


def read_evidence(place: Path) -> list[dict[str, Any]]:
    """Kind, digest, summary and path of each evaluation and audit in a run folder, or of one report. Raises DataError where there is none."""
    from expunge.artifacts.manifest import read_manifest
    from expunge.errors import DataError

    if place.is_file():
        return [_read(place, {})]
    if not (place / "manifest.json").is_file():
        what = "is neither a run folder nor a report" if place.exists() else "no such run folder or report"
        raise DataError(f"{place}: {what}. Give a run that was audited, or a report.\n{SERVED}")
    manifest = read_manifest(place)
    found = [
        _read(path, {"claim": manifest["claim"], "method": manifest["method"]})
        for path in sorted((place / "evaluations").glob("*.json"))
    ]
    if not found:
        raise DataError(
            f"{place} has been neither evaluated nor audited, so it proves nothing yet. Run:  expunge attack {place}"
        )
    return found


def _read(path: Path, of_run: dict[str, Any]) -> dict[str, Any]:
    """Raises DataError for a file that no evaluation and no audit has written."""
    from expunge.artifacts.store import file_hash, read_json
    from expunge.errors import DataError

    unfit = f"{path}: is no report of `expunge attack` or `expunge evaluate`. Give the .json file that --out has written.\n{SERVED}"
    try:
        result = read_json(path)
        subject, figures = result.get("subject", {}), result.get("figures", {})
        shown = {
            name: {key: figure[key] for key in ("value", "low", "high", "n")}
            for name in HEADLINES
            if (figure := figures.get(name)) and figure["value"] is not None
        }
        about = of_run or {"claim": subject.get("claim") or "", "subject": subject["name"]}
    except (ValueError, OSError, AttributeError, KeyError, TypeError):  # whatever else it is
        raise DataError(unfit) from None
    kind = (
        "audit"
        if "attacks" in result or path.stem == "audit"
        else "attack"
        if "attack" in result
        else "evaluation"
    )
    summary = {**about, "benchmark": result.get("benchmark", path.stem), "figures": shown}
    return {"kind": kind, "digest": file_hash(path), "summary": summary, "path": str(path)}
