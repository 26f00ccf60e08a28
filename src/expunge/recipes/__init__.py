"""A full choice: a value and numbers on every axis of a training method, or a guard and its settings.

`npo+nll+gru` names one value per axis in any order; `Recipe` holds the objects themselves, so what is written in the manifest
is what ran. Presets are the YAML files beside this one; the numbers in them carry their source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from expunge import catalog
from expunge.config import Settings, apply_overrides, read_yaml
from expunge.errors import ConfigError, did_you_mean
from expunge.recipes import rules
from expunge.recipes.rules import GUARD_AXES, TRAINING_AXES

__all__ = [
    "ALIASES",
    "GUARD_AXES",
    "RECIPES",
    "TRAINING_AXES",
    "Recipe",
    "TrainSettings",
    "catalog_name",
    "preset_names",
    "read_recipe",
    "recipe",
]

ALIASES = {
    "graddiff": "ga+nll",
    "idk": "imitate+nll",
    "simsat": "wga",
    "pdu": "flatten+primal_dual",
    "loku": "ihl+nll+fila",
    "altpo": "dpo+nll+alternates",
    "lcodec": "codec+newton",
    "dp2u": "dp2unlearning",
}
"""Names that the field uses for a combination."""
ELSEWHERE = {
    "dull": "DULL unlearns through feature masks of an image classifier. It stands beside the package as an example: python examples/dull.py"
}
"""Methods that people ask for by name and that no recipe can run, with where they are."""
RECIPES = Path(__file__).parent


class TrainSettings(Settings):
    """How the loop runs. The defaults are TOFU's for a 7B model; presets say otherwise where a paper does."""

    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW. LoRA wants about ten times that of full weights."""
    epochs: int = Field(5, ge=1)
    """Passes over the forget set (over the retain set when retraining)."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps; overrides epochs."""
    batch_size: int = Field(32, ge=1)
    """Forget rows per optimiser step; as many retain rows come with them. No result depends on how it is cut up."""
    micro_batch: int | None = Field(None, ge=1)
    """Forget rows per forward; smaller saves memory. Default: the whole step at once."""
    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the learning rate rises from zero."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up, to `final_rate` of its peak."""
    final_rate: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the combined gradient; none to leave it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward pass. The weights and the optimiser stay in float32."""
    pairing: Literal["fixed", "fresh"] = "fresh"
    """Which retain row comes with a forget row: always the same one, as in TOFU's code, or a new draw each epoch."""
    replay: float = Field(0.0, ge=0)
    """When retraining: rows of the replay set drawn afresh each epoch, as a share of it."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between checkpoints that a killed run resumes from."""
    probe_every: int | None = Field(None, ge=1)
    """Steps between points of the trajectory, where there is something to measure it with."""
    select: Literal["last", "level", "gold"] = "last"
    """Which step becomes the artifact. last: the last. level: of the probed steps at which right answers of the selection half
    are as likely as wrong ones, the one with the highest utility; the last one if there is none. No retrained model is
    looked at. gold: MUSE's stop rule, the first probed step that knows no more of the selection half than the retrained model
    does; it peeks at that model, and results say so."""
    max_loss: float = Field(1e4, gt=0)
    """A loss beyond this, nats, counts as exploded."""


class Recipe(Settings):
    """What `expunge unlearn` is asked to do."""

    model_config = {"arbitrary_types_allowed": True}

    method: str
    """Canonical name: the values of the axes joined by '+'."""
    axes: dict[str, Any]
    """Axis to object; an axis that is not used is absent."""
    forget_weight: float = 1.0
    """Coefficient of the objective."""
    retain_weight: float = 1.0
    """Coefficient of the retain term."""
    train: TrainSettings = TrainSettings()
    seed: int = 0
    source: str = ""
    """Where the numbers come from."""

    @property
    def kind(self) -> Literal["training", "edit", "guard"]:
        return "guard" if "action" in self.axes else "edit" if "edit" in self.axes else "training"

    @property
    def claim(self) -> str:
        """What may be claimed for an artifact of this recipe."""
        maker = {"training": "procedure", "edit": "edit"}.get(self.kind)
        return self.axes[maker].claim if maker else "suppression"

    @property
    def needs(self) -> frozenset[str]:
        """Union of what the objects need: the loop runs the fewest forwards and builds the smallest cache for it."""
        return frozenset().union(*(getattr(value, "needs", ()) for value in self.axes.values()))

    @property
    def warnings(self) -> list[str]:
        """What is allowed but should be known: combinations that pull against what their parts are for."""
        return rules.warnings(self)

    def describe(self) -> dict[str, Any]:
        """Plain values for the manifest; `build(**describe())` gives the recipe back."""
        settings = {
            axis: {"name": catalog_name(value), **value.model_dump(mode="json")}
            for axis, value in self.axes.items()
        }
        trains = self.kind == "training" or any(
            getattr(value, "trains", False) for value in self.axes.values()
        )
        rest = self.model_dump(mode="json", exclude={"axes"} if trains else {"axes", "train"})
        return {**rest, **settings}


