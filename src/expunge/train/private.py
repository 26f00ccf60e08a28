"""Training with differential privacy: DP-SGD (Abadi et al., 2016, arXiv:1607.00133) by the library opacus.

A step draws each row by itself with probability q, takes the gradient of each drawn row, cuts it to the length C, adds noise of the
standard deviation σC to their sum and divides by the expected number of rows. opacus takes gradients row by row, cuts, adds noise and
accounts; this file draws the rows, and checks before the first step that the gradients of single rows are right in this model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batching import Batch, collate
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError, ModelError, TrainingError
from expunge.models.logprobs import token_logp
from expunge.train import checkpoint
from expunge.train.loop import Outcome, Probe
from expunge.types import Seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.methods.procedures.dp2unlearning import Privacy

ORDERS = (
    *(1 + i / 10 for i in range(1, 10)),
    *(2 + i / 4 for i in range(40)),
    *range(12, 64),
    *(int(64 * 2 ** (i / 8)) for i in range(25)),
)
"""Rényi orders that the accountant takes the best of, 1.1 to 512: a large ε needs low ones, a small ε with a tiny δ high ones."""


def train_private(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    privacy: Privacy,
    *,
    pad_id: int,
    seed: Seed,
    folder: Path | None = None,
    probe: Probe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Train the parameters of `model` that require a gradient on the answers of `rows`; `privacy_facts` says with which guarantee.

    `folder` keeps the checkpoint that a killed run resumes from, bit for bit. No result depends on micro-batches. Raises
    ConfigError without opacus, ModelError for a model whose rows cannot be told apart, TrainingError for a loss that is no number.
    """
    _require_opacus()
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler

    facts, settings = privacy_facts(privacy, len(rows)), privacy.train
    draw = torch.Generator().manual_seed(_number(seed, "rows"))
    batches = UniformWithReplacementSampler(
        num_samples=len(rows), sample_rate=facts["sampling_rate"], generator=draw, steps=facts["steps"]
    )
    weights: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept = folder / "checkpoint" if folder else None
    state = (checkpoint.load(kept) if kept else None) or checkpoint.State(facts={"trace": []})
    with torch.no_grad():
        for name, weight in state.tensors.get("weights", {}).items():
            weights[name].copy_(weight)
    trace = state.facts["trace"]
    with _row_gradients(model) as hooks:
        _refuse_wrong_gradients(model, hooks, weights, rows, pad_id)
        step_on = _Steps(model, weights, rows, privacy, facts, pad_id, seed)
        if probe and not state.step:
            trace.append({"step": 0, **_probe(model, probe, 0)})
        for done, drawn in enumerate(batches, start=1):
            if done <= state.step:
                continue
            torch.manual_seed(_number(seed, "dropout", done))
            entry = step_on(done, drawn)
            last = done == facts["steps"]
            if probe and settings.probe_every and (done % settings.probe_every == 0 or last):
                entry |= _probe(model, probe, done)
            trace.append(entry)
            if kept and done % settings.checkpoint_every == 0 and not last:
                checkpoint.save(kept, checkpoint.State(done, {"weights": dict(weights)}, {"trace": trace}))
            if progress:
                progress(done, facts["steps"])
    share = sum(p.numel() for p in weights.values()) / sum(p.numel() for p in model.parameters())
    return Outcome(
        steps=facts["steps"],
        chosen_step=facts["steps"],
        level_reached=None,
        trained_share=share,
        trace=trace,
    )


def privacy_facts(privacy: Privacy, rows: int) -> dict[str, Any]:
    """What is promised about each of `rows` rows and about one person's, and what it takes; for the manifest.

    A person with k rows has k · ε and k · e^((k-1)ε) · δ; a δ of 1 promises nothing.
    """
    _require_opacus()
    rate = min(1.0, privacy.train.batch_size / rows)
    steps = privacy.train.max_steps or max(1, round(privacy.train.epochs / rate))
    sigma = noise_multiplier(privacy.epsilon, privacy.delta, rate, steps)
    k = privacy.group
    return {
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "person": {
            "rows": k,
            "epsilon": k * privacy.epsilon,
            "delta": math.exp(min(0.0, math.log(k * privacy.delta) + (k - 1) * privacy.epsilon)),
        },
        "noise_multiplier": sigma,
        "clip": privacy.clip,
        "sampling_rate": rate,
        "steps": steps,
        "accountant": "rdp",
    }


@cache
def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """σ: the least noise, in units of C, that keeps (ε, δ) over the steps; ε is met to within a thousandth of it."""
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the search also passes orders that are not the best
        try:
            return get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=1e-3 * epsilon,
                alphas=list(ORDERS),
            )
        except ValueError as error:
            raise ConfigError(
                f"no noise is enough for epsilon {epsilon:g} with delta {delta:g} in {steps} steps. Raise epsilon, or train for fewer epochs."
            ) from error


def row_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[batch] the mean negative log-likelihood of each row's own answer tokens, nats; padding is on the right."""
    logits = model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits[:, :-1]
    answer = batch.answer[:, 1:]  # [batch, tokens - 1]
    logp = token_logp(logits.float().flatten(0, 1), batch.ids[:, 1:].flatten()).view(answer.shape)
    return -(logp * answer).sum(1) / answer.sum(1)


