"""What can be told to be wrong before minutes of loading, and before a ledger is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from expunge.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from expunge.serve.opening import Plan

ENGINES = ("in-process", "vllm")


def refuse_unfit(plan: Plan) -> None:
    """Raises ConfigError, DataError or ModelError."""
    if plan.engine not in ENGINES:
        raise ConfigError(f"--engine {plan.engine}: there are {', '.join(ENGINES)}.")
    if plan.engine == "vllm" and not (plan.model and plan.upstream):
        raise ConfigError(
            "--engine vllm takes both MODEL (the folder or hub id that vLLM serves) and --upstream http://host:port/v1#model-name.\n"
            "The command that starts vLLM as it has to be:  expunge serve MODEL --engine vllm --print-command"
        )
    if plan.model and plan.upstream and plan.engine != "vllm":
        raise ConfigError("give either MODEL or --upstream; both only with --engine vllm.")
    if plan.model is not None:
        _refuse_model(plan.model)
    if plan.upstream is not None:
        _refuse_address(plan.upstream, named=plan.engine != "vllm")
    if plan.retain and not plan.retain.is_file():
        found = "is a folder, not a file" if plan.retain.is_dir() else "no such file"
        raise DataError(f"--retain {plan.retain}: {found}. Give rows of what must stay.")
    for run in plan.guards:
        if not (run / "manifest.json").is_file():
            raise ModelError(
                f"--guards {run}: is no run of a fitted guard. Fit one:  expunge guard fit MODEL --forget ROWS --retain ROWS --out RUN"
            )


def _refuse_model(model: str) -> None:
    from expunge.run.make import is_address

    if not model:
        raise ConfigError(
            "MODEL is empty: name a folder, a run or a hub id, or leave it out for the demo's model."
        )
    if is_address(model):
        raise ConfigError(f"{model}: an address is served with --upstream, not as the model.")
    folder = Path(model)
    if model.startswith(("/", ".", "~")) and not folder.exists():
        raise ModelError(
            f"{model}: no such model folder. Give a folder with config.json and *.safetensors, a run, or a hub id."
        )
    if (folder / "world.json").is_file():
        raise ModelError(
            f"{model}: is a pocket world, which holds several models. Serve one of them:  expunge serve {folder / 'target'}"
        )


def refuse_missing(model: str) -> None:
    """Raises ModelError for a hub id of which the hub has nothing, which may take it half a minute to say."""
    from expunge.models.load import is_folder_name, load_config

    if not is_folder_name(model):
        load_config(model)


def _refuse_address(address: str, *, named: bool) -> None:
    """`named`: the model's name has to follow. Raises ConfigError."""
    unfit = f"--upstream {address}: expected an address and a model's name, as in http://host/v1#model-name."
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ConfigError(f"{unfit} Its host or its port cannot be read.") from None
    if not fits or (named and not parts.fragment):
        raise ConfigError(unfit)
