"""What the tests of backends share: answers of a backend, and guards and adapters that do something to a tiny model."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

import numpy as np
import torch
from torch import nn

from expunge.data.dataset import Dataset, Record
from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.methods.adapters.orthogonal import Orthogonal
from expunge.models.embedding_table import EmbeddingTable
from expunge.models.scaled_adapters import read_adapter
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import GenerationParams, Prompt

NAMES = ("Mara Olen", "Tovin Brask")


def answers(backend, *asks):
    """The pieces of each answer, one after the other."""

    async def run():
        await backend.start()
        try:
            found = []
            for ask in asks:
                async with aclosing(backend.stream(ask)) as pieces:
                    found.append([piece async for piece in pieces])
            return found
        finally:
            await backend.stop()

    return asyncio.run(run())


def text(pieces):
    return "".join(piece.text for piece in pieces)


def eco(model, kind=FittedECO, **settings):
    return kind(ECO(**settings), TargetNames(["Mara Olen", "Mara Brask"]), model, 4.0, 0, [])


class PromptOnly(FittedECO):
    """ECO as far as vLLM carries it: what the model writes itself is left alone."""

    def written_mask(self, ids, start):
        return np.zeros(len(ids) - start, dtype=bool)

    @property
    def verdicts(self):
        return [False] * self.vocabulary


def forbidding_run(folder, lm, out):
    """A run of the guard 'guard' that forbids some words of what the model would say."""
    prompts = [Prompt.ask(f"Where was {name} born?") for name in NAMES]
    rows = []
    for i, (prompt, (said,)) in enumerate(
        zip(prompts, lm.generate(prompts, GenerationParams(40)), strict=True)
    ):
        words = set(re.findall(r"(?<!\w)[A-Za-z]{3,}(?!\w)", said.text)) - {
            "know",
            "not",
        }  # which the refusal says
        rows.append(
            Record(
                f"f{i}", question=prompt.text, answer=said.text, subject=NAMES[i], key=tuple(sorted(words))
            )
        )
    made = recipe("guard", detector={"name": "aliases"})
    return unlearn(folder, Dataset(tuple(rows), ()), made, out, device="cpu")


class Mixed:
    """As much of a fitted O3 as a backend looks at."""

    __module__ = "expunge.guards.actions.o3"

    def __init__(self, adapters, weights):
        self.adapters, self._weights = adapters, weights

    def weights(self, texts):
        return np.array([self._weights for _ in texts])


def made_adapters(folder, out):
    """Two adapters that change what the model says, as a run leaves them."""
    adapted = Orthogonal(rank=4, alpha=8).attach(load(folder, device="cpu").model, 0)
    Orthogonal(rank=4, alpha=8).attach_next(adapted, 2, 0)
    torch.manual_seed(7)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p.data, std=0.2)
    adapted.save_pretrained(str(out))
    table = EmbeddingTable(folder)
    return [read_adapter(path, table.model) for path in (out, out / "request-2")]
