"""Options that `expunge request`, `expunge key` and `expunge serve` share, and what is checked before a ledger is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from expunge.ledger import Ledger, RemovalRequest

LedgerFile = Annotated[
    Path,
    typer.Option("--ledger", envvar="EXPUNGE_LEDGER", help="The ledger's file; its key lies beside it."),
]
DEFAULT = Path("expunge.ledger")
Id = Annotated[str, typer.Argument(help="The request's id; `expunge request list` shows them.")]
Texts = Annotated[bool, typer.Option("--texts", help="With what the requests are about, in the clear.")]
Subject = Annotated[str, typer.Option("--subject", help="Whom or what it is about, by name.")]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Another name of the subject. May be repeated.")
]
Statements = Annotated[
    list[str] | None, typer.Option("--statement", help="What may not be told any more. May be repeated.")
]
Forget = Annotated[
    Path | None,
    typer.Option("--forget", help="Rows with question and answer, text or subject: all of one request."),
]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose users it binds. Default: everybody.")]
Action = Annotated[str, typer.Option("--action", help="A guard action that answers at once.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the action, as name=value. May be repeated.")
]
Method = Annotated[
    str, typer.Option("--method", help="A guard that a server fits behind the action, such as eco.")
]
Input = Annotated[bool, typer.Option("--input/--no-input", help="Whether it holds for what users ask.")]
Context = Annotated[
    bool,
    typer.Option(
        "--context/--no-context", help="Whether it holds for earlier turns and documents that users bring."
    ),
]
Output = Annotated[
    bool, typer.Option("--output/--no-output", help="Whether it holds for what the model writes.")
]
Effective = Annotated[
    str | None,
    typer.Option("--effective", help="From when on, such as 2027-01-31 or 2027-01-31T12:00+01:00."),
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="Until when. A date alone is its first moment, in UTC.")
]
Note = Annotated[str, typer.Option("--note", help="For whoever administers it; kept as secret as the rest.")]


def actor() -> str:
    """Who acts on this machine."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def opened(path: Path, create: bool = False) -> Ledger:
    """The ledger; that it was made is told."""
    from rich.markup import escape

    from expunge.cli.show import tell
    from expunge.ledger import Ledger
    from expunge.ledger.sealing import key_path

    is_new = create and not path.exists()
    book = Ledger.open(path, create=create)
    if is_new:
        beside = key_path(path)
        where = f"its key in {beside}" if beside.exists() else "its key is the one in $EXPUNGE_LEDGER_KEY"
        tell(
            escape(
                f"made a new ledger in {path}, {where}. Keep a copy of each, apart: without the key the texts are lost."
            )
        )
    return book


def given_fields(
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
                f"--method {method}: is no guard, so it cannot stand in front of a model that serves. "
                "`expunge methods` shows which are."
            )
    times = {"effective": moment(effective, "--effective"), "expires": moment(expires, "--expires")}
    return {
        "tenant": tenant,
        "action": {"name": action, **values} if values else action,
        "method": method,
        **{name: at for name, at in times.items() if at},
    }


def moment(text: str | None, option: str) -> datetime | None:
    """A time with its zone, UTC where none is given. Raises ConfigError."""
    from datetime import UTC, datetime

    from pydantic import TypeAdapter, ValidationError

    from expunge.errors import ConfigError

    if not text:
        return None
    try:
        at = TypeAdapter(datetime).validate_python(text)
    except ValidationError:
        raise ConfigError(
            f"{option} {text}: is no time. Give one such as 2027-01-31 or 2027-01-31T12:00+01:00."
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def refuse_past(requests: Iterable[tuple[str, RemovalRequest]]) -> None:
    """Before a ledger is made for nothing. Raises DataError."""
    from datetime import UTC, datetime

    from expunge.errors import DataError

    for where, request in requests:
        if request.expires and request.expires <= datetime.now(UTC):
            raise DataError(
                f"{where}: the request expires at {request.expires:%Y-%m-%d %H:%M} UTC, and that is past."
            )


def printable(text: str) -> str:
    """What would steer a terminal is written out."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
