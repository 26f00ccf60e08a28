"""A guard: detector and action in front of a model, under the same contract as the model itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge import catalog
from expunge.errors import ModelError
from expunge.guards.detection import Detection
from expunge.guards.state import read_state, write_state
from expunge.recipes import Recipe, catalog_name
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class Place(NamedTuple):
    """What a part of a guard needs to come back from its state."""

    folder: Path
    """The guard's own."""
    open: Callable[[str], LanguageModel]
    """A model by folder, hub id, or address of an endpoint (http://host/v1#model)."""


@dataclass(frozen=True)
class FitData:
    """What a guard is fitted on."""

    forget: Sequence[Record]
    retain: Sequence[Record]
    names: Sequence[str]
    """The target's names and aliases."""
    selection: Sequence[Record]
    """The half of the forget rows on which settings are chosen."""
    seed: int
    place: Place
    make: Callable[..., Path]
    """`make(part, method, forget=None, retain=None, **recipe_settings)`: unlearn with another recipe from the guarded model on
    these rows (all of them where none are given), in the folder `part` of the guard, and return that run folder. Done once: a
    killed run goes on. `train` is the guard's own unless it is given."""
    whole: FitData | None = None
    """All rows, where these are a part of them: for what learns nothing, and so need not be kept from any."""

    @property
    def forget_prompts(self) -> list[str]:
        """Each distinct prompt in scope."""
        return _prompts(self.forget)

    @property
    def retain_prompts(self) -> list[str]:
        return _prompts(self.retain)

    @property
    def can_calibrate(self) -> bool:
        """Whether there are prompts of both classes."""
        return bool(self.forget_prompts and self.retain_prompts)

    def split(self, share: float) -> tuple[FitData, FitData]:
        """Rows to learn from, and the `share` of the prompts that is kept from it. Rows with the same prompt stay together."""
        rng = np.random.default_rng(self.seed)
        parts = [_split(rows, share, rng) for rows in (self.forget, self.retain)]
        (learn_f, keep_f), (learn_r, keep_r) = parts
        part = replace(self, whole=self.whole or self)
        return replace(part, forget=learn_f, retain=learn_r), replace(part, forget=keep_f, retain=keep_r)


def _prompts(rows: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(row.question or row.text for row in rows if row.shape != "subject"))


def _split(
    rows: Sequence[Record], share: float, rng: np.random.Generator
) -> tuple[list[Record], list[Record]]:
    texts = _prompts(rows)
    kept = {texts[i] for i in rng.permutation(len(texts))[: round(share * len(texts))]}
    found: tuple[list[Record], list[Record]] = ([], [])
    for row in rows:
        found[(row.question or row.text) in kept].append(row)
    return found


class Guard:
    """`detection` says which prompts are in scope, `action` answers those; the others meet the plain model."""

    capabilities = frozenset()  # a guarded model is a black box: whoever holds the weights is past the guard

    def __init__(self, model: LanguageModel, detection: Detection, action: Any, recipe: Recipe):
        self.model, self.detection, self.action, self.recipe = model, detection, action, recipe

    @classmethod
    def fit(cls, model: LanguageModel, data: FitData, recipe: Recipe) -> Guard:
        """Fit detector and action. Raises ModelError where the action needs weights and the model is an endpoint."""
        if "weights" in recipe.axes["action"].needs and "weights" not in model.capabilities:
            raise ModelError(
                f"method '{recipe.method}' works inside the model, and an endpoint only answers. Give the model itself, "
                "or take a guard that works on text, such as alu, icul, guard_prompt, redact or refuse."
            )
        recipe.axes["detector"].refuse_endpoint(model)
        detection = Detection.fit(recipe.axes["detector"], model, data)
        return cls(model, detection, recipe.axes["action"].fit(model, data), recipe)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return self.action.score(self.model, examples, self.flags([example.text for example in examples]))

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        return self.action.generate(
            self.model, prompts, params, self.flags([prompt.text for prompt in prompts])
        )

    def flags(self, texts: Sequence[str]) -> list[bool]:
        """In scope or not; each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        found = dict(zip(distinct, self.detection.flags(distinct), strict=True))
        return [found[text] for text in texts]

    def save(self, folder: Path) -> None:
        """JSON and safetensors. The files hold the target's names and what the detector learnt: as private as the request."""
        state = {
            "recipe": self.recipe.describe(),
            "tokenizer": tokenizer_hash(self.model),
            "detector": self.detection.state(),
            "action": {"name": catalog_name(self.recipe.axes["action"]), "state": self.action.state()},
        }
        write_state(folder, state)

    @classmethod
    def load(
        cls, folder: Path, model: LanguageModel, recipe: Recipe, open_model: Callable[[str], LanguageModel]
    ) -> Guard:
        """Raises ModelError when the guard was fitted for another tokenizer than the model's."""
        state = read_state(folder)
        if state["tokenizer"] != tokenizer_hash(model):
            raise ModelError(
                f"{folder}: fitted for another tokenizer than this model's, so it would watch over other tokens.\n"
                "Fit the guard again for this model: expunge guard fit MODEL ..."
            )
        place = Place(folder, open_model)
        detection = Detection.from_state(state["detector"], model, place)
        settings = catalog.load("action", state["action"]["name"])
        action = catalog.fitted(settings).from_state(state["action"]["state"], model, place)
        return cls(model, detection, action, recipe)


def tokenizer_hash(model: LanguageModel) -> str:
    """Of everything that turns text into tokens; empty for an endpoint, whose tokens are its own affair."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return ""
    facts: Mapping[str, Any] = tokenizer.get_vocab()
    text = repr(sorted(facts.items())) + repr(tokenizer.chat_template)
    return hashlib.sha256(text.encode()).hexdigest()
