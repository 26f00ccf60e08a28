"""`expunge serve`: a guarded model behind an OpenAI-compatible address."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import Device
from expunge.cli.request_options import DEFAULT, LedgerFile, actor, opened

if TYPE_CHECKING:
    from socket import socket

    from expunge.ledger import Ledger
    from expunge.serve.opening import Plan
    from expunge.serve.settings import ServeSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="A model folder, a run, or a hub id. Without one: the demo's model, built once."),
    ] = None,
    ledger: LedgerFile = DEFAULT,
    guards: Annotated[
        list[Path] | None,
        typer.Option(
            "--guards", help="The run of a fitted guard that stands beside the ledger. May be repeated."
        ),
    ] = None,
    retain: Annotated[
        Path | None,
        typer.Option("--retain", help="What must stay: thresholds are calibrated and guards fitted on it."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream", help="Guard an OpenAI-compatible server instead: http://host/v1#model-name."
        ),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="in-process or vllm.")] = "in-process",
    print_command: Annotated[
        bool,
        typer.Option("--print-command", help="Print the command that starts vLLM as it has to be, and stop."),
    ] = False,
    name: Annotated[str, typer.Option("--name", help="The model's public name. Default: the folder's.")] = "",
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Nobody needs a key. On this machine only.")
    ] = False,
    allow_plain: Annotated[
        bool,
        typer.Option(
            "--allow-plain", help="Administrators may ask without the guard; each use is written down."
        ),
    ] = False,
    refusal: Annotated[
        str | None, typer.Option("--refusal", help="What is said in place of an answer.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", min=1, help="Answers under way together.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Answers written at once in this process.")] = 32,
    max_lora_rank: Annotated[int, typer.Option("--max-lora-rank", help="vllm: for guards by o3.")] = 0,
    template: Annotated[str, typer.Option("--template", help="auto, chat, qa, llama2 or raw.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another setting of the server, such as answer_seconds=60. May be repeated."
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Serve a model with every removal request of a ledger in force. Requests that are added meanwhile hold at once."""
    from expunge.config import apply_overrides
    from expunge.errors import ConfigError
    from expunge.ledger.sealing import key_path
    from expunge.serve.checking import refuse_missing, refuse_unfit
    from expunge.serve.listening import bind
    from expunge.serve.opening import Plan
    from expunge.serve.settings import ServeSettings

    if print_command:
        from expunge.serve.opening import vllm_guards

        _print_command(model, port, vllm_guards(guards or (), ledger, fits=bool(retain)), max_lora_rank)
        return
    given = {
        "refusal": refusal,
        "max_concurrent": max_concurrent,
        "no_auth": no_auth,
        "allow_plain": allow_plain,
    }
    values = {option: value for option, value in given.items() if value is not None}
    chosen = ServeSettings.parse(apply_overrides(values, settings or []), "expunge serve")
    if chosen.no_auth and host not in LOOPBACK:
        raise ConfigError(
            f"--no-auth with --host {host}: whoever reaches this machine would be an administrator. Listen on 127.0.0.1, or take keys."
        )
    plan = Plan(
        model, upstream, engine, tuple(guards or ()), retain, name,
        rows=rows, device=device, template=template, max_lora_rank=max_lora_rank,
    )  # fmt: skip
    refuse_unfit(plan)
    with closing(bind(host, port, chosen)) as listener:
        key_alone = (
            not ledger.exists() and key_path(ledger).exists()
        )  # it is lost, and no new one takes its place
        if ledger.exists() or key_alone:
            opened(ledger).close()
        if model:
            with _ending_at_once():
                refuse_missing(model)
        elif not upstream:
            plan = _demo(plan)
        with opened(ledger, create=not key_alone) as book, _ending_at_once():
            _run(plan, book, chosen, host, listener)