@contextmanager
def _row_gradients(model: PreTrainedModel) -> Generator[Any]:
    """While open, a backward leaves the gradient of each row in `grad_sample` of the weights; nothing of it stays in the model."""
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    hooks = None
    model.train()
    try:
        try:
            hooks = GradSampleHooks(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise ModelError(_unfit(model)) from error
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # ids have no gradient
            yield hooks
    finally:
        if hooks:
            hooks.remove_hooks()
        for parameter in model.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
                vars(parameter).pop(name, None)
        model.zero_grad(set_to_none=True)
        model.eval()


class _Steps:
    """One optimiser step after the other; called with the step's number (from 1) and the rows it has drawn."""

    def __init__(
        self,
        model: PreTrainedModel,
        weights: dict[str, Any],
        rows: Sequence[Encoded],
        privacy: Privacy,
        facts: dict[str, Any],
        pad_id: int,
        seed: Seed,
    ):
        from opacus.optimizers import DPOptimizer

        self.model, self.weights, self.rows, self.pad_id, self.seed = model, weights, rows, pad_id, seed
        self.settings, self.clip = privacy.train, privacy.clip
        self.noise = torch.Generator(model.device)
        self.optimiser = DPOptimizer(
            torch.optim.SGD(list(weights.values()), lr=privacy.train.learning_rate),
            noise_multiplier=facts["noise_multiplier"],
            max_grad_norm=privacy.clip,
            expected_batch_size=facts["sampling_rate"] * len(rows),
            generator=self.noise,
        )

    def __call__(self, number: int, drawn: list[int]) -> dict[str, Any]:
        self.noise.manual_seed(_number(self.seed, "noise", number))
        size = self.settings.micro_batch or self.settings.batch_size
        total = clipped = 0.0
        for first in range(0, max(1, len(drawn)), size):  # a step that draws nothing still adds its noise
            part = drawn[first : first + size]
            loss, norms = self._gradients([self.rows[i] for i in part])
            if not math.isfinite(loss) or loss > self.settings.max_loss * max(1, len(part)):
                raise TrainingError(
                    f"step {number}: the loss is {loss / max(1, len(part)):.4g}, so training stopped before changing the weights with it.\n"
                    f"Lower the learning rate of the private stage (now {self.settings.learning_rate:g}), for example  --set procedure.learning_rate={self.settings.learning_rate / 10:g}"
                )
            total += loss
            clipped += float((norms > self.clip).sum())
            self.optimiser.signal_skip_step(first + size < len(drawn))
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        share = {"loss": total / len(drawn), "clipped": clipped / len(drawn)} if drawn else {}
        return {"step": number, "rows": len(drawn), **share}

    def _gradients(self, part: list[Encoded]) -> tuple[float, Tensor]:
        """Leave the gradient of each row in `grad_sample` of the weights; returns the sum of the losses and the norms [batch]."""
        if not part:
            for weight in self.weights.values():
                weight.grad_sample = weight.new_zeros(0, *weight.shape)
            return 0.0, torch.zeros(0)
        loss = row_losses(self.model, collate(part, self.pad_id, device=self.model.device)).sum()
        loss.backward()
        found = [weight.grad_sample for weight in self.weights.values()]
        norms = torch.stack([gradient.detach().flatten(1).norm(dim=1) for gradient in found]).norm(dim=0)
        return float(loss.detach()), norms


def _refuse_wrong_gradients(
    model: PreTrainedModel, hooks: Any, weights: dict[str, Any], rows: Sequence[Encoded], pad_id: int
) -> None:
    """Raises ModelError unless the gradients that opacus finds for the shortest and the longest row are those of either row alone.

    They are not where a module sees tokens without their row, as in a mixture of experts.
    """
    own = {module for module in model.modules() if next(module.parameters(recurse=False), None) is not None}
    for module in model.modules():
        module.training = module in own  # no dropout here, but opacus looks only at modules in training
    near = sorted(rows, key=lambda row: len(row.ids))
    pair = [near[0], near[-1]]
    try:
        row_losses(model, collate(pair, pad_id, device=model.device)).sum().backward()
        found = {name: weight.grad_sample for name, weight in weights.items()}
        hooks.disable_hooks()
        for i, row in enumerate(pair):
            model.zero_grad(set_to_none=True)
            row_losses(model, collate([row], pad_id, device=model.device)).sum().backward()
            largest = max(float(w.grad.abs().max()) for w in weights.values() if w.grad is not None)
            for name, weight in weights.items():
                expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
                if not torch.allclose(found[name][i], expected, rtol=1e-2, atol=1e-4 * largest):
                    raise ModelError(_unfit(model))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelError(_unfit(model)) from error
    finally:
        hooks.enable_hooks()
        for weight in weights.values():
            weight.grad = weight.grad_sample = None
        model.train()


def _unfit(model: PreTrainedModel) -> str:
    return (
        f"{type(model).__name__}: the gradients of single rows cannot be told apart in this architecture, and without them no privacy can be\n"
        "promised. Use a dense model, or retrain without the forget set:  --method retrain"
    )


def _require_opacus() -> None:
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise ConfigError(
            "training with differential privacy needs the library opacus, and it is not installed here.\nInstall it:  pip install 'expunge[dp]'"
        ) from None


def _probe(model: PreTrainedModel, probe: Probe, step: int) -> dict[str, Any]:
    model.eval()
    found = probe(step)
    model.train()
    return found


def _number(seed: Seed, *names: object) -> int:
    return seed.child(*names).number % 2**63