def catalog_name(value: Settings) -> str:
    """The name under which the catalog holds an object, or the dotted path that leads to it."""
    module, _, stem = type(value).__module__.rpartition(".")
    return stem if module.startswith("expunge.") else f"{type(value).__module__}:{type(value).__qualname__}"


def recipe(method: str, **settings: Any) -> Recipe:
    """Build a recipe from a method name and settings: `recipe("npo", retain="nll", gradient="gru", train={"epochs": 3})`.

    An axis takes a name, or a mapping with `name` and the numbers of its fields (the name may be left out where `method`
    already gives it). Raises ConfigError, with the nearest name, for anything unknown or a combination that cannot work.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name in _split(method):
        axis = _axis_of(name)
        if axis in parts:
            raise ConfigError(
                f"method '{method}': '{parts[axis]['name']}' and '{name}' are both values of the axis '{axis}'. Take one of them."
            )
        parts[axis] = {"name": name}
    rest = {}
    for key, value in settings.items():
        if key not in TRAINING_AXES + GUARD_AXES:
            rest[key] = value
        elif value is not None:
            parts[key] = {**parts.get(key, {}), **({"name": value} if isinstance(value, str) else value)}
    rules.complete(method, parts)
    axes = {}
    for axis in (*TRAINING_AXES, *GUARD_AXES):
        if axis in parts:
            numbers = dict(parts[axis])
            name = numbers.pop("name", None)
            if name is None:
                raise ConfigError(
                    f"method '{method}' has no {axis}, but settings for it were given: {numbers}. Name one, as in {axis}.name=..."
                )
            axes[axis] = catalog.load(axis, name).parse(numbers, f"{axis} {name}")
    train = rest.pop("train", {})
    if isinstance(train, Mapping):
        train = TrainSettings.parse(train, "train")
    if "gradient" in axes and axes["gradient"].separate and "retain" not in axes:
        axes["retain"] = catalog.load(
            "retain", "nll"
        )()  # the rule needs a retain gradient; weight 0 adds none of it
        rest["retain_weight"] = 0.0
    if getattr(axes.get("procedure"), "reinforces", False):
        rest["forget_weight"] = -1.0
    named = [axis for axis in axes if not _implied(axis, axes, rest.get("retain_weight", 1.0))]
    method = "+".join(catalog_name(axes[axis]) for axis in named)
    return Recipe.parse({**rest, "method": method, "axes": axes, "train": train}, "recipe")


def read_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """A preset, a YAML file, or a method string, with `--set` overrides on top."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    values = read_yaml(path) if path.is_file() or name.endswith((".yaml", ".yml")) else {"method": name}
    if "method" not in values:
        raise ConfigError(f"{path}: no 'method'. A recipe starts with one, for example  method: npo+nll")
    return recipe(**apply_overrides(values, overrides or []))


def preset_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _split(method: str) -> list[str]:
    parts = [part.strip() for part in method.split("+")]
    names = [name for part in parts for name in ALIASES.get(part, part).split("+")]
    if not all(names):
        raise ConfigError(f"method '{method}': expected names joined by '+', for example npo+nll+gru.")
    return list(dict.fromkeys(names))


def _axis_of(name: str) -> str:
    axes = TRAINING_AXES + GUARD_AXES
    for axis in axes:
        if name in catalog.entries(axis):
            return axis
    if ":" in name:
        raise ConfigError(
            f"method '{name}': a dotted path does not say its axis. Give it by name: --set objective.name={name}"
        )
    if name in ELSEWHERE:
        raise ConfigError(f"method '{name}' is none of a language model: {ELSEWHERE[name]}")
    known = [entry.name for entry in catalog.all_entries(*axes)] + list(ALIASES) + preset_names()
    raise ConfigError(
        f"unknown method '{name}'.{did_you_mean(name, known)} See `expunge methods` for all of them."
    )


def _implied(axis: str, axes: Mapping[str, Any], retain_weight: float) -> bool:
    """Axis values that the canonical name leaves out."""
    name = catalog_name(axes[axis])
    procedure = axes.get("procedure")
    if getattr(procedure, "implies", {}).get(axis) == name:
        return True
    if axis == "retain":
        return retain_weight == 0 or not getattr(procedure, "forgets", True)
    if axis == "objective":
        return getattr(procedure, "reinforces", False)
    implied = {("gradient", "sum"), ("procedure", "plain"), ("data", "raw"), ("data", "refusals")}
    return axis == "detector" or (axis, name) in implied
