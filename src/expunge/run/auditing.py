"""Putting an audit's trials to models: all trials of all attacks and cases in common batches, kept as they come, turn after turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.attacks._attack import (
    RANKS,
    WRITE,
    AskingAttack,
    Found,
    Given,
    Opened,
    OpeningAttack,
    Reading,
    Trial,
    answers_of,
    chances,
)
from expunge.attacks._case import Case
from expunge.attacks._reading import decode, says_any
from expunge.benchmarks._asks import Asks, Replies
from expunge.errors import DataError
from expunge.run.make import Progress, load, model_hash, silent
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score, Seed

Attack = AskingAttack | OpeningAttack
Ask = Callable[[Asks], Replies]
"""Puts everything to one model; `run.asking.replies_of` keeps what it says, `benchmarks._asks.ask` does not."""
Fits = Callable[[Sequence[Trial]], list[bool]]
VERSION = 3
"""Raised whenever the same replies give other rows, or a helper of several opening attacks reads otherwise."""
MOST_TURNS = 8


@dataclass(frozen=True)
class Material:
    """What is attacked."""

    cases: Sequence[Case]
    """The facts that are to come back."""
    known: Sequence[Case] = ()
    """Other forgotten rows, about other people: what an attacker may train on."""
    retain: Sequence[Case] = ()
    neighbours: Sequence[Case] = ()
    """Rows that must still be answered, nearest to what was forgotten."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What identifies it: audits of other material do not compare."""


class Planned(NamedTuple):
    """One trial, and whose it is."""

    attack: str
    case: int
    trial: Trial


class Tried(NamedTuple):
    """One row of an audit: one trial, read."""

    attack: str
    case: int
    variant: str
    turn: int
    hits: tuple[bool, ...]
    """For the right answer and each wrong one."""
    prompt: str
    text: str
    """What came, as written."""
    tokens: int = 0


class Subject(NamedTuple):
    """What was found on one model."""

    rows: dict[str, list[Tried]]
    """By attack."""
    why: dict[str, str]
    """By attack, why it has no rows."""
    notes: dict[str, Mapping[str, float | None]]
    neighbours: list[bool]
    """Whether each neighbour's question is answered."""


# --- what is asked ----------------------------------------------------------------------------------------------------
def planned(
    attacks: Mapping[str, AskingAttack],
    material: Material,
    seed: int,
    fits: Fits,
    endpoint: bool = False,
    helper: Given | None = None,
) -> tuple[list[Planned], dict[str, Counter[str]]]:
    """First turns of every attack on every case, and by attack, how many were left out for which reason."""
    made: list[Planned] = []
    left_out: dict[str, Counter[str]] = {name: Counter() for name in attacks}
    for name, attack in attacks.items():
        for number, case in enumerate(material.cases):
            rng = chances(Seed(seed), name, case)
            given = replace(helper, rng=rng) if helper else Given(rng)
            trials = list(attack.trials(case, given))
            if not trials:
                left_out[name]["the row has not what it takes"] += 1
            for trial in trials:
                why = _unfit(attack, case, trial, endpoint)
                if why:
                    left_out[name][why] += 1
                else:
                    made.append(Planned(name, number, trial))
    kept = []
    for one, fit in zip(made, fits([one.trial for one in made]), strict=True):
        if fit:
            kept.append(one)
        else:
            left_out[one.attack]["longer than the model reads"] += 1
    return kept, left_out


def _unfit(attack: AskingAttack, case: Case, trial: Trial, endpoint: bool) -> str:
    """Why a trial would say nothing; empty where it would."""
    if not answers_of(case, trial) and attack.kind != "list":
        return "which words carry the fact is not known"
    if attack.kind == "open" and trial.read == "text":
        shown = trial.prompt.text
        if says_any(shown, answers_of(case, trial)[0]):
            return "the answer stands in the prompt already"
    if endpoint and (
        trial.read != "text"
        or trial.prompt.prefill
        or not trial.prompt.messages
        or trial.params.bias
        or trial.params.beams > 1
    ):
        return "an endpoint answers chats: no likelihoods, no pushed tokens, no beams, no start of an answer"
    return ""


