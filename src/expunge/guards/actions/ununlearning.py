"""UnUnlearning, a content filter for what is brought back in context (Shumailov et al., 2024, arXiv:2407.00106).

    M(x) ~ M^(prompt + x):  a model that never knew a fact, told it in context, answers as one that does
    strong: refuse x where its input or context speaks of a target;     refuse y where it says a fact
    weak:   refuse y where it says a fact that x did not supply

A text speaks of a target where it names it or says facts of `attributes` forget rows about it, so "let X be somebody who ..."
is seen without a name. Input is the last turn, context all turns before it. Every answer is read, also to prompts that the
detector lets pass: there an answer is held back where it adds a fact to a conversation that speaks of the target; where the
detector flags, any fact is enough. Other answers pass as the model wrote them. It works on text, so also over an endpoint.
Scores: an answer that is held back is never seen, others keep their log-probability; what the former had goes to the refusal,
whose own score therefore is a lower bound.
Needs: a detector, target names, forget pairs or texts; retain rows tell common words from telling ones.
Differs from the paper: it argues for such filters and describes none; scopes, strengths and rules are this library's. The paper's
prompts are not its subject: knowledge is suppressed wherever it comes from (strong), or only the model's own (weak).
Differs from the authors' code: no code.
Fails when: facts are put in other words on either side; weak: the user lists what it could be and the model picks; or facts
come out one by one, each in a conversation of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.fixed import fixed, said
from expunge.guards.phrases import Background, Phrases, canonical_words, never_said, phrases_of
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.guards.guard import FitData, Place

FALSE_ALARMS = 0.001
"""Share of the retain rows that may be held back; more facts are asked for until no more are."""
NOBODY = Prompt(())


class UnUnlearning(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"subject"})

    strength: Literal["weak", "strong"] = "weak"
    """weak: what the user supplied may be used and said back. strong: it may not even be spoken of."""
    input: bool = True
    """Whether the last turn is read: strong refuses for what stands there, weak excuses it in the answer."""
    context: bool = True
    """The same for all turns before it."""
    output: bool = True
    """Whether answers are read."""
    attributes: int | None = Field(None, ge=2)
    """Facts about one target, a name counting as one, from which a text speaks of it. None: 2, or as many as it takes for
    999 of 1,000 retain rows to pass."""
    refusal: str = "I do not know."
    """The answer where another is held back."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedUnUnlearning:
        """Raises DataError where there is nothing to look for, ConfigError for scopes that let everything pass."""
        if not self.output and (self.strength == "weak" or not (self.input or self.context)):
            raise ConfigError(
                "action ununlearning: with these scopes nothing is ever held back. Weak needs output=true; strong, one of input, context and output."
            )
        facts = _facts(data)
        names: dict[str, set[str]] = {}
        for record in data.forget:
            if record.subject:
                names.setdefault(record.subject, set()).update(
                    " ".join(canonical_words(name)) for name in (record.subject, *record.aliases)
                )
        if not facts:
            raise DataError(
                "ununlearning looks for the facts of the forget answers, and there are none.\n"
                "Give question-answer pairs or texts whose answers say something, or mark their words in the field 'key'."
            )
        if found := Phrases(phrase for _, phrases in facts for phrase in phrases).found(self.refusal):
            raise ConfigError(
                f"action ununlearning: the refusal {self.refusal!r} says what is forbidden: {sorted(found)}."
            )
        filtered = FittedUnUnlearning(self, facts, names, self.attributes or 2)
        if self.attributes is None:
            filtered.attributes = _fewest(filtered, data.retain)
        return filtered


Fact = tuple[str, tuple[str, ...]]
"""Whom a forget row is about, and the phrases that carry what it says."""


def _facts(data: FitData) -> list[Fact]:
    background = Background.of(data.retain)
    facts = []
    for record in data.forget:
        if record.shape != "subject" and (phrases := phrases_of([record], background)):
            facts.append((_subject(record, data.names), phrases))
    return facts


def _subject(record: Record, names: Sequence[str]) -> str:
    """The row's own, else the first target name in its text, else its group."""
    text = f"{record.question}\n{record.text}"
    named = (name for name in names if Phrases([name]).found(text))
    return record.subject or next(named, record.group or record.id)


def _fewest(filtered: FittedUnUnlearning, retain: Iterable[Record]) -> int:
    """The least number of facts, two or more, at which no more retain rows than that are held back."""
    counts = []
    for record in retain:
        if record.shape != "subject":
            prompt = Prompt.ask(record.question) if record.question else NOBODY
            counts.append(filtered.said(prompt, record.answer or record.text))
    counts.sort(reverse=True)
    allowed = int(FALSE_ALARMS * len(counts))
    return max(2, counts[allowed] + 1) if counts else 2


