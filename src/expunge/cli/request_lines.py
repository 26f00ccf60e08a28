"""A removal request, an event and a verification as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expunge.cli.request_options import printable

if TYPE_CHECKING:
    from expunge.ledger import Entry, Event, RemovalRequest, Verification


def print_entry(entry: Entry, as_json: bool) -> None:
    from expunge.cli.show import output, print_json

    if as_json:
        print_json(entry.describe())
        return
    for line in entry_lines(entry, texts=False):
        output.print(line, markup=False, soft_wrap=True)


def entry_lines(entry: Entry, texts: bool) -> list[str]:
    whose = f" for tenant {entry.tenant}" if entry.tenant else " for everybody"
    until = f" until {entry.expires:%Y-%m-%d %H:%M} UTC" if entry.expires else ""
    since = f" from {entry.effective:%Y-%m-%d %H:%M} UTC" if entry.status == "pending" else ""
    lines = [f"{entry.id}: {entry.status}, version {entry.version}, epoch {entry.epoch}{whose}{since}{until}"]
    request = entry.request
    name = entry.action if isinstance(entry.action, str) else entry.action["name"]
    if request is None:
        lines.append("Its texts and their key are destroyed.")
    else:
        scope = [part for part in ("input", "context", "output") if getattr(entry.scope, part)]
        behind = f", then {entry.method}" if entry.method else ""
        lines.append(f"Claim: suppression. {name} at once{behind}; holds for {', '.join(scope)}.")
        lines += (
            [printable(text) for text in _texts(request)]
            if texts
            else [f"Holds {_count(request)}. Shown with --texts."]
        )
    lines += [f"made: {made.recipe} in {made.folder} ({made.sha256[:16]})" for made in entry.artifacts]
    for found in entry.evidence:
        figures = found.summary.get("figures", {})
        told = ", ".join(f"{key} {figure['value']:.3f}" for key, figure in figures.items())
        lines.append(f"{found.kind}: {found.path} ({found.digest[:16]}){': ' * bool(told)}{told}")
    return lines


def _texts(request: RemovalRequest) -> list[str]:
    return [
        *(f"name: {name}" for name in request.names),
        *(f"statement: {text}" for text in request.statements),
        *(f"asked: {pair.question}  {pair.answer}" for pair in request.pairs),
        *([f"note: {request.note}"] if request.note else []),
    ]


def _count(request: RemovalRequest) -> str:
    counts = {"name": request.names, "statement": request.statements, "question": request.pairs}
    return ", ".join(f"{len(of)} {what}{'s' * (len(of) != 1)}" for what, of in counts.items() if of)


def event_line(event: Event) -> str:
    told = ", ".join(
        f"{key} {value}"
        for key, value in event.detail.items()
        if value not in ("", {}, []) and key != "summary"
    )
    line = f"{event.seq:6}  {event.at:%Y-%m-%d %H:%M:%S}  {event.event} by {event.actor or 'nobody'}{': ' * bool(told)}{told}"
    return printable(line)


def verdict(verified: Verification) -> str:
    if verified.ok:
        return f"holds. {verified.entries} rows{'; ' + verified.why if verified.why else ', all signed with the ledger’s key'}."
    where = f" First broken row: {verified.broken_at}." if verified.broken_at else ""
    return f"BROKEN: {verified.why}.{where}"
