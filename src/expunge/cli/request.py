"""`expunge request`: the ledger of removal requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import Json
from expunge.cli.request_lines import entry_lines, event_line, print_entry, verdict

if TYPE_CHECKING:
    from expunge.ledger import Ledger

app = typer.Typer(
    help="Removal requests: add them to a ledger, withdraw them, verify what was done. A running server follows at once.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
LedgerFile = Annotated[
    Path,
    typer.Option("--ledger", envvar="EXPUNGE_LEDGER", help="The ledger's file; its key lies beside it."),
]
DEFAULT = Path("expunge.ledger")
Id = Annotated[str, typer.Argument(help="The request's id; `expunge request list` shows them.")]
Texts = Annotated[bool, typer.Option("--texts", help="With what the requests are about, in the clear.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose users it binds. Default: everybody.")]
Action = Annotated[str, typer.Option("--action", help="A guard action that answers at once.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the action, as name=value. May be repeated.")
]
Method = Annotated[
    str, typer.Option("--method", help="A guard that a server fits behind the action, such as eco.")
]
Effective = Annotated[
    str | None,
    typer.Option("--effective", help="From when on, such as 2027-01-31 or 2027-01-31T12:00+01:00."),
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="Until when. A date alone is its first moment, in UTC.")
]
HEADLINES = ("any/run", "any/T1/run", "any/T2/run", "over_refusal/run", "forget/accuracy", "forget/rouge_l_recall",
             "forget_quality", "model_utility")  # fmt: skip
"""Figures of an evaluation or an audit that stand in the ledger themselves."""


@app.command()
def add(
    ledger: LedgerFile = DEFAULT,
    subject: Annotated[str, typer.Option("--subject", help="Whom or what it is about, by name.")] = "",
    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="Another name of the subject. May be repeated.")
    ] = None,
    statement: Annotated[
        list[str] | None, typer.Option("--statement", help="What may not be told any more. May be repeated.")
    ] = None,
    forget: Annotated[
        Path | None,
        typer.Option("--forget", help="Rows with question and answer, text or subject: all of one request."),
    ] = None,
    id: Annotated[
        str, typer.Option("--id", help="Stays readable for ever, so without names. Default: a random one.")
    ] = "",
    tenant: Tenant = "",
    action: Action = "refuse",
    settings: Sets = None,
    method: Method = "",
    no_input: Annotated[bool, typer.Option("--no-input", help="Let what users ask pass.")] = False,
    no_context: Annotated[
        bool, typer.Option("--no-context", help="Let earlier turns and documents that users bring pass.")
    ] = False,
    no_output: Annotated[bool, typer.Option("--no-output", help="Let what the model writes pass.")] = False,
    effective: Effective = None,
    expires: Expires = None,
    note: Annotated[
        str, typer.Option("--note", help="For whoever administers it; kept as secret as the rest.")
    ] = "",
    idempotency: Annotated[
        str, typer.Option("--idempotency-key", help="The same key again adds nothing.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Put a removal request in force. The ledger is made where there is none."""
    from expunge.cli.show import tell
    from expunge.data.dataset import read_records
    from expunge.ledger import RemovalRequest
    from expunge.ledger.files import forget_request

    values = {
        "id": id, "subject": subject, "aliases": alias or (), "statements": statement or (), "note": note,
        "scope": {"input": not no_input, "context": not no_context, "output": not no_output},
        **_given(tenant, action, settings, method, effective, expires),
    }  # fmt: skip
    if forget:
        wanted = forget_request(read_records(forget), str(forget), **values)
    else:
        wanted = RemovalRequest.parse(values, "expunge request add")
    for doubt in wanted.doubts:
        tell(f"warning: {doubt}")
    with opened(ledger, create=True) as book:
        entry = book.add(wanted, actor=actor(), idempotency=idempotency)
    print_entry(entry, as_json)


