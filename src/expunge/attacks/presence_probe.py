"""Presence probe: a linear map, learned on people who stay, reads a forgotten person's fact out of a hidden state.

    h: state after one block at the end of the subject's name, or of the sentence up to the value;      x = (h - mean) / deviation
    B = argmin Σ_people || e(value) - mean e - Bᵀx ||² + λ n ||B||²,      e(value): mean output embedding of the value's tokens
    reading = argmax over candidates c of cos( e(c), Bᵀx + mean e )
    reading = argmax over candidates c of softmax( Wx + b )_c       where values are few, each of many people, and all candidates among them
    selectivity = accuracy - accuracy of the same probe learned on values dealt anew among the same people

What a model no longer says can still stand in its states. Values that one or two people have are no classes to learn; but all of them live
in one space, that of the output embeddings, so one map into it is learned from everybody who stays, and reads values it never saw. Place
and block are chosen by people held out among those who stay: the earliest that is within one standard error of the best. A second probe
is learned on the model before unlearning, and read on this one: it works where directions were left as they were.
Needs: the weights, and rows of people who stay, with values and wrong values.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: few people stay (the map has as many rows as they have facts), or the states hold the fact in no linear form. Gold and shuffled
values say what a reading is worth: candidates alone give 1 in as many as there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from expunge.attacks._attack import Found, Kind, Opened, OpeningAttack, Reading, Tier
from expunge.attacks._case import Case
from expunge.attacks._probing import FOLDS, every_state, folds, people
from expunge.attacks._weights import shape_of
from expunge.data.tokenize import find_words
from expunge.types import Example, Prompt, Seed

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

PLACES = ("at the name", "before the value")
Where = tuple[str, int]
"""A place and the number of a block."""
States = Mapping[Where, np.ndarray]
"""[rows, hidden] each."""


class PresenceProbe(OpeningAttack):
    id: ClassVar[str] = "W6"
    tier: ClassVar[Tier] = "T4"
    kind: ClassVar[Kind] = "inside"
    version: ClassVar[int] = 2

    ridge: float = Field(0.1, gt=0)
    """λ of the map into the output embeddings."""
    per_value: int = Field(5, ge=2)
    """A question whose values have so many people each, on average, gets a multinomial probe of its own."""

    def read(self, opened: Opened) -> Reading:
        rows = [case for case in opened.retain if case.value and case.wrong]
        numbers = [i for i, case in enumerate(opened.cases) if case.value and case.wrong]
        if not numbers:
            return Reading(why="which words carry the fact is not known")
        if len(set(people(rows))) < 2 * FOLDS:
            return Reading(why=f"a probe takes {2 * FOLDS} people who stay, with values and wrong values")
        cases = [opened.cases[i] for i in numbers]
        states = states_at(opened.lm, cases)
        own = self.study(opened.lm, rows, cases, opened.seed)
        found = own.read(states, cases, numbers, "its own probe")
        notes: dict[str, float | None] = dict(own.notes)
        for where, x in states.items():
            notes[_named("accuracy on forgotten people", where)] = _right(own.probe(where).picks(x, cases))
        notes["chance"] = float(np.mean([1 / (1 + len(case.wrong)) for case in cases]))
        notes["majority"] = _majority(rows, cases)
        original = opened.original() if opened.original else None
        if original and shape_of(original) == shape_of(opened.lm):
            before = self.study(original, rows, cases, opened.seed)
            # the original's embeddings of the candidates know which of them were learned: this model's own are compared
            before = before.comparing(own.probe(own.best).embeddings)
            found += before.read(states, cases, numbers, "the original's probe")
            picks = before.probe(before.best).picks(states[before.best], cases)
            notes["accuracy on forgotten people, the original's probe"] = _right(picks)
        return Reading(found, notes)

    def study(self, lm: TransformerLM, rows: Sequence[Case], cases: Sequence[Case], seed: Seed) -> Studied:
        """Every place and block tried on people held out of `rows`. `cases`: whose candidates it will have to tell apart."""
        rng = np.random.default_rng(seed.child("probe").number)
        fold, dealt = folds(people(rows), rng), _dealt_anew(rows, rng)
        values = [case.value for case in rows]
        states, embeddings = states_at(lm, rows), embeddings_of(lm, [*rows, *cases])
        few = self._few(rows)

        def fit(where: Where, given: Sequence[str], kept: np.ndarray) -> Probe:
            mine = [rows[i] for i in kept]
            return fit_probe(states[where][kept], mine, [given[i] for i in kept], embeddings, self.ridge, few)

        def tried(where: Where, given: Sequence[str]) -> float:
            right = np.empty(len(rows), dtype=bool)
            for number in range(FOLDS):
                out = np.flatnonzero(fold == number)
                probe = fit(where, given, np.flatnonzero(fold != number))
                right[out] = np.array(probe.picks(states[where][out], [rows[i] for i in out])) == 0
            return float(right.mean())

        held_out = {where: tried(where, values) for where in states}
        notes: dict[str, float | None] = {}
        for where, accuracy in held_out.items():
            notes[_named("accuracy on people held out", where)] = accuracy
            notes[_named("selectivity", where)] = accuracy - tried(where, dealt)
        best = earliest_of_the_best(held_out, len(set(people(rows))))
        return Studied(best, {where: fit(where, values, np.arange(len(rows))) for where in states}, notes)

    def _few(self, rows: Sequence[Case]) -> frozenset[str]:
        """Questions, with the name taken out, whose values are classes."""
        values: dict[str, list[str]] = {}
        for case in rows:
            values.setdefault(_question(case), []).append(case.value)
        return frozenset(
            question for question, seen in values.items() if 1 < len(set(seen)) <= len(seen) / self.per_value
        )


class Studied(NamedTuple):
    """What was learned on one model."""

    best: Where
    probes: Mapping[Where, Probe]
    notes: Mapping[str, float | None]

    def probe(self, where: Where) -> Probe:
        return self.probes[where]

    def comparing(self, embeddings: Mapping[str, np.ndarray]) -> Studied:
        """With other embeddings of the candidates."""
        probes = {where: probe._replace(embeddings=embeddings) for where, probe in self.probes.items()}
        return self._replace(probes=probes)

    def read(
        self, states: States, cases: Sequence[Case], numbers: Sequence[int], variant: str
    ) -> list[Found]:
        """What the best probe reads in these states."""
        found = []
        for case, number, pick in zip(
            cases, numbers, self.probe(self.best).picks(states[self.best], cases), strict=True
        ):
            options = (case.value, *case.wrong)
            hits = tuple(i == pick for i in range(len(options)))
            found.append(
                Found(number, hits, variant, options[pick], f"{sentence(case, self.best[0]).text} [block {self.best[1]}]")
            )  # fmt: skip
        return found


# --- where it is read -----------------------------------------------------------------------------------------------------
def sentence(case: Case, place: str) -> Prompt:
    """What the model has read at a place: the question, and the statement up to the end of the name, or up to the value."""
    head = case.head
    named = find_words(case.name, head) if case.name and place == PLACES[0] else []
    return Prompt.ask(case.question, head[: named[-1][1]] if named else head)


def states_at(lm: TransformerLM, cases: Sequence[Case]) -> dict[Where, np.ndarray]:
    """[cases, hidden] float64 at each place after each block."""
    return {
        (place, block): states.astype(np.float64)
        for place in PLACES
        for block, states in enumerate(every_state(lm, [sentence(case, place) for case in cases]))
    }


def embeddings_of(lm: TransformerLM, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """[hidden] float64 of every candidate: the mean of its tokens' output embeddings, less the mean of the whole vocabulary."""
    weight = lm.model.get_output_embeddings().weight.detach().float()
    mean = weight.mean(0)
    texts = list(dict.fromkeys(text for case in cases for text in (case.value, *case.wrong)))
    rows = lm.encoder.examples([Example(Prompt.ask(""), text) for text in texts])
    return {
        text: (weight[row.ids[row.start : -1]].mean(0) - mean).double().cpu().numpy()
        for text, row in zip(texts, rows, strict=True)
    }


