"""A server put together: model, policy, ledger, gateway, app."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ConfigError
from expunge.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from expunge.data.dataset import Record
    from expunge.guards.guard import Guard
    from expunge.ledger import Ledger

ENGINES = ("in-process", "vllm")


@dataclass(frozen=True)
class Plan:
    """What is to be served. One of `model` and `upstream` may be missing."""

    model: str | None = None
    """A folder, a run, or a hub id. With vLLM: what vLLM serves, of which tokenizer and embeddings are read here."""
    upstream: str | None = None
    """Address of an OpenAI-compatible server: http://host/v1#model."""
    engine: str = "in-process"
    guards: Sequence[Path] = ()
    """Run folders of fitted guards that stand beside the ledger."""
    retain: Path | None = None
    """What must stay: guards are fitted and thresholds calibrated on it."""
    name: str = ""
    """The model's public name."""
    rows: int = 32
    """Answers written at once in this process."""
    queue: int = 256
    device: str | None = None
    template: str = "auto"
    max_lora_rank: int = 0


class _Base(NamedTuple):
    backend: Any
    model: Any
    """What a policy stands before."""
    open_guard: Callable[[Path], Guard]
    builds: str = ""
    """The model by the name under which guards are fitted for it; empty: none are."""


def open_server(
    plan: Plan, ledger: Ledger, settings: ServeSettings, tell: Callable[[str], None] = lambda what: None
) -> FastAPI:
    """Loads the model. Raises ConfigError, DataError, ModelError."""
    from expunge.data.dataset import read_records
    from expunge.guards.policy import LEAST, Policy
    from expunge.serve.app import make_app
    from expunge.serve.building import Builder
    from expunge.serve.canary import Canary
    from expunge.serve.enforcing import Enforcer
    from expunge.serve.gateway import Gateway

    base = _base(plan)
    kept = read_records(plan.retain) if plan.retain else ()
    background = _questions(kept)
    if kept and len(background) < LEAST:
        tell(
            f"{plan.retain}: {len(background)} questions are too few to calibrate on (it takes {LEAST}); requests are found by names alone."
        )
        background = []
    known = list(dict.fromkeys(row.subject for row in kept if row.subject))
    answers = [row.answer or row.text for row in kept if row.answer or row.text]
    policy = Policy(base.model, background, known, answers=answers)
    canary = Canary.new()
    enforcer = Enforcer(
        ledger,
        policy,
        refusal=settings.refusal,
        accepts=base.backend.refuse_action,
        own=canary.own,
        guards={f"guard:{run.name}": base.open_guard(run) for run in plan.guards},
    )
    gateway = Gateway(base.backend, enforcer, settings)
    builder = None
    if base.builds and plan.retain:
        builder = Builder(enforcer, base.builds, plan.retain, device=plan.device)
    return make_app(gateway, canary=canary, builder=builder)


def _questions(kept: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row.question or row.text for row in kept if row.shape != "subject"))


def _base(plan: Plan) -> _Base:
    if plan.engine not in ENGINES:
        raise ConfigError(f"--engine {plan.engine}: there are {', '.join(ENGINES)}.")
    if plan.engine == "vllm":
        return _vllm(plan)
    return _upstream(plan) if plan.upstream else _in_process(plan)


def _in_process(plan: Plan) -> _Base:
    from expunge.run import load
    from expunge.run.make import is_address
    from expunge.serve.backends.in_process import InProcess

    if not plan.model or is_address(plan.model):
        raise ConfigError("an address is served with --upstream, not as the model.")
    lm: Any = load(plan.model, device=plan.device, template=plan.template)
    if not hasattr(lm, "encoder"):
        raise ConfigError(
            f"{plan.model}: is a guard's run. Serve the model that it stands before, and give the run with --guards."
        )
    backend = InProcess(lm, plan.name or Path(plan.model).name, plan.rows, plan.queue)
    return _Base(backend, backend.lm, lambda run: _before(run, backend.lm), plan.model)


def _upstream(plan: Plan) -> _Base:
    from expunge.run.make import is_address
    from expunge.serve.backends.upstream import Upstream

    if plan.model:
        raise ConfigError("give either MODEL or --upstream; both only with --engine vllm.")
    if not is_address(plan.upstream or ""):
        raise ConfigError(f"--upstream {plan.upstream}: expected http://host/v1#model-name.")
    url, _, model = (plan.upstream or "").partition("#")
    backend = Upstream(url, model, name=plan.name)
    return _Base(backend, backend.model, lambda run: _behind(run, plan.upstream or "", backend.model))


def _vllm(plan: Plan) -> _Base:
    from expunge.serve.backends.vllm import VLLM

    if not plan.model or not plan.upstream:
        raise ConfigError(
            "--engine vllm takes both MODEL (the folder or hub id that vLLM serves) and --upstream http://host:port/v1#model-name.\n"
            "The command that starts vLLM as it has to be:  expunge serve MODEL --engine vllm --print-command"
        )
    url, _, model = plan.upstream.partition("#")
    ruled = [run for run in plan.guards if _method(run) == "guard"]
    backend = VLLM(
        url, model or plan.model, plan.model,
        name=plan.name, guards=ruled, max_lora_rank=plan.max_lora_rank, template=plan.template,
    )  # fmt: skip
    return _Base(backend, backend.model, lambda run: _before(run, backend.model), plan.model)


def _method(run: Path) -> str:
    from expunge.artifacts.manifest import read_manifest

    return read_manifest(run)["recipe"].get("action", {}).get("name", "")


def _before(run: Path, model: Any) -> Guard:
    from expunge.artifacts.manifest import read_manifest
    from expunge.run import load

    if (kind := read_manifest(run)["kind"]) != "guard":
        raise ConfigError(f"--guards {run}: holds {kind}, and no guard. Serve that run itself as MODEL.")
    guard: Any = load(run, before=model)
    return guard


def _behind(run: Path, address: str, endpoint: Any) -> Guard:
    """A guard that was fitted for the same address. Raises ModelError for another's."""
    from expunge.errors import ModelError
    from expunge.run import load

    guard: Any = load(run)
    found = guard.model
    if f"{getattr(found, 'url', '')}#{getattr(found, 'name', '')}" != f"{endpoint.url}#{endpoint.name}":
        raise ModelError(f"{run}: fitted for another model than {address}. Fit a guard for this one.")
    guard.model = endpoint
    return guard
