"""`expunge request`: the ledger of removal requests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import Json
from expunge.cli.request_lines import entry_lines, event_line, print_entry, verdict
from expunge.cli.request_options import (
    DEFAULT,
    Action,
    Aliases,
    Context,
    Effective,
    Expires,
    Forget,
    Id,
    Input,
    LedgerFile,
    Method,
    Note,
    Output,
    Sets,
    Statements,
    Subject,
    Tenant,
    Texts,
    actor,
    given_fields,
    opened,
    printable,
    refuse_past,
)

if TYPE_CHECKING:
    from expunge.ledger import RemovalRequest

app = typer.Typer(
    help="Removal requests: add them to a ledger, withdraw them, verify what was done. A running server follows at once.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def add(
    ledger: LedgerFile = DEFAULT,
    subject: Subject = "",
    alias: Aliases = None,
    statement: Statements = None,
    forget: Forget = None,
    id: Annotated[
        str, typer.Option("--id", help="Stays readable for ever, so without names. Default: a random one.")
    ] = "",
    tenant: Tenant = "",
    action: Action = "refuse",
    settings: Sets = None,
    method: Method = "",
    input: Input = True,
    context: Context = True,
    output: Output = True,
    effective: Effective = None,
    expires: Expires = None,
    note: Note = "",
    idempotency: Annotated[
        str, typer.Option("--idempotency-key", help="The same key again adds nothing.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Put a removal request in force. The ledger is made where there is none."""
    from expunge.errors import ConfigError

    if not (subject.strip() or alias or statement or forget):
        raise ConfigError(
            "expunge request add: whom or what is it about? Give --subject NAME, --statement TEXT or --forget FILE."
        )
    values = {
        "id": id, "subject": subject, "aliases": alias or (), "statements": statement or (), "note": note,
        "scope": {"input": input, "context": context, "output": output},
        **given_fields(tenant, action, settings, method, effective, expires),
    }  # fmt: skip
    wanted = _wanted(values, forget, "expunge request add")
    if not ledger.exists():
        refuse_past([("expunge request add", wanted)])
    with opened(ledger, create=True) as book:
        entry = book.add(wanted, actor=actor(), idempotency=idempotency)
    print_entry(entry, as_json)


@app.command()
def change(
    typed: typer.Context,
    id: Id,
    ledger: LedgerFile = DEFAULT,
    subject: Subject = "",
    alias: Aliases = None,
    statement: Statements = None,
    forget: Forget = None,
    action: Action = "refuse",
    settings: Sets = None,
    method: Method = "",
    input: Input = True,
    context: Context = True,
    output: Output = True,
    effective: Effective = None,
    expires: Expires = None,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Make a new version of a request, and destroy the texts of the old one. What no option names stays; --expires "" takes a date away."""
    from expunge.errors import ConfigError, DataError

    named = {name for name in typed.params if _typed(typed, name)} - {"id", "ledger", "as_json"}
    if not named:
        raise ConfigError(
            f"expunge request change {id}: nothing is to change. `expunge request change -h` shows what can."
        )
    if "settings" in named and "action" not in named:
        raise ConfigError("--set without --action: name the action that takes the setting.")
    fields = {
        "subject": subject, "aliases": alias or (), "statements": statement or (), "note": note, "effective": None, "expires": None,
        **given_fields("", action, settings, method, effective, expires),
    }  # fmt: skip
    options = {"alias": "aliases", "statement": "statements"}
    new = {field: fields[field] for name in named if (field := options.get(name, name)) in fields}
    parts = {"input": input, "context": context, "output": output}
    with opened(ledger) as book:
        before = book.show(id)
        if before.request is None:
            raise DataError(f"request '{id}' is {before.status} and cannot be changed. Add a new one.")
        old = before.request
        kept = {"pairs": (), "statements": ()} if forget else {}
        scope = {part: value if part in named else getattr(old.scope, part) for part, value in parts.items()}
        wanted = _wanted({**dict(old), **kept, **new, "scope": scope}, forget, f"expunge request change {id}")
        entry = book.change(id, wanted, actor=actor())
    print_entry(entry, as_json)


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _wanted(values: dict[str, Any], forget: Path | None, where: str) -> RemovalRequest:
    """The request, with what the rows of a file say. Its doubts are told. Raises ConfigError or DataError."""
    from rich.markup import escape

    from expunge.cli.show import tell
    from expunge.data.dataset import read_records
    from expunge.ledger import RemovalRequest
    from expunge.ledger.files import forget_request

    if forget:
        wanted = forget_request(read_records(forget), str(forget), **values)
    else:
        wanted = RemovalRequest.parse(values, where)
    for doubt in wanted.doubts:
        tell(escape(f"warning: {printable(doubt)}"))
    return wanted


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
        about = [printable(entry.request.subject) if entry.request else ""] if texts else []
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
        before = book.show(id)
        entry = book.withdraw(id, actor=actor(), reason=reason)
    if before.request is None:
        tell(f"{id} was {before.status} already: nothing was done.")
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
    from expunge.ledger import LedgerError
    from expunge.ledger.store import verify_file

    head = head.strip()
    number, _, found = head.partition(":")
    if head and not (number.isdecimal() and found):
        raise ConfigError(f"--head {head}: expected NUMBER:HASH, as `expunge request verify` prints it.")
    if not ledger.exists():
        raise LedgerError(f"{ledger}: there is no ledger. Name the right file with --ledger.")
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

    if out:
        _refuse_taken(out)
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
        print(f"error: {broken} What could be read was written.", file=sys.stderr)
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
    from expunge.ledger.files import import_file, read_requests

    given = given_fields(tenant, action, settings, method, effective, expires)
    if not ledger.exists():
        refuse_past(read_requests(file, given))
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
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|REPORT",
            help="A run folder that was evaluated or audited, or a report that `expunge attack ... --out report.json` has written.",
        ),
    ],
    ledger: LedgerFile = DEFAULT,
    as_json: Json = False,
) -> None:
    """File what was measured: digests and headline figures of a run's evaluations and audit, or of a report on a server."""
    from expunge.cli.request_evidence import read_evidence

    with opened(ledger) as book:
        book.show(id)
        for found in read_evidence(place):
            book.record_evidence(id, **found, actor=actor())
        entry = book.show(id)
    print_entry(entry, as_json)


def _refuse_taken(out: Path) -> None:
    from expunge.errors import StorageError

    if out.is_dir():
        raise StorageError(f"--out {out}: is a folder. Name a file, such as {out / 'backup.jsonl'}.")
    if out.exists():
        raise StorageError(f"--out {out}: is there already, and nothing is written over. Name another file.")
    if not out.parent.is_dir():
        raise StorageError(f"--out {out}: there is no folder {out.parent}. Make it first.")


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
        raise StorageError(
            f"--out {path}: cannot be written: {error.strerror}. Name a file in a folder that you may write."
        ) from None