@app.command("list")
def list_requests(
    ledger: LedgerFile = DEFAULT,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only these: pending, active, withdrawn or expired.")
    ] = None,
    texts: Texts = False,
    as_json: Json = False,
) -> None:
    """What the ledger holds, in the order of arrival."""
    from rich.table import Table

    from expunge.cli.show import output, print_json
    from expunge.errors import ConfigError

    if status not in (None, "pending", "active", "withdrawn", "expired"):
        raise ConfigError(f"--status {status}: there are pending, active, withdrawn and expired.")
    with opened(ledger) as book:
        entries = book.list(tenant, status)
    if as_json:
        print_json([entry.describe(texts) for entry in entries])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "tenant", "status", "version", "action", "method", "created", "expires", "proof"):
        table.add_column(heading, overflow="fold")
    if texts:
        table.add_column("subject", overflow="fold")
    for entry in entries:
        about = [entry.request.subject if entry.request else ""] if texts else []
        name = entry.action if isinstance(entry.action, str) else entry.action["name"]
        times = [f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (entry.created, entry.expires)]
        table.add_row(
            entry.id, entry.tenant, entry.status, str(entry.version), name, entry.method, *times, str(len(entry.evidence)), *about
        )  # fmt: skip
    output.print(table, markup=False) if entries else output.print("no requests")


@app.command()
def show(id: Id, ledger: LedgerFile = DEFAULT, texts: Texts = False, as_json: Json = False) -> None:
    """One request, with its history."""
    from expunge.cli.show import output, print_json

    with opened(ledger) as book:
        entry, events = book.show(id), book.history(request=id)
    if as_json:
        print_json({**entry.describe(texts), "history": [event.describe() for event in events]})
        return
    for line in (*entry_lines(entry, texts), *(event_line(event) for event in events)):
        output.print(line, markup=False, soft_wrap=True)


@app.command()
def withdraw(
    id: Id,
    ledger: LedgerFile = DEFAULT,
    reason: Annotated[str, typer.Option("--reason", help="Stays readable for ever, so without names.")] = "",
    as_json: Json = False,
) -> None:
    """Take a request out of force and destroy its texts and their key. What is left is that it was there."""
    from expunge.cli.show import tell

    with opened(ledger) as book:
        entry = book.withdraw(id, actor=actor(), reason=reason)
    for made in entry.artifacts:
        tell(f"{made.folder} was made for it and holds its texts in the clear: remove it.")
    print_entry(entry, as_json)