def fitting(encoder: Any) -> Fits:
    """Whether prompts, with room for what is written, fit the model's context."""
    longest = max(map(len, encoder.tokenizer.get_vocab()))  # characters that one token can stand for

    def fits(trials: Sequence[Trial]) -> list[bool]:
        texts = [encoder.render(trial.prompt) for trial in trials]
        able = [len(text) <= longest * encoder.max_tokens for text in texts]
        counted = encoder.tokenizer([text for text, fit in zip(texts, able, strict=True) if fit] or [""])[
            "input_ids"
        ]
        counts = iter(counted)
        return [
            fit and len(next(counts)) + trial.params.max_new_tokens <= encoder.max_tokens
            for trial, fit in zip(trials, able, strict=True)
        ]

    return fits


# --- asking -----------------------------------------------------------------------------------------------------------
class Patient:
    """A model that answers nothing where a prompt is too long for it with what a guard adds, in place of giving up the whole batch, and
    nothing at all where its weights are no numbers.
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        self.broken = is_broken(model)

    @property
    def capabilities(self) -> frozenset[str]:
        return self.model.capabilities

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return self.model.score(examples)

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        if self.broken:
            return [[Generation("", 0, False)] * params.copies for _ in prompts]
        try:
            return self.model.generate(prompts, params)
        except DataError:
            if len(prompts) == 1:
                return [[Generation("", 0, False)] * params.copies]
            return [self.generate([prompt], params)[0] for prompt in prompts]


def is_broken(lm: Any) -> bool:
    """Whether some weight of a model at hand is no number."""
    model = getattr(lm, "model", None)
    return hasattr(model, "parameters") and not all(bool(w.isfinite().all()) for w in model.parameters())


def ask_all(
    ask: Ask,
    plans: Sequence[Planned],
    attacks: Mapping[str, AskingAttack],
    cases: Sequence[Case],
    fits: Fits = lambda trials: [True] * len(trials),
) -> list[Tried]:
    """Every trial put to a model, and the turns that follow from what it says, as long as they fit."""
    rows: list[Tried] = []
    turn, going = 1, list(plans)
    while going and turn <= MOST_TURNS:
        replies = ask(_asks(going))
        after: list[Planned] = []
        for one in going:
            tried = list(_read(one, cases[one.case], replies, turn))
            rows += tried
            if one.trial.read == "text" and tried:
                following = attacks[one.attack].follow(cases[one.case], one.trial, tried[0].text)
                if following:
                    after.append(Planned(one.attack, one.case, following))
        kept = fits([one.trial for one in after])
        turn, going = turn + 1, [one for one, fit in zip(after, kept, strict=True) if fit]
    return rows


def _asks(plans: Sequence[Planned]) -> Asks:
    return Asks(
        scores=[Example(p.trial.prompt, option) for p in plans if p.trial.read != "text" for option in p.trial.options],
        answers=[(p.trial.prompt, p.trial.params) for p in plans if p.trial.read == "text"],
    )  # fmt: skip


def _read(one: Planned, case: Case, replies: Replies, turn: int) -> list[Tried]:
    trial = one.trial
    answers = answers_of(case, trial)
    prompt = "\n".join([f"{m.role}: {m.content}" for m in trial.prompt.messages] + ([f"assistant: {trial.prompt.prefill}"] if trial.prompt.prefill else []))  # fmt: skip
    row = Tried(one.attack, one.case, trial.variant, turn, (), prompt, "")
    if trial.read == "text":
        written = replies.answer(trial.prompt, trial.params) or []
        return [
            row._replace(
                hits=tuple(says_any(plain, forms) for forms in answers),
                text=answer.text,
                tokens=answer.tokens,
            )
            for answer in written
            for plain in [decode(answer.text, trial.codec)]
        ]
    scores = [replies.score(Example(trial.prompt, option)) for option in trial.options]
    found = [score for score in scores if score is not None]
    if len(found) < len(scores):
        return []
    if trial.read == "rank":
        ranks = [None if score.floored or score.ranks is None else int(score.ranks[0]) for score in found]
        hits = tuple(rank is not None and rank < RANKS for rank in ranks)
        return [row._replace(hits=hits, text=f"ranks {ranks}")]
    logprobs = [score.logprob for score in found]
    best = max(range(len(found)), key=lambda i: logprobs[i])
    alone = (
        all(map(isfinite, logprobs)) and logprobs.count(logprobs[best]) == 1
    )  # where all are level nothing was picked
    return [row._replace(hits=tuple(alone and i == best for i in range(len(found))), text=trial.options[best] if alone else "")]  # fmt: skip


def answered(ask: Ask, cases: Sequence[Case]) -> list[bool]:
    """Whether each question, asked as it stands, is answered right."""
    prompts = [Prompt.ask(case.question) for case in cases]
    replies = ask(Asks(answers=[(prompt, WRITE) for prompt in prompts]))
    written = (replies.answer(prompt, WRITE) for prompt in prompts)
    return [bool(said) and case.told_by(said[0].text) for said, case in zip(written, cases, strict=True)]


# --- opening ------------------------------------------------------------------------------------------------------------
def open_all(
    name: str | Path,
    attacks: Mapping[str, OpeningAttack],
    material: Material,
    *,
    original: str | Path | None,
    template: str,
    device: str | None,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Reading]:
    """What each attack finds in a model's weights; from the cache where it was tried before."""
    key = [
        VERSION, seed, _kind_of(device), template, _facts(material), model_hash(name), model_hash(original) if original else None,
    ]  # fmt: skip
    found: dict[str, Reading] = {}
    for done, (attack_name, attack) in enumerate(attacks.items()):
        progress("opening", done, len(attacks))
        settings = [attack_name, attack.version, attack.model_dump(mode="json")]
        cached = store.cache_folder() / "attacks" / f"{hash_of([*key, *settings])}.json"
        if not cached.is_file():
            reading = _opened(name, attack_name, attack, material, original, template, device, seed)
            store.write_json(
                cached,
                {
                    "found": [row._asdict() for row in reading.found],
                    "notes": {name: _number(value) for name, value in reading.notes.items()},
                    "why": reading.why,
                },
            )
        held = store.read_json(cached)
        rows = [
            Found(row["case"], tuple(row["hits"]), row["variant"], row["text"], row["prompt"])
            for row in held["found"]
        ]
        found[attack_name] = Reading(rows, held["notes"], held["why"])
    if attacks:
        progress("opening", len(attacks), len(attacks))
    return found


