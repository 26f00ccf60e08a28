"""Which values go together: what a method implies, what cannot work and why, what works but should be known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.errors import ConfigError

if TYPE_CHECKING:
    from expunge.recipes import Recipe

TRAINING_AXES = (
    "data",
    "objective",
    "weighting",
    "retain",
    "gradient",
    "selection",
    "adapter",
    "edit",
    "procedure",
)
GUARD_AXES = ("action", "detector")
Parts = dict[str, dict[str, Any]]
"""Axis to its settings, `name` among them."""


def complete(method: str, parts: Parts) -> None:
    """Fill the axes that a method implies. Raises ConfigError, saying why, for what cannot be combined."""
    if "action" in parts:
        _complete_guard(method, parts)
    elif "detector" in parts:
        raise ConfigError(
            f"method '{method}': a detector alone does nothing. Add an action: {', '.join(catalog.entries('action'))}."
        )
    elif "edit" in parts:
        _complete_edit(method, parts)
    else:
        _complete_training(method, parts)


def warnings(recipe: Recipe) -> list[str]:
    """What is allowed but should be known: combinations that pull against what their parts are for."""
    from expunge.recipes import catalog_name

    names = {axis: catalog_name(value) for axis, value in recipe.axes.items()}
    said = []
    if names.get("gradient") == "gru" and names.get("retain") == "primal_dual":
        said.append(
            "gru with primal_dual: the multiplier rescales the retain gradient that gru projects against, so both answer the same conflict."
        )
    if names.get("objective") == "flat" and "retain" in names and recipe.retain_weight:
        said.append(
            "flat with a retain term: FLAT claims to need forget rows alone; this is no longer that method."
        )
    if names.get("objective") == "rmu" and "selection" not in names:
        said.append(
            "rmu on all parameters: the paper trains mlp.down_proj of three blocks (+layers); with all of them every block runs in each step."
        )
    if names.get("retain") == "embed" and names.get("objective") != "rmu":
        said.append(
            "embed without rmu: only the states after one block are held; what later blocks do with them is free."
        )
    if names.get("procedure") == "assistant":
        said.append(
            "assistant: the artifact is what ULD takes off the target's logits while it answers. By itself it is no unlearned model, and nothing is unlearned until it is subtracted."
        )
    compat = getattr(recipe.axes.get("objective"), "compat", None)
    if compat == "batch":
        said.append(
            "npo with compat=batch: the mean inside the link pushes all rows alike and depends on train.micro_batch; kept to reproduce WAGLE's published runs only."
        )
    if compat == "muse2024":
        said.append(
            "npo with compat=muse2024: a loss on raw logits of the whole vocabulary, which changes when no probability does; kept to reproduce MUSE's published runs only."
        )
    if recipe.kind == "training" and recipe.train.select == "gold":
        said.append(
            "train.select is 'gold': the number of steps is chosen by looking at the retrained model, which nobody has who needs to unlearn."
        )
    return said


def _complete_guard(method: str, parts: Parts) -> None:
    training = [axis for axis in TRAINING_AXES if axis in parts]
    if training:
        raise ConfigError(
            f"method '{method}': '{parts['action']['name']}' is a guard and leaves the weights alone, '{parts[training[0]]['name']}' trains them.\n"
            "Make two artifacts: train first, then fit the guard on the trained one."
        )
    parts.setdefault("detector", {}).setdefault("name", "union")


def _complete_edit(method: str, parts: Parts) -> None:
    """An edit has no loop; one that works on picked rows says so by `selects`."""
    name = parts["edit"]["name"]
    selects = getattr(catalog.load("edit", name), "selects", False)
    extra = [
        axis
        for axis in TRAINING_AXES
        if axis in parts and axis not in ("edit", "selection" if selects else "")
    ]
    if extra:
        raise ConfigError(
            f"method '{method}': '{name}' is an edit and rewrites the weights in one go, '{parts[extra[0]]['name']}' belongs to a training run.\n"
            "Make two artifacts: one after the other, the second from the run folder of the first."
        )
    if selects:
        picked = parts.setdefault("selection", {}).setdefault("name", "codec")
        if not hasattr(catalog.load("selection", picked), "pick"):
            raise ConfigError(
                f"method '{method}': '{name}' works on rows that were picked before it starts, and '{picked}' scores single weights. Use codec+{name}."
            )


def _complete_training(method: str, parts: Parts) -> None:
    procedure = catalog.load("procedure", parts.setdefault("procedure", {}).setdefault("name", "plain"))
    for axis, name in getattr(procedure, "implies", {}).items():
        parts.setdefault(axis, {}).setdefault("name", name)
    parts.setdefault("gradient", {}).setdefault("name", "sum")
    _complete_embed(method, parts)
    if getattr(procedure, "reinforces", False):
        _refuse_beside_reinforcement(method, parts, getattr(procedure, "implies", {}))
    if procedure.forgets and "objective" not in parts:
        raise ConfigError(
            f"method '{method}' has no forget objective. Add one: {', '.join(catalog.entries('objective'))}."
        )
    if not procedure.forgets:
        extra = [axis for axis in ("objective", "weighting", "selection") if axis in parts]
        if extra:
            raise ConfigError(
                f"method '{method}': '{parts['procedure']['name']}' takes no forget objective, and so no {extra[0]} either."
            )
        parts.setdefault("retain", {"name": "nll"})
    _complete_data(method, parts)
    if getattr(procedure, "all_weights", False) and (axis := {"adapter", "selection"} & parts.keys()):
        raise ConfigError(
            f"method '{method}': '{parts['procedure']['name']}' changes every weight, so '{parts[axis.pop()]['name']}' cannot hold any of them. Leave it out."
        )
    _refuse_beside_adapter(method, parts)
    if "weighting" in parts and not catalog.load("objective", parts["objective"]["name"]).weighted:
        raise ConfigError(
            f"method '{method}': '{parts['objective']['name']}' takes no token weights: its loss is not a mean over tokens' log-probabilities,\n"
            "or already weighs them, and the product of the two is neither paper's method. Use the weighting with 'ga'."
        )


def _complete_embed(method: str, parts: Parts) -> None:
    """The retain term on hidden states reads them where the objective does."""
    if parts.get("retain", {}).get("name") != "embed" or parts["retain"].get("layer") is not None:
        return
    objective = parts.get("objective", {})
    if objective.get("name") != "rmu":
        raise ConfigError(
            f"method '{method}': 'embed' holds hidden states after one block, and nothing says which. Set it: --set retain.layer=..."
        )
    parts["retain"]["layer"] = objective.get("layer", catalog.load("objective", "rmu")().layer)


def _complete_data(method: str, parts: Parts) -> None:
    """Other answers are made where the objective asks for them, and nowhere else."""
    objective = parts.get("objective", {}).get("name")
    wants = objective is not None and "alternate" in _needs("objective", objective)
    name = parts.setdefault("data", {}).setdefault("name", "refusals" if wants else "raw")
    gives = "alternate" in _needs("data", name)
    if wants and not gives:
        makers = [
            entry.name for entry in catalog.all_entries("data") if "alternate" in entry.declared["needs"]
        ]
        raise ConfigError(
            f"method '{method}': '{objective}' needs other answers to the forget questions, and '{name}' makes none. Use one of: {', '.join(makers)}."
        )
    if gives and not wants:
        takers = [
            entry.name for entry in catalog.all_entries("objective") if "alternate" in entry.declared["needs"]
        ]
        raise ConfigError(
            f"method '{method}': '{name}' makes other answers to the forget questions, and nothing here is shown them. Use it with one of: {', '.join(takers)}."
        )


def _needs(axis: str, name: str) -> frozenset[str]:
    """What a value needs, as its file declares it."""
    known = catalog.entries(axis).get(name)
    return frozenset(known.declared["needs"]) if known else catalog.load(axis, name).needs


def _refuse_beside_reinforcement(method: str, parts: Parts, implied: dict[str, str]) -> None:
    """A procedure that learns the forget set once more takes no objective of its own: ascent turned round is fine-tuning."""
    name = parts["procedure"]["name"]
    objective = parts.setdefault("objective", {}).setdefault("name", "ga")
    axes = [axis for axis in ("data", "weighting", "retain", "adapter", "selection") if axis not in implied]
    extra = [axis for axis in axes if axis in parts and parts[axis]["name"] != "raw"]
    if objective != "ga" or extra:
        what = parts[extra[0]]["name"] if extra else objective
        raise ConfigError(
            f"method '{method}': '{name}' trains on the forget set once more, so '{what}' has no place in it. Leave it out."
        )


def _refuse_beside_adapter(method: str, parts: Parts) -> None:
    if "adapter" not in parts:
        return
    adapter = parts["adapter"]["name"]
    if "selection" in parts:
        raise ConfigError(
            f"method '{method}': '{parts['selection']['name']}' picks among the model's own weights, and '{adapter}' freezes them all.\n"
            "Take one of the two; which layers get an adapter is said by adapter.targets."
        )
    if adapter == "fila" and parts["procedure"].get("reference") == "start":
        raise ConfigError(
            f"method '{method}': with procedure.reference=start the reference is the model with its adapter off, and the base under 'fila' is not the model it started from.\n"
            "Take --set procedure.reference=now, or lora."
        )
