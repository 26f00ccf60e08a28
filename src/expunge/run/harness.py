"""lm-evaluation-harness over anything that can be measured here: plain weights, adapters, guards, endpoints.

Arguments reach the harness as they were given, and what a task's own configuration overrules is said beside its figures. Nothing is cut
silently: a request longer than the model's context is an error, where the harness would drop its start. Importing this raises ConfigError
where the harness is not installed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.benchmarks._asks import Progress
from expunge.data.tokenize import pieces
from expunge.errors import CapabilityError, ConfigError, did_you_mean
from expunge.metrics.intervals import Z, wilson
from expunge.run.make import load, model_hash, silent
from expunge.types import Example, Figure, GenerationParams, LanguageModel, Message, Prompt, Score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase
try:
    from lm_eval import __version__
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ConfigError(
        f"lm-evaluation-harness cannot be used here ({error}).\nInstall it:  pip install 'expunge[lm-eval]'"
    ) from None

MAX_TOKENS = 256
"""Tokens of a generated answer where the task does not say, as the harness has it."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of an answer; the first that is there counts."""
TURNS = "\x00turns:"
"""Begins a context that holds turns, which the harness can only pass on as text."""


class Pair(NamedTuple):
    """A continuation as the harness asks for it, in the terms of `Example`."""

    example: Example
    head: Example | None = None
    """The start of the answer that belongs to the context; its tokens do not count."""