def _number(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _facts(material: Material) -> str:
    """What identifies all that an opening attack is handed: the rows as they were made, not where they came from."""
    return hash_of(
        [
            [
                [asdict(case.probe), case.name, case.aliases, case.peers, case.statement, answers_of(case)]
                for case in group
            ]
            for group in (material.cases, material.known, material.retain)
        ]
    )


def _kind_of(device: str | None) -> str:
    import torch

    return device.split(":")[0] if device else "cuda" if torch.cuda.is_available() else "cpu"


def _opened(name, attack_name, attack, material: Material, original, template, device, seed: int) -> Reading:
    import torch

    from expunge.run.relearn import fine_tune

    def fresh(which: str | Path) -> Any:
        return load(which, dtype="float32", device=device, template=template)

    lm = fresh(name)
    if "weights" not in lm.capabilities:
        return Reading(why="the model is behind a guard or an address")
    if is_broken(lm):
        return Reading(why="the model's weights are no numbers: it is broken")
    cases, numbers = _readable(lm, material.cases)
    if not cases:
        return Reading(why="every question is longer than the model reads")
    settled = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=lm.model.device.type != "cpu")
    try:
        reading = attack.read(
            Opened(
                lm,
                lambda: fresh(name),
                (lambda: fresh(original)) if original else None,
                cases,
                _readable(lm, material.known)[0],
                _readable(lm, material.retain)[0],
                Seed(seed).child("attack", attack_name),
                fine_tune,
            )
        )
    finally:  # an attack after this one must not depend on whether this one came from the cache
        torch.use_deterministic_algorithms(settled[0], warn_only=settled[1])
    return reading._replace(found=[row._replace(case=numbers[row.case]) for row in reading.found])


def _readable(lm: Any, cases: Sequence[Case]) -> tuple[list[Case], list[int]]:
    """The rows that fit the model with all that is written after them, and which of `cases` they are."""
    fits = fitting(lm.encoder)
    both = zip(
        *(
            fits([Trial(Prompt.ask(case.question, said(case))) for case in cases])
            for said in (lambda case: case.statement, lambda case: case.probe.answer)
        ),
        strict=True,
    )
    numbers = [i for i, fit in enumerate(both) if all(fit)]
    return [cases[i] for i in numbers], numbers


def rows_of(attack: str, reading: Reading) -> list[Tried]:
    """What was found in the weights, as rows beside those that were asked."""
    return [Tried(attack, row.case, row.variant, 1, row.hits, row.prompt, row.text) for row in reading.found]