class FittedUnUnlearning:
    def __init__(
        self, settings: UnUnlearning, facts: Sequence[Fact], names: Mapping[str, set[str]], attributes: int
    ):
        self.settings, self.facts, self.attributes = settings, list(facts), attributes
        self.names = {subject: frozenset(called) for subject, called in names.items()}
        self._phrases = Phrases(phrase for _, phrases in facts for phrase in phrases)
        self._called = Phrases(name for called in self.names.values() for name in called)
        self._rows: dict[str, set[int]] = {}
        for number, (_, phrases) in enumerate(facts):
            for phrase in phrases:
                self._rows.setdefault(phrase, set()).add(number)

    def score(
        self, model: LanguageModel, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        return [
            self._seen(example, plain, flag)
            for example, plain, flag in zip(examples, model.score(examples), flagged, strict=True)
        ]

    def _seen(self, example: Example, plain: Score, flagged: bool) -> Score:
        prompt = example.prompt or NOBODY
        if self.refuses(prompt, flagged):
            return fixed(example, plain, self.settings.refusal)
        return never_said(plain) if self.holds_back(prompt, example.answer, flagged) else plain

    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        """Refused prompts never reach the model."""
        refused = [self.refuses(prompt, flag) for prompt, flag in zip(prompts, flagged, strict=True)]
        asked = [prompt for prompt, no in zip(prompts, refused, strict=True) if not no]
        answered = iter(model.generate(asked, params))
        refusal = said(model, self.settings.refusal)
        return [
            [refusal] * params.copies
            if no
            else [
                refusal if self.holds_back(prompt, answer.text, flag) else answer for answer in next(answered)
            ]
            for prompt, no, flag in zip(prompts, refused, flagged, strict=True)
        ]

    def refuses(self, prompt: Prompt, flagged: bool) -> bool:
        """Whether a prompt is not answered at all, for what stands in it."""
        read = self._read(prompt)
        return self.settings.strength == "strong" and bool(read) and (flagged or any(map(self._speaks, read)))

    def holds_back(self, prompt: Prompt, answer: str, flagged: bool) -> bool:
        """Whether an answer is replaced by the refusal, for what it says."""
        if not self.settings.output:
            return False
        if flagged:
            return bool(self._told(prompt, answer))
        return self.said(prompt, answer) >= self.attributes

    def said(self, prompt: Prompt, answer: str) -> int:
        """How many facts about one target, its name among them, a prompt and its answer say together; 0 where the answer adds none."""
        told = self._told(prompt, answer)
        if not told:
            return 0
        counts = self._facts_in(f"{prompt.text}\n{answer}")
        return max(counts[self.facts[row][0]] for phrase in told for row in self._rows[phrase])

    def _told(self, prompt: Prompt, answer: str) -> set[str]:
        """The phrases that an answer may not say; weak: without those that the prompt supplied."""
        told = self._phrases.found(answer, prompt.prefill)
        if told and self.settings.strength == "weak":
            told -= {phrase for text in self._read(prompt) for phrase in self._phrases.found(text)}
        return told

    def _read(self, prompt: Prompt) -> list[str]:
        """The parts of a prompt that the scopes name."""
        *earlier, last = [turn.content for turn in prompt.messages] or [""]
        context = ["\n".join(earlier)] if self.settings.context and earlier else []
        return context + ([f"{last}\n{prompt.prefill}"] if self.settings.input else [])

    def _speaks(self, text: str) -> bool:
        return (
            bool(self._called.found(text)) or max(self._facts_in(text).values(), default=0) >= self.attributes
        )

    def _facts_in(self, text: str) -> Counter[str]:
        """Facts by target, its name counting as one. Two phrases of one row are one fact, and one phrase of two rows is one."""
        phrases, called = self._phrases.found(text), self._called.found(text)
        rows, words = Counter[str](), Counter[str]()
        for row in {row for phrase in phrases for row in self._rows[phrase]}:
            rows[self.facts[row][0]] += 1
        for phrase in phrases:
            words.update({self.facts[row][0] for row in self._rows[phrase]})
        named = Counter(subject for subject, names in self.names.items() if not called.isdisjoint(names))
        return (rows & words) + named

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "facts": [[subject, list(phrases)] for subject, phrases in self.facts],
            "names": {subject: sorted(called) for subject, called in self.names.items()},
            "attributes": self.attributes,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedUnUnlearning:
        facts = [(subject, tuple(phrases)) for subject, phrases in state["facts"]]
        names = {subject: set(called) for subject, called in state["names"].items()}
        return cls(UnUnlearning.parse(state["settings"], "guard"), facts, names, state["attributes"])