class HarnessLM(LM):
    """`lm_eval.api.model.LM` around a LanguageModel."""

    def __init__(self, model: LanguageModel, batch_size: int = 256, progress: Progress = silent):
        """`batch_size`: requests that are put to the model together."""
        super().__init__()
        self.model, self.batch_size, self.progress = model, batch_size, progress

    # --- likelihoods ----------------------------------------------------------------------------------------------------
    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-probability, nats, of exactly the continuation after exactly the context, and whether greedy writing would give it."""
        pairs = [self._pair(*request.args) for request in requests]
        heads = [pair.head for pair in pairs if pair.head]
        scores = self._scores([*(pair.example for pair in pairs), *heads])
        counted = iter(scores[len(pairs) :])
        found = []
        for pair, score in zip(pairs, scores, strict=False):
            first = next(counted).tokens - 1 if pair.head else 0
            kept = slice(first, -1)  # the end token is no part of a continuation
            found.append(
                (float(score.token_logprobs[kept].sum(dtype="float64")), bool(score.hits[kept].all()))
            )
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability of whole texts. One that is longer than the context is read in windows that share no token."""
        windows = [self._windows(request.args[0]) for request in requests]
        scores = iter(
            self._scores([Example(None, self._started(window)) for part in windows for window in part])
        )
        return [
            sum(float(next(scores).token_logprobs[:-1].sum(dtype="float64")) for _ in part)
            for part in windows
        ]

    def _scores(self, examples: Sequence[Example]) -> list[Score]:
        found: list[Score] = []
        for i in range(0, len(examples), self.batch_size):
            found += self.model.score(examples[i : i + self.batch_size])
            self.progress("scoring", len(found), len(examples))
        return found

    def _pair(self, context: str, continuation: str) -> Pair:
        """The text of the example is exactly context and continuation, whose own space parts them."""
        if not context:
            return Pair(Example(None, self._started(continuation)))
        prompt = _prompt(context)
        if prompt.messages and not prompt.prefill:
            return Pair(Example(prompt, continuation))  # a template ends where the answer starts
        given = (
            prompt.prefill.rstrip()
        )  # space that ends a context counts with what follows, as in the harness
        continuation = prompt.prefill[len(given) :] + continuation
        prompt = replace(prompt, prefill=given)
        if given and continuation[:1].isspace():
            return Pair(Example(prompt, continuation))
        return self._joined(prompt, given, continuation)

    def _joined(self, prompt: Prompt, given: str, continuation: str) -> Pair:
        """A continuation that no space parts from its context: the answer starts at the last space before, and what is still context there
        is not counted.
        """
        before, space, head = given.rpartition(" ")
        if not space or not before or "weights" not in self.model.capabilities:
            raise CapabilityError(
                f"the harness asks for {continuation[:20]!r} right after {given[-20:]!r}, with no space between them. "
                "That can be asked of weights only, whose context has a space somewhere: a guard would read another prompt.\n"
                "Give the task a target_delimiter of one space."
            )
        prompt = replace(prompt, prefill=before)
        return Pair(Example(prompt, head + continuation), Example(prompt, head))

    def _started(self, text: str) -> str:
        """A text whose first token can be scored: with a start token before it where the tokenizer puts none."""
        return self._start + text

    @cached_property
    def _start(self) -> str:
        """What a tokenizer without a start token of its own needs before a text; the harness takes the same."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return ""
        start = tokenizer.bos_token or tokenizer.eos_token
        bare, whole = (len(tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
        return "" if whole > bare or start is None else str(start)

    def _windows(self, text: str) -> list[str]:
        encoder: Any = getattr(_inner(self.model), "encoder", None)
        if self._tokenizer is None or encoder is None:
            return [text]
        parts, size = pieces(self._tokenizer, text), encoder.max_tokens - 2  # start and end token
        return ["".join(parts[i : i + size]) for i in range(0, len(parts), size)]

    # --- answers --------------------------------------------------------------------------------------------------------
    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers up to the first stop text. Space around an answer is not kept."""
        found: list[str] = [""] * len(requests)
        by_params: dict[GenerationParams, list[int]] = {}
        for i, request in enumerate(requests):
            by_params.setdefault(_params(request.args[1]), []).append(i)
        done = 0
        for params, rows in by_params.items():
            written = self._written([_prompt(requests[i].args[0]) for i in rows], params)
            for i, text in zip(rows, written, strict=True):
                found[i] = _cut(text, requests[i].args[1].get("until"))
            self.progress("answering", done := done + len(rows), len(requests))
        return found

    def _written(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[str]:
        """One answer a prompt; a prompt that stands there several times gets as many answers, alike unless they are sampled."""
        by_copies: dict[int, list[Prompt]] = {}
        for prompt, times in Counter(prompts).items():
            by_copies.setdefault(times if params.sample else 1, []).append(prompt)
        answers: dict[Prompt, list[str]] = {}
        for copies, group in by_copies.items():
            for i in range(0, len(group), self.batch_size):
                part = group[i : i + self.batch_size]
                written = self.model.generate(part, replace(params, copies=copies))
                answers |= {p: [one.text for one in texts] for p, texts in zip(part, written, strict=True)}
        return [answers[p].pop() if params.sample else answers[p][0] for p in prompts]

    # --- turns ----------------------------------------------------------------------------------------------------------
    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns, kept as turns: the model behind lays out its own template. Raises ConfigError where it has none."""
        tokenizer = self._tokenizer
        if tokenizer is not None and not tokenizer.chat_template:
            raise ConfigError(
                "--chat-template: this model's tokenizer has no chat template. Leave the option out: tasks are then plain text."
            )
        turns, prefill = list(chat_history), ""
        if not add_generation_prompt and turns and turns[-1]["role"] == "assistant":
            prefill = turns.pop()["content"]
        return TURNS + json.dumps([[[turn["role"], turn["content"]] for turn in turns], prefill])

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its own caches by."""
        return str(getattr(self.model, "source", "") or type(self.model).__name__).replace("/", "__")

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        return getattr(_inner(self.model), "tokenizer", None)


def harness(
    run: str | Path,
    tasks: Sequence[str],
    *,
    include_path: str | Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 256,
    chat_template: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Figures of the harness's tasks on a model or run. `include_path`: a folder of task files beside the harness's own. `shots`: examples
    before each question, where the task leaves that open.

    Raises ConfigError for an unknown task, ModelError, and CapabilityError where a task needs
    likelihoods that an endpoint has not.
    """
    if not tasks:
        raise ConfigError("--tasks: none is named. Give names of tasks, parted by commas.")
    subject = {"name": str(run), "sha256": model_hash(run)}  # a wrong name is told before the tasks are read
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise ConfigError(
                f"--tasks {task}: the harness has no such task.{did_you_mean(task, manager.all_tasks)}\n"
                "Task files of your own: --include-path FOLDER."
            )
    given = {
        "num_fewshot": shots,
        "limit": limit,
        "batch_size": batch_size,
        "apply_chat_template": chat_template,
    }
    found: Any = simple_evaluate(
        HarnessLM(load(run, device=device), batch_size, progress),
        tasks=manager.match_tasks(list(tasks)),
        task_manager=manager,
        log_samples=False,
        **given,
    )
    return {
        "harness": f"lm-eval {__version__}",
        "subject": subject,
        "tasks": list(tasks),
        "arguments": given,
        "shots": dict(found["n-shot"]),
        "versions": dict(found["versions"]),
        "figures": figures(found, shots),
    }


def figures(found: dict[str, Any], shots: int | None = None) -> dict[str, Figure]:
    """`task/metric` to its value, with the 95 % interval from the harness's standard error, or Wilson's where that is 0."""
    made = {}
    for task, values in found["results"].items():
        n = int(found.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0)) or 0)
        taken = found["n-shot"].get(task)
        note = ""
        if shots is not None and taken is not None and taken != shots:
            note = f"the task's own configuration fixes {taken} shots; {shots} were asked for"
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            name = f"{task}/{metric}" + ("" if kind == "none" else f",{kind}")
            error = values.get(f"{metric}_stderr,{kind}")
            spread: tuple[float | None, float | None] = (None, None)
            if isinstance(error, (int, float)):
                none_or_all = (
                    n and error == 0 and value in (0, 1)
                )  # of n questions: that is not never, or always
                spread = wilson(int(value) * n, n) if none_or_all else (value - Z * error, value + Z * error)
            made[name] = Figure(float(value), n, *spread, note=note)
    return made


def _inner(model: Any) -> Any:
    """The model behind a guard: the one that has a tokenizer, or none."""
    return model if hasattr(model, "tokenizer") else getattr(model, "model", None)


def _prompt(context: str) -> Prompt:
    if not context.startswith(TURNS):
        return Prompt.continuing(context)
    turns, prefill = json.loads(context.removeprefix(TURNS))
    return Prompt(tuple(Message(*turn) for turn in turns), prefill)


def _params(wanted: dict[str, Any]) -> GenerationParams:
    """Raises ConfigError for what GenerationParams cannot say."""
    rest = {key: value for key, value in wanted.items() if key not in ("until", "do_sample", *LENGTHS)}
    tokens = next((wanted[name] for name in LENGTHS if wanted.get(name) is not None), MAX_TOKENS)
    temperature = float(rest.pop("temperature", None) or 0.0)
    sample = bool(wanted.get("do_sample", temperature > 0)) and temperature != 0.0
    top_p, beams = rest.pop("top_p", None), rest.pop("num_beams", None)
    if rest:
        raise ConfigError(
            f"the task's generation_kwargs have {', '.join(rest)}, which cannot be passed on. "
            "Known: until, do_sample, temperature, top_p, num_beams and max_gen_toks."
        )
    return GenerationParams(
        max_new_tokens=int(tokens),
        sample=sample,
        temperature=temperature if sample else 1.0,
        top_p=float(top_p) if sample and top_p else 1.0,
        beams=int(beams or 1),
    )


def _cut(text: str, until: str | Iterable[str] | None) -> str:
    """Up to the first stop text."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.partition(stop)[0] if stop else text
    return text