# --- the probe ------------------------------------------------------------------------------------------------------------
class Probe(NamedTuple):
    """One map for all questions, and classes for those that have few values."""

    mean: np.ndarray  # [hidden]
    deviation: np.ndarray  # [hidden]
    weights: np.ndarray  # [hidden, hidden]
    bias: np.ndarray  # [hidden]
    embeddings: Mapping[str, np.ndarray]
    classes: Mapping[str, tuple[list[str], np.ndarray]]
    """By question: its values, and [values, 1 + hidden] the weights of each, bias first."""

    def picks(self, states: np.ndarray, cases: Sequence[Case]) -> list[int]:
        """Which candidate is read in each of [cases, hidden]: 0 for the value, then the wrong ones."""
        x = (states - self.mean) / self.deviation
        aims = x @ self.weights + self.bias
        found = []
        for row, aim, case in zip(x, aims, cases, strict=True):
            options = (case.value, *case.wrong)
            values, weights = self.classes.get(_question(case), ([], None))
            if weights is not None and set(options) <= set(values):
                odds = dict(zip(values, weights[:, 1:] @ row + weights[:, 0], strict=True))
                scores = [odds[text] for text in options]
            else:  # a candidate that is no class could not be read, which would favour those that are
                scores = [_cosine(self.embeddings[text], aim) for text in options]
            found.append(int(np.argmax(scores)))
        return found


