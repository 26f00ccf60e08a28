"""pocket, the built-in benchmark: invented people, small models trained from scratch, everything within minutes on a CPU.

Question it answers: the one TOFU asks, with a gold that shares the target's base, a second gold as the noise floor, and people
who were never trained. Settings are chosen on the first half of the forget people and figures are reported on the second.
Protocol: TOFU's, plus accuracy of each part, fluency under a judge, membership against the never-trained people. Deviations
from TOFU: answers are one sentence of one fact, and utility's three parts are retain people, known people and lands.
A good result: accuracy near 0 on forget, KS distance near the noise floor, every other accuracy as before, fluency as the
gold's. A bad one: see TOFU; besides, a KS p that looks good with fluency near zero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from expunge.benchmarks._qa import DIALECTS, Half, Roles
from expunge.benchmarks._qa_benchmark import QABenchmark
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


class Pocket(QABenchmark):
    version: ClassVar = VERSION
    name: ClassVar = "pocket"
    roles: ClassVar = Roles("forget", "retain", "known", "lands")
    data_is: ClassVar = "a world's folder; `expunge pocket` builds one, or finds the one that `expunge bench pocket` built, and says where it is"
    Options: ClassVar = PocketOptions
    max_new_tokens: ClassVar = 24
    template = "qa"
    dialect = DIALECTS["openunlearning"]._replace(name="pocket", epsilon=0.0)

    def __init__(self, settings: WorldSettings, seed: int, half: Half = "report"):
        self.world_settings, self.seed, self.half = settings, seed, half
        self.world: World = build_world(settings, seed)

    @classmethod
    def open(cls, data: str | Path, **options: Any) -> Self:
        """The world that a folder was built for. Raises DataError when it is not such a folder, ConfigError for an unknown half."""
        half = cls.parse(options).half
        path = Path(data) / "world.json"
        if not path.is_file():
            raise DataError(
                f"{data}: no world.json, so this is no pocket world. Build one:  expunge pocket --out {data}"
            )
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise DataError(
                f"{data}: built by version {facts['version']} of the world, this is {VERSION}. Build it again."
            )
        return cls(WorldSettings.parse(facts["settings"], str(path)), facts["seed"], half)

    def refusals(self) -> tuple[str, ...]:
        """Refusals in the world's own words."""
        return REFUSALS

    def of_half(self, half: Half) -> Pocket:
        """The same benchmark, counting another half of the forget people."""
        return Pocket(self.world_settings, self.seed, half)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "version": self.version,
            "world": self.world_settings.model_dump(),
            "seed": self.seed,
            "half": self.half,
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
