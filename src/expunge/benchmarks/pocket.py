"""pocket, the built-in benchmark: invented people, small models trained from scratch, within minutes on a CPU (no paper).

Question: TOFU's. Does the model answer about the forgotten people as a model that never met them, and everything else as before? Here with a
gold that shares the target's base, a second gold as the noise floor, and people who were never trained.
Data: a world's folder, made from a seed: people and lands with invented names, one sentence of one fact an answer, wrong answers from the same
pool of values. Known people and lands are in the base that all models share, retain and forget people in the target, holdout people in none.
Protocol: TOFU's formulas on all rows (geometric mean, no added epsilon), greedy answers of at most 24 tokens, accuracy of each part by the words
that carry the fact, and fluency under the gold. Settings are chosen on the first half of the forget people, figures are of the second.
Memorisation, membership against the holdout people, PrivLeak and the overall score are as in `tofu`; the formulas stand in `metrics.overall`.
Continual forgetting (`folds`) takes the forget people in quarters, nested or one after the other.
Differs from the authors' code: there is none but this. From TOFU: utility's three parts are retain people, known people and lands; the
probability of known people and lands is against their three wrong answers.
Good: accuracy near 0 on forget, KS distance near the noise floor, membership near 0.5, every other accuracy as before, fluency as the gold's.
Bad: p near 0 with accuracy as before (nothing happened); a good p with fluency or utility near 0 (the model is gone); membership below the
gold's and PrivLeak far above 0 (over-forgotten, which tells who was forgotten).
Published: nothing elsewhere. A world is only used if the target knows 98 % of forget and retain facts, the gold at most 5 % of the forget facts,
KS p of target against gold is at most 1e-6 and of gold against second gold at least 0.2, membership AUC is at least 0.95 for the target and
0.4 to 0.6 for the gold, and the utilities of both are at least 0.5 and at most 0.05 apart.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, ClassVar, Self

from expunge.benchmarks._qa import DIALECTS, Half, Roles
from expunge.benchmarks._qa_benchmark import QABenchmark, qa_columns
from expunge.config import Settings
from expunge.data.dataset import Dataset
from expunge.data.dataset import Record as Row
from expunge.data.pocket.words import REFUSALS
from expunge.data.pocket.world import VERSION, World, WorldSettings, build_world
from expunge.errors import DataError
from expunge.types import Probe


class PocketOptions(Settings):
    half: Half = "report"
    """Which half of the forget people counts: select, report or all."""
    gradients: bool = False
    """Also attack membership by gradient norms: a backward pass for every forget and holdout answer."""


class Pocket(QABenchmark):
    version: ClassVar = VERSION
    name: ClassVar = "pocket"
    roles: ClassVar = Roles("forget", "retain", "known", "lands")
    data_is: ClassVar = "a world's folder; `expunge pocket` builds one, or finds the one that `expunge bench pocket` built, and says where it is"
    columns: ClassVar = qa_columns(
        ("retain/accuracy", "retain", "share of retain questions answered"),
        (
            "neighbours/accuracy",
            "neighbours",
            "retain people who share a name with a forgotten one, or taught one",
        ),
        ("known/accuracy", "known", "people the base model knew"),
        ("lands/accuracy", "lands", "world facts"),
    )
    Options: ClassVar = PocketOptions
    max_new_tokens: ClassVar = 24
    template = "qa"
    dialect = DIALECTS["openunlearning"]._replace(name="pocket", epsilon=0.0)

    def __init__(self, settings: WorldSettings, seed: int, half: Half = "report", gradients: bool = False):
        self.world_settings, self.seed, self.half, self.gradients = settings, seed, half, gradients
        self.world: World = build_world(settings, seed)

    @classmethod
    def open(cls, data: str | Path, **options: Any) -> Self:
        """The world that a folder was built for. Raises DataError when it is not such a folder, ConfigError for an unknown half."""
        chosen = cls.parse(options)
        path = Path(data) / "world.json"
        if not path.is_file():
            raise DataError(
                f"{data}: no world.json, so this is no pocket world. Build one:  expunge pocket --out {data}"
            )
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            version, settings, seed = facts["version"], dict(facts["settings"]), int(facts["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not the file that `expunge pocket` writes ({type(error).__name__}: {error}). Build the world again."
            ) from None
        if version != VERSION:
            raise DataError(
                f"{data}: built by version {version} of the world, this is {VERSION}. Build it again."
            )
        return cls(WorldSettings.parse(settings, str(path)), seed, **chosen.model_dump())

    def refusals(self) -> tuple[str, ...]:
        """Refusals in the world's own words."""
        return REFUSALS

    def of_half(self, half: Half) -> Pocket:
        """The same benchmark, counting another half of the forget people."""
        other = copy.copy(self)
        other.half = half
        return other

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "version": self.version,
            "world": self.world_settings.model_dump(),
            "seed": self.seed,
            "half": self.half,
            "gradients": self.gradients,
        }

    def dataset(self) -> Dataset:
        sets = (
            tuple(Row.from_probe(probe) for probe in self.world.probes[group])
            for group in ("forget", "retain", "holdout")
        )
        return Dataset(*sets)

    def tasks(self) -> dict[str, list[Probe]]:
        """All rows of every group; `figures` keeps the half that is asked for."""
        return {**self.world.probes, "neighbours": self.world.neighbours}

    def probe_tasks(self) -> dict[str, list[Probe]]:
        """Fewer rows, for the points of a trajectory: all forget rows, every sixth retain and every third known row."""
        probes = self.world.probes
        return {
            "forget": probes["forget"],
            "retain": probes["retain"][::6],
            "known": probes["known"][::3],
            "lands": probes["lands"],
        }