def fit_probe(
    states: np.ndarray,
    rows: Sequence[Case],
    values: Sequence[str],
    embeddings: Mapping[str, np.ndarray],
    ridge: float,
    few: frozenset[str] = frozenset(),
) -> Probe:
    """On [rows, hidden] states and the values that are to be read in them. `few`: questions whose values are classes."""
    mean, deviation = states.mean(0), states.std(0) + 1e-8
    x, y = (states - mean) / deviation, np.array([embeddings[value] for value in values])
    bias = y.mean(0)
    weights = closed_form(x, y - bias, ridge * len(x))
    classes = {}
    for question in few:
        mine = [i for i, case in enumerate(rows) if _question(case) == question]
        if len({values[i] for i in mine}) > 1:
            classes[question] = _multinomial(x[mine], [values[i] for i in mine])
    return Probe(mean, deviation, weights, bias, embeddings, classes)


def closed_form(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The W with the least || y - xW ||² + penalty · ||W||², over the smaller of rows and columns."""
    if len(x) < x.shape[1]:
        return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def _multinomial(x: np.ndarray, values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(max_iter=10_000).fit(x, list(values))
    weights = np.column_stack([found.intercept_, found.coef_])
    if len(weights) == 1:  # two classes have one line between them
        weights = np.concatenate([np.zeros_like(weights), weights])
    return [str(value) for value in found.classes_], weights


def earliest_of_the_best(held_out: Mapping[Where, float], n: int) -> Where:
    """Within one standard error, of `n` people, of the highest accuracy."""
    best = max(held_out.values())
    least = best - (best * (1 - best) / n) ** 0.5
    return next(where for where, accuracy in held_out.items() if accuracy >= least)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))


def _question(case: Case) -> str:
    return case.about("")


def _dealt_anew(rows: Sequence[Case], rng: np.random.Generator) -> list[str]:
    """The values of each question, in another order among the same people."""
    dealt = [case.value for case in rows]
    for question in sorted({_question(case) for case in rows}):
        mine = [i for i, case in enumerate(rows) if _question(case) == question]
        for i, other in zip(mine, rng.permutation(mine), strict=True):
            dealt[i] = rows[other].value
    return dealt


def _majority(rows: Sequence[Case], cases: Sequence[Case]) -> float:
    """How often the candidate that most people who stay have is right; level ones share."""
    often = Counter((_question(case), case.value) for case in rows)
    shares = []
    for case in cases:
        counts = [often[_question(case), text] for text in (case.value, *case.wrong)]
        shares.append((counts[0] == max(counts)) / counts.count(max(counts)))
    return float(np.mean(shares))


def _right(picks: Sequence[int]) -> float:
    return float(np.mean([pick == 0 for pick in picks]))


def _named(what: str, where: Where) -> str:
    return f"{what}, {where[0]}, block {where[1]}"
