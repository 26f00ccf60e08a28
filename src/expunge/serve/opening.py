"""A server put together: model, policy, ledger, gateway, app."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ConfigError, ModelError, UserError
from expunge.serve.checking import refuse_unfit
from expunge.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from expunge.data.dataset import Record
    from expunge.guards.guard import Guard
    from expunge.ledger import Ledger


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

    base = _base(plan, ledger, settings)
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


def _base(plan: Plan, ledger: Ledger, settings: ServeSettings) -> _Base:
    refuse_unfit(plan)
    if plan.engine == "vllm":
        return _vllm(plan, ledger, settings)
    return _upstream(plan) if plan.upstream else _in_process(plan)


def _in_process(plan: Plan) -> _Base:
    from expunge.run import load
    from expunge.serve.backends.in_process import InProcess

    if not plan.model:
        raise ConfigError("no model is named, and no --upstream.")
    lm: Any = load(plan.model, device=plan.device, template=plan.template)
    if not hasattr(lm, "encoder"):
        raise ConfigError(
            f"{plan.model}: is a guard's run. Serve the model that it stands before, and give the run with --guards."
        )
    backend = InProcess(lm, plan.name or Path(plan.model).name, plan.rows, plan.queue)
    return _Base(backend, backend.lm, lambda run: _before(run, backend.lm), plan.model)


def _upstream(plan: Plan) -> _Base:
    from expunge.serve.backends.upstream import Upstream

    url, _, model = (plan.upstream or "").partition("#")
    backend = Upstream(url, model, name=plan.name)
    return _Base(backend, backend.model, lambda run: _behind(run, plan.upstream or "", backend.model))


def vllm_guards(guards: Sequence[Path], ledger: Path, *, fits: bool) -> list[Path]:
    """The folders in which vLLM finds guards: those that are named, and the one of those that the server fits itself."""
    from expunge.serve.building import folder_of

    return [*guards, *([folder_of(ledger)] if fits else [])]


def _vllm(plan: Plan, ledger: Ledger, settings: ServeSettings) -> _Base:
    from expunge.serve.backends.vllm import VLLM

    assert plan.model is not None, "checked before"
    assert plan.upstream is not None, "checked before"
    url, _, model = plan.upstream.partition("#")
    ruled = [run for run in plan.guards if _method(run) == "guard"]
    backend = VLLM(
        url, model or plan.model, plan.model,
        name=plan.name, guards=vllm_guards(ruled, ledger.path, fits=bool(plan.retain)),
        max_lora_rank=plan.max_lora_rank, adapters=settings.adapters, template=plan.template,
    )  # fmt: skip
    return _Base(backend, backend.model, lambda run: _before_vllm(run, backend.model), plan.model)


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


def _before_vllm(run: Path, table: Any) -> Guard:
    try:
        return _before(run, table)
    except UserError:
        raise
    except Exception as error:  # it reaches for more of the model than there is
        raise ModelError(
            f"--guards {run}: looks into the model, of which vLLM shows the embeddings alone ({type(error).__name__}). "
            "Serve the model in this process, or fit a guard by eco, guard or o3 with a detector that reads the prompt."
        ) from error


def _behind(run: Path, address: str, endpoint: Any) -> Guard:
    """A guard that was fitted for the same address. Raises ModelError for another's."""
    from expunge.run import load

    guard: Any = load(run)
    found = guard.model
    if f"{getattr(found, 'url', '')}#{getattr(found, 'name', '')}" != f"{endpoint.url}#{endpoint.name}":
        raise ModelError(f"{run}: fitted for another model than {address}. Fit a guard for this one.")
    guard.model = endpoint
    return guard
