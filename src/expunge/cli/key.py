"""`expunge key`: who may ask a server, and for what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from expunge.cli.options import Json
from expunge.cli.request import DEFAULT, LedgerFile, actor, opened

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

    until = _time(expires)
    with opened(ledger, create=True) as book:
        key = book.add_key(
            tenant, scope or ["infer"], name=name, rpm=rpm, tpm=tpm, expires=until, actor=actor()
        )
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
        table.add_row(key.id, key.name, key.tenant, ", ".join(sorted(key.scopes)), *limits, *times)
    output.print(table, markup=False) if keys else output.print("no keys")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `expunge key list` shows it.")],
    ledger: LedgerFile = DEFAULT,
    as_json: Json = False,
) -> None:
    """Shut a key out, in running servers too."""
    from expunge.cli.show import output, print_json

    with opened(ledger) as book:
        gone = book.revoke_key(key, actor=actor())
    if as_json:
        print_json(gone.describe())
        return
    output.print(
        f"{gone.id} ({gone.name}) opens nothing since {gone.revoked:%Y-%m-%d %H:%M} UTC.", markup=False
    )


def _time(text: str | None) -> datetime | None:
    from pydantic import TypeAdapter, ValidationError

    from expunge.errors import ConfigError

    try:
        return TypeAdapter(datetime | None).validate_python(text)
    except ValidationError:
        raise ConfigError(
            f"--expires {text}: is no time. Give one such as 2027-01-31 or 2027-01-31T12:00+01:00."
        ) from None
