"""`expunge key`: who may ask a server, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.options import Json
from expunge.cli.request_options import DEFAULT, LedgerFile, actor, moment, opened, printable

if TYPE_CHECKING:
    from datetime import datetime

app = typer.Typer(
    help="Access keys for `expunge serve`. They are kept in the ledger, as digests.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def add(
    name: Annotated[str, typer.Option("--name", help="Whose it is, for the list and the history.")],
    ledger: LedgerFile = DEFAULT,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="infer, requests:read, requests:write, audit, logprobs or admin. May be repeated. Default: infer.",
        ),
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose requests bind its holder.")] = "",
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="Requests a minute.")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens a minute.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", help="Until when, such as 2027-01-31. A date alone is its first moment, in UTC."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is shown this once. The ledger is made where there is none."""
    from expunge.cli.show import print_json, tell
    from expunge.ledger.access import key_id

    until, scopes = moment(expires, "--expires"), scope or ["infer"]
    _refuse_unfit(name, scopes, tenant, until, expires)
    with opened(ledger, create=True) as book:
        key = book.add_key(tenant, scopes, name=name, rpm=rpm, tpm=tpm, expires=until, actor=actor())
        found = book.find_key(key_id(key) or "")
    if as_json:
        print_json({"key": key, **(found.describe() if found else {})})
        return
    print(key)
    tell("Keep it now: the ledger holds its digest alone.")


@app.command("list")
def list_keys(ledger: LedgerFile = DEFAULT, as_json: Json = False) -> None:
    """All keys, without their secret part."""
    from rich.table import Table

    from expunge.cli.show import output, print_json

    with opened(ledger) as book:
        keys = book.keys()
    if as_json:
        print_json([key.describe() for key in keys])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "tenant", "scopes", "rpm", "tpm", "created", "expires", "revoked"):
        table.add_column(heading, overflow="fold")
    for key in keys:
        limits = ["" if most is None else str(most) for most in (key.rpm, key.tpm)]
        times = [f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created, key.expires, key.revoked)]
        table.add_row(key.id, printable(key.name), key.tenant, ", ".join(sorted(key.scopes)), *limits, *times)
    output.print(table, markup=False) if keys else output.print("no keys")


@app.command()
def revoke(
    key: Annotated[
        str, typer.Argument(help="The key's id, as `expunge key list` shows it, or the key itself.")
    ],
    ledger: LedgerFile = DEFAULT,
    as_json: Json = False,
) -> None:
    """Shut a key out, in running servers too."""
    from expunge.cli.show import output, print_json
    from expunge.ledger.access import key_id

    with opened(ledger) as book:
        gone = book.revoke_key(key_id(key) or key, actor=actor())
    if as_json:
        print_json(gone.describe())
        return
    output.print(
        f"{gone.id} ({printable(gone.name)}) opens nothing since {gone.revoked:%Y-%m-%d %H:%M} UTC.",
        markup=False,
    )


def _refuse_unfit(
    name: str, scopes: list[str], tenant: str, until: datetime | None, expires: str | None
) -> None:
    """Before a ledger is made for nothing. Raises ConfigError."""
    from datetime import UTC, datetime

    from expunge.errors import ConfigError
    from expunge.ledger.access import refuse_unknown_scopes
    from expunge.ledger.requests import TENANT

    if not name.strip():
        raise ConfigError("--name '': whose key is it? The list and the history show the name.")
    if joined := next((scope for scope in scopes if "," in scope), ""):
        each = " ".join(f"--scope {part.strip()}" for part in joined.split(",") if part.strip())
        raise ConfigError(f"--scope {joined}: one at a time:  {each}")
    refuse_unknown_scopes(frozenset(scopes))
    if not TENANT.fullmatch(tenant):
        raise ConfigError(
            f"--tenant {tenant}: takes up to 100 letters, digits, dots, '-', '_' and '@', as that of a request does."
        )
    if until and until <= datetime.now(UTC):
        raise ConfigError(f"--expires {expires}: is past, so the key would open nothing. Give a later time.")