@contextmanager
def _ending_at_once() -> Generator[None]:
    """Ctrl-C ends the process, as long as nobody else heeds it. An exception for it is lost where it comes within what Python does on the
    side, such as an import's lock, and the server would start all the same.
    """
    from expunge.cli import INTERRUPTED

    def end(*_: object) -> None:
        os.write(sys.stderr.fileno(), b"\ninterrupted: nothing is served\n")
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _demo(plan: Plan) -> Plan:
    """The pocket world's target and its retain set."""
    from dataclasses import replace

    from rich.markup import escape

    from expunge.cli.show import tell
    from expunge.run.build import build_pocket

    tell(
        "no model was named: serving the demo's, which knows people of a made-up town. Where it is not there yet, it is built; that takes some minutes."
    )
    world = build_pocket("default", tell=tell)
    tell(escape(f"whom it knows stands in {world}/forget.jsonl and {world}/retain.jsonl"))
    retain = plan.retain or world / "retain.jsonl"
    return replace(plan, model=str(world / "target"), retain=retain, name=plan.name or "pocket")


def _run(plan: Plan, book: Ledger, settings: ServeSettings, host: str, listener: socket) -> None:
    from rich.markup import escape

    from expunge.cli.show import tell
    from expunge.serve.listening import run
    from expunge.serve.opening import open_server

    if plan.model:
        tell(escape(f"loading {plan.model}"))
    app = open_server(plan, book, settings, tell)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    waiting = sum(bool(entry.method) for entry in book.active())
    if waiting and not plan.retain:
        tell(
            f"{waiting} of the requests in force ask{'s' * (waiting == 1)} for a fitted guard, and none is fitted without --retain FILE: the instant action holds meanwhile."
        )

    def ready() -> None:
        gateway = app.state.gateway
        count = len(gateway.enforcer.requests)
        book.record("server started", actor=actor(), detail={"engine": plan.engine})
        tell(
            f"[bold]{escape(gateway.backend.name)}[/bold] is served on {address}/v1, its console on {address}/console. "
            f"{count} removal request{'s are' if count != 1 else ' is'} in force, and the guard is live."
        )
        if gateway.unreachable:
            tell(
                f"[bold red]{escape(gateway.unreachable)}[/bold red] Until that answers, questions get status 503, except those that are refused."
            )
        if not count:
            tell(
                escape(
                    f'A first request, from another terminal:  expunge request add --ledger {book.path} --subject "NAME"'
                )
            )
        _keys(book, settings)
        tell("Ctrl-C stops it.")

    run(
        app, listener, settings, ready,
        stopping=lambda: tell(f"stopping: answers under way get {settings.stop_seconds:g} seconds. Ctrl-C again ends them now."),
    )  # fmt: skip
    book.record("server stopped", actor=actor())
    tell(
        escape(
            f"stopped. The requests stay in {book.path}, and are in force again when a server starts on it."
        )
    )


def _keys(book: Ledger, settings: ServeSettings) -> None:
    """Makes the first key of a ledger that has none, and shows it."""
    from rich.markup import escape

    from expunge.cli.show import tell

    if settings.no_auth:
        tell(
            "[bold red]no keys are asked for: every program on this machine is an administrator of this server[/bold red]"
        )
    elif not book.keys():
        tell(
            f"The ledger has no key yet. This is an administrator's, shown this once. More:  expunge key add --ledger {escape(str(book.path))} --name NAME"
        )
        print(book.add_key("", ["admin"], name="first", actor=actor()), flush=True)


def _print_command(model: str | None, port: int, guards: list[Path], rank: int) -> None:
    from expunge.errors import ConfigError
    from expunge.serve.backends.vllm import print_command

    if not model:
        raise ConfigError("--print-command: name the MODEL that vLLM is to serve.")
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise ConfigError(
            f"{model}: no such model folder. Name the folder or the hub id that vLLM is to serve."
        )
    more: dict[str, Any] = {} if port == 8000 else {"port": port}
    print(print_command(model, guards=guards, max_lora_rank=rank, **more))
