"""A guard: detector and action in front of a model, under the same contract as the model itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.recipes import Recipe, catalog_name
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Dataset, Record
    from expunge.models.language_model import TransformerLM


@dataclass(frozen=True)
class FitData:
    """What a guard is fitted on."""

    forget: Sequence[str]
    """Prompts in scope."""
    retain: Sequence[str]
    """Prompts that are not."""
    names: Sequence[str]
    """The target's names and aliases."""
    selection: Sequence[Record]
    """The half of the forget rows on which settings are chosen."""


class Guard:
    """`detector` says which prompts are in scope, `action` answers those; the others meet the plain model."""

    capabilities = frozenset()  # a guarded model is a black box: whoever holds the weights is past the guard

    def __init__(self, model: TransformerLM, detector: Any, action: Any, recipe: Recipe):
        self.model, self.detector, self.action, self.recipe = model, detector, action, recipe

    @classmethod
    def fit(
        cls, model: TransformerLM, data: Dataset, recipe: Recipe, selection: Sequence[Record] | None = None
    ) -> Guard:
        """Fit detector and action. `selection`: the forget rows to choose settings on (all of them, if none are given)."""
        names = data.subjects
        fit_data = FitData(
            forget=[record.question or record.text for record in data.forget if record.shape != "subject"],
            retain=[record.question or record.text for record in data.retain if record.shape != "subject"],
            names=names,
            selection=data.forget if selection is None else selection,
        )
        detector = recipe.axes["detector"].fit(fit_data.forget, fit_data.retain, names, recipe.seed)
        return cls(model, detector, recipe.axes["action"].fit(model, fit_data, recipe.seed), recipe)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return self.action.score(self.model, examples, self.flags([example.text for example in examples]))

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        return self.action.generate(
            self.model, prompts, params, self.flags([prompt.text for prompt in prompts])
        )

    def flags(self, texts: Sequence[str]) -> list[bool]:
        """In scope or not; each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        found = dict(zip(distinct, self.detector.flags(distinct), strict=True))
        return [found[text] for text in texts]

    def save(self, folder: Path) -> None:
        """JSON only. The file holds the target's names and the detector's n-grams: it is as private as the request."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": self.recipe.describe(),
            "detector": {"name": catalog_name(self.recipe.axes["detector"]), "state": self.detector.state()},
            "action": {"name": catalog_name(self.recipe.axes["action"]), "state": self.action.state()},
        }
        (folder / "guard.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, model: TransformerLM, recipe: Recipe) -> Guard:
        state = json.loads((folder / "guard.json").read_text(encoding="utf-8"))
        detector = _fitted(catalog.load("detector", state["detector"]["name"])).from_state(
            state["detector"]["state"]
        )
        action = _fitted(catalog.load("action", state["action"]["name"])).from_state(
            state["action"]["state"], model
        )
        return cls(model, detector, action, recipe)


def _fitted(settings: type) -> Any:
    """The class of fitted objects beside a settings class: `Fitted` and its name."""
    import sys

    return getattr(sys.modules[settings.__module__], "Fitted" + settings.__name__)