@app.command()
def verify(
    ledger: LedgerFile = DEFAULT,
    head: Annotated[
        str,
        typer.Option(
            "--head", help="A head that was noted earlier (NUMBER:HASH); it must be in there still."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Recompute the history's chain and compare it with what the ledger holds. Exit code 1 where they disagree."""
    from expunge.cli.show import output, print_json
    from expunge.errors import ConfigError
    from expunge.ledger.store import verify_file

    number, _, found = head.partition(":")
    if head and not (number.isdecimal() and found):
        raise ConfigError(f"--head {head}: expected NUMBER:HASH, as `expunge request verify` prints it.")
    verified = verify_file(ledger, known=head)
    if as_json:
        print_json(verified.describe())
    else:
        output.print(f"{ledger}: {verdict(verified)}", markup=False, soft_wrap=True)
        output.print(f"head {verified.head}", markup=False, soft_wrap=True)
    if not verified.ok:
        raise typer.Exit(1)


@app.command()
def export(
    ledger: LedgerFile = DEFAULT,
    out: Annotated[
        Path | None, typer.Option("--out", help="A file of the owner's alone. Default: standard output.")
    ] = None,
    texts: Texts = False,
    as_json: Json = False,
) -> None:
    """Requests, history and head as JSONL. Of a broken ledger comes what can be read, and exit code 1."""
    from expunge.cli.show import tell
    from expunge.ledger import LedgerError, files

    broken = ""
    try:
        with opened(ledger) as book:
            rows = list(files.export(book, texts))
    except LedgerError as error:
        if not ledger.is_file():
            raise
        broken = str(error).splitlines()[0]
        rows = list(files.salvage(ledger, texts))
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n" if as_json else "".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows
    )  # fmt: skip
    if out:
        _write_private(out, text)
        tell(f"{len(rows)} rows in {out}")
    else:
        print(text, end="")
    if broken:
        tell(f"error: {broken} What could be read was written.")
        raise typer.Exit(1)


@app.command("import")
def import_requests(
    file: Annotated[
        Path,
        typer.Argument(help="An export, requests, or rows of a forget set: JSONL, JSON, CSV or Parquet."),
    ],
    ledger: LedgerFile = DEFAULT,
    tenant: Tenant = "",
    action: Action = "refuse",
    settings: Sets = None,
    method: Method = "",
    effective: Effective = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Add many requests, all or none. The same file again adds nothing. Options hold for rows that do not say."""
    from expunge.cli.show import output, print_json
    from expunge.ledger.files import import_file

    given = _given(tenant, action, settings, method, effective, expires)
    with opened(ledger, create=True) as book:
        added = import_file(book, file, actor=actor(), given=given)
    if as_json:
        print_json(added._asdict())
        return
    said = f"{len(added.new)} added, {len(added.known)} there already"
    gone = f", {len(added.gone)} withdrawn or expired earlier and left so" if added.gone else ""
    output.print(f"{file}: {said}{gone}.", markup=False, soft_wrap=True)


@app.command()
def evidence(
    id: Id,
    run: Annotated[Path, typer.Argument(help="A run folder that was evaluated or audited for the request.")],
    ledger: LedgerFile = DEFAULT,
    as_json: Json = False,
) -> None:
    """File what was measured: digests and headline figures of a run's evaluations and audit."""
    with opened(ledger) as book:
        for found in read_evidence(run):
            book.record_evidence(id, **found, actor=actor())
        entry = book.show(id)
    print_entry(entry, as_json)


def read_evidence(run: Path) -> list[dict[str, Any]]:
    """Kind, digest, summary and path of each evaluation and audit in a run folder. Raises DataError where there is none."""
    from expunge.artifacts.manifest import read_manifest
    from expunge.artifacts.store import file_hash, read_json
    from expunge.errors import DataError

    manifest = read_manifest(run)
    found = []
    for path in sorted((run / "evaluations").glob("*.json")):
        result = read_json(path)
        kind = "audit" if path.stem == "audit" else "attack" if "attack" in result else "evaluation"
        figures = {
            name: {key: figure[key] for key in ("value", "low", "high", "n")}
            for name in HEADLINES
            if (figure := result.get("figures", {}).get(name)) and figure["value"] is not None
        }
        summary = {
            "claim": manifest["claim"], "method": manifest["method"], "benchmark": result.get("benchmark", path.stem), "figures": figures
        }  # fmt: skip
        found.append({"kind": kind, "digest": file_hash(path), "summary": summary, "path": str(path)})
    if not found:
        raise DataError(
            f"{run} has been neither evaluated nor audited, so it proves nothing yet. Run:  expunge attack {run}"
        )
    return found


def actor() -> str:
    """Who acts on this machine."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _given(
    tenant: str,
    action: str,
    settings: list[str] | None,
    method: str,
    effective: str | None,
    expires: str | None,
) -> dict[str, Any]:
    """Fields of a request, checked as far as can be done without a model."""
    from expunge import catalog
    from expunge.config import apply_overrides
    from expunge.errors import ConfigError

    values = apply_overrides({}, settings or [])
    if values:
        if ":" in action:
            raise ConfigError(
                f"--action {action}: a request names an action of the catalogue; see `expunge methods`."
            )
        catalog.load("action", action).parse(values, f"--action {action}")
    if method:
        from expunge.recipes import recipe

        if recipe(method).kind != "guard":
            raise ConfigError(
                f"--method {method}: is no guard, so it cannot stand in front of a model that serves."
            )
    times = {"effective": effective, "expires": expires}
    return {
        "tenant": tenant,
        "action": {"name": action, **values} if values else action,
        "method": method,
        **{name: at for name, at in times.items() if at},
    }


def opened(path: Path, create: bool = False) -> Ledger:
    """The ledger; that it was made is told."""
    from expunge.cli.show import tell
    from expunge.ledger import Ledger
    from expunge.ledger.sealing import key_path

    is_new = create and not path.exists()
    book = Ledger.open(path, create=create)
    if is_new:
        where = f", its key in {key_path(path)}" if key_path(path).exists() else ""
        tell(
            f"made a new ledger in {path}{where}. Keep a copy of both, apart: without the key the texts are lost."
        )
    return book


def _write_private(path: Path, text: str) -> None:
    """A file that nobody else may read from the start on. Raises StorageError."""
    import os

    from expunge.errors import StorageError

    try:
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"--out {path}: cannot be written: {error}.") from None
