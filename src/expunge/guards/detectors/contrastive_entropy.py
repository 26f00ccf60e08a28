"""O3's detector: how far a prompt lies from a request's own prompts, layer by layer of an encoder (Gao et al., 2024, arXiv:2407.10223).

    L = L_MLM + Σ_l mean_i H( softmax_j( u_i^l · v_j^l ) )          u: masked text, trained encoder;  v: plain text, frozen encoder
    D_l(x) = ½ (f - μ_l)ᵀ Σ_l⁻¹ (f - μ_l) + γ (1 - max_i cos(f, f_i^l)),      q(x) = - Σ_l a_l D_l(x),      a from a one-class SVM

f is the mean state of the text's tokens in layer l; μ, Σ and the bank f_i come from the prompts of the request. `encoder` names a
masked language model such as RoBERTa, which is trained a little first. Without one the guarded model itself reads the prompts,
as it is: no contrastive training takes place then.
Needs: forget prompts, and nothing else; the guarded model's weights where no encoder is named.
Differs from the paper: a distance where the paper adds -½ Mahalanobis and -γ cos, which pull against each other; padding is left
out of the mean; Ledoit-Wolf shrinkage, since a request has fewer prompts than a state has dimensions.
Differs from the authors' code: the sign of q is known beforehand (a linear one-class SVM grows away from the origin, so with
distances: out of scope), where theirs is chosen by the test's AUROC; the last, smaller batch is trained on, and no test
set picks the checkpoint.
Fails when: the request's prompts differ from all others by a name alone, as they do in pocket, where the guarded model as encoder
is no better than chance on prompts that were kept from it; and on wording that is far from all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from expunge.data.batching import Batch, by_length, collate
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError, DataError, ModelError
from expunge.guards.detection import DetectorSettings, windows
from expunge.models.load import context_length
from expunge.models.masked import MaskedLM
from expunge.types import Seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

RANK, ALPHA, DROPOUT = 8, 32, 0.1
BATCH, WARMUP, WEIGHT_DECAY = 8, 0.06, 0.01
HIDDEN = 0.15
"""Share of the tokens that the masked view hides."""
FOLDER = "encoder"
"""Of the encoder's adapter, within the guard's folder."""


class ContrastiveEntropy(DetectorSettings):
    needs: ClassVar = frozenset({"forget"})
    raw: ClassVar = True

    encoder: str | None = None
    """Folder or hub id of a masked language model. None: the guarded model reads the prompts, and nothing is trained."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of the encoder's LoRA. The authors take 1e-4 on TOFU, 1e-5 on ScienceQA."""
    epochs: int = Field(1, ge=1)
    """Passes of the encoder over the prompts. The authors make 1 on TOFU, 2 on ScienceQA."""
    targets: list[str] = ["query", "key", "value"]
    """The encoder's modules that get LoRA."""
    layers: int = Field(12, ge=1)
    """Layers that are looked at, from the first; all of them where there are fewer. The authors' 12 are half of RoBERTa-large."""
    gamma: float = Field(1000.0, ge=0)
    """γ: weight of the cosine to the nearest prompt of the request."""
    nu: float = Field(0.1, gt=0, lt=1)
    """ν of the one-class SVM: the share of the prompts that may lie on its wrong side."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedContrastiveEntropy:
        """Raises DataError with fewer than three different forget prompts, ModelError where nobody can read them."""
        texts = list(dict.fromkeys(piece for text in data.forget_prompts for piece in windows(text)))
        if len(texts) < 3:  # Ledoit and Wolf's estimate does not shrink two at all
            raise DataError(
                f"the contrastive_entropy detector learns where prompts lie from at least three of them, and {len(texts)} can be learnt from.\n"
                "Give more forget rows, or detect by name: --set detector.name=aliases"
            )
        reader = _train(self, texts, data) if self.encoder else _own_reader(self, model)
        return FittedContrastiveEntropy(
            self, reader, fit_shape(_readable(reader, texts), self.gamma, self.nu)
        )


class FittedContrastiveEntropy:
    def __init__(self, settings: ContrastiveEntropy, reader: Reader, shape: Shape):
        self.settings, self.reader, self.shape = settings, reader, shape

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] q; NaN for a text that the encoder cannot take whole."""
        return -(self.shape.distances(self.reader.features(texts)) @ self.shape.mix)

    def state(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json"), "shape": self.shape._asdict()}

    @classmethod
    def from_state(
        cls, state: dict[str, Any], model: LanguageModel, place: Place
    ) -> FittedContrastiveEntropy:
        settings = ContrastiveEntropy.parse(state["settings"], "guard")
        if not settings.encoder:
            return cls(settings, _own_reader(settings, model), Shape(**state["shape"]))
        from peft import PeftModel

        masked = MaskedLM.open(settings.encoder)
        PeftModel.from_pretrained(
            masked.model, str(place.folder / FOLDER)
        ).eval()  # goes into the model in place
        return cls(settings, _masked_reader(settings, masked), Shape(**state["shape"]))


# --- what a text looks like in each layer ----------------------------------------------------------------------------------
class Reader(NamedTuple):
    body: nn.Module
    """A transformer without its head."""
    tokenizer: PreTrainedTokenizerBase
    layers: int
    limit: int
    """The most tokens that it reads."""
    lock: Any = nullcontext()
    """Held while the body runs: what guards a prompt may be answering another one."""

    @torch.no_grad()
    def features(self, texts: Sequence[str], batch_tokens: int = 8192) -> np.ndarray:
        """[n, layers, hidden] mean states of each text, float32; NaN for a text without tokens or with too many."""
        rows = self.rows(texts)
        fits = [i for i, row in enumerate(rows) if 0 < len(row.ids) <= self.limit]
        found = np.full((len(rows), self.layers, self.width), np.nan, dtype=np.float32)
        for near in by_length([len(rows[i].ids) for i in fits], batch_tokens):
            chosen = [fits[i] for i in near]
            batch = self.batch([rows[i] for i in chosen])
            with self.lock:
                out = self.body(
                    input_ids=batch.ids, attention_mask=batch.attention, output_hidden_states=True
                )
            found[chosen] = pooled(out.hidden_states[1 : self.layers + 1], batch.attention).cpu().numpy()
        return found

    def rows(self, texts: Sequence[str]) -> list[Encoded]:
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        return [Encoded(list(row), 0, "", [], 0) for row in ids]

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        pad = self.tokenizer.pad_token_id
        device = next(self.body.parameters()).device
        return collate(rows, self.tokenizer.eos_token_id if pad is None else pad, device=device)

    @property
    def width(self) -> int:
        config: Any = self.body.config
        return config.get_text_config().hidden_size


def pooled(states: Sequence[Tensor], attention: Tensor) -> Tensor:
    """[batch, layers, hidden] means over the tokens of each text, without padding, of [batch, tokens, hidden] states a layer."""
    weight = attention / attention.sum(1, keepdim=True)  # [batch, tokens]
    return torch.stack([torch.einsum("bt,bth->bh", weight, layer.float()) for layer in states], dim=1)


def _own_reader(settings: ContrastiveEntropy, model: Any) -> Reader:
    if "hidden" not in model.capabilities:
        raise ModelError(
            "the contrastive_entropy detector reads prompts by the guarded model's own states, and an endpoint shows none.\n"
            "Name a masked language model for it: --set detector.encoder=FOLDER-OR-HUB-ID"
        )
    limit = context_length(model.model.config, model.tokenizer)
    return _reader(settings, model.model, model.tokenizer, limit)._replace(lock=model._lock)


def _masked_reader(settings: ContrastiveEntropy, masked: MaskedLM) -> Reader:
    limit = context_length(masked.model.config, masked.tokenizer)
    # RoBERTa counts positions from behind its padding id, so that many fewer fit
    return _reader(settings, masked.model, masked.tokenizer, limit - (masked.tokenizer.pad_token_id or 0) - 1)


def _reader(settings: ContrastiveEntropy, model: Any, tokenizer: Any, limit: int) -> Reader:
    layers = min(settings.layers, model.config.get_text_config().num_hidden_layers)
    return Reader(model.base_model, tokenizer, layers, limit)


def _readable(reader: Reader, texts: Sequence[str]) -> np.ndarray:
    """Their features. Raises DataError for a text that is too long to be read whole."""
    features = reader.features(texts)
    for text, row in zip(texts, features, strict=True):
        if np.isnan(row).any():
            raise DataError(
                f"the forget prompt {text[:60]!r}... is empty or too long for the detector's encoder, which reads {reader.limit} tokens.\n"
                "Split the row into shorter ones."
            )
    return features


# --- how far it lies from the request's prompts -------------------------------------------------------------------------------
class Shape(NamedTuple):
    """The request's prompts in each layer. The shrunk covariance is kept by its main axes, as a request has few prompts: exact,
    and as small as the bank.
    """

    mean: np.ndarray  # [layers, hidden]
    axes: np.ndarray  # [layers, rank, hidden] main axes of the prompts, of length 1
    precision: np.ndarray  # [layers, rank] 1 / variance along them
    rest: np.ndarray  # [layers] 1 / variance in all other directions
    bank: np.ndarray  # [prompts, layers, hidden] of length 1
    mix: np.ndarray  # [layers] share of each layer, from the one-class SVM
    gamma: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """[n, layers] D, from [n, layers, hidden]."""
        found = np.empty(features.shape[:2])
        for layer in range(features.shape[1]):
            f = features[:, layer].astype(np.float64)
            moved = f - self.mean[layer]
            along = moved @ self.axes[layer].T  # [n, rank]
            off = np.maximum((moved**2).sum(1) - (along**2).sum(1), 0)
            mahalanobis = along**2 @ self.precision[layer] + off * self.rest[layer]
            nearest = (_unit(f) @ self.bank[:, layer].T).max(1)
            found[:, layer] = mahalanobis / 2 + self.gamma * (1 - nearest)
        return found


def fit_shape(features: np.ndarray, gamma: float, nu: float) -> Shape:
    """From [prompts, layers, hidden]. Raises DataError where they all look the same."""
    from sklearn.covariance import ledoit_wolf_shrinkage
    from sklearn.svm import OneClassSVM

    features = features.astype(np.float64)
    mean = features.mean(0)
    moved = features - mean
    parts = []
    for layer in range(features.shape[1]):
        x = moved[:, layer]
        spread = (x**2).mean()
        shrinkage = ledoit_wolf_shrinkage(x, assume_centered=True) if spread else 0.0
        least = shrinkage * spread
        if not least:
            raise DataError(
                "the contrastive_entropy detector cannot tell the forget prompts from each other: all of them look the same to its encoder."
            )
        _, lengths, axes = np.linalg.svd(x, full_matrices=False)
        variance = (1 - shrinkage) * lengths**2 / len(x) + least
        parts.append((axes.astype(np.float32), 1 / variance, 1 / least))
    axes, precision, rest = (np.stack(part) for part in zip(*parts, strict=True))
    even = np.full(features.shape[1], 1 / features.shape[1])
    shape = Shape(mean, axes, precision, rest, _unit(features).astype(np.float32), even, gamma)
    distances = shape.distances(features)
    svm = OneClassSVM(kernel="linear", nu=nu).fit(distances / distances.mean())
    return shape._replace(mix=svm.coef_[0] / svm.coef_.sum())


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --- the encoder's training -----------------------------------------------------------------------------------------------------
def contrastive_entropy(u: Tensor, v: Tensor) -> Tensor:
    """Mean entropy, nats, of which v each u is nearest to; both [batch, hidden]. There are no pairs: each row is only sharpened."""
    p = (u @ v.T).softmax(-1)
    return -(p * (p + 1e-5).log()).sum(-1).mean()


def _train(settings: ContrastiveEntropy, texts: Sequence[str], data: FitData) -> Reader:
    """Give the encoder LoRA, train it on the texts, and leave the adapter in the guard's folder."""
    from peft import LoraConfig, get_peft_model

    masked = MaskedLM.open(str(settings.encoder))
    reader = _masked_reader(settings, masked)
    frozen = torch.from_numpy(_readable(reader, texts)).to(masked.model.device)  # [texts, layers, hidden]
    rows = reader.rows(texts)
    seed = Seed(data.seed).child("contrastive_entropy").number
    generator = torch.Generator().manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=settings.targets)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft reads a name that transformers is about to rename
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(masked.model, config)
        except ValueError as error:
            raise ConfigError(
                f"detector contrastive_entropy: no module of {settings.encoder} is called {' or '.join(settings.targets)}.\n"
                "Say what its attention's projections are called: --set detector.targets=[...]"
            ) from error
        trained = [p for p in adapted.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
        steps = settings.epochs * math.ceil(len(rows) / BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
        adapted.train()
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(rows), generator=generator).split(BATCH):
                batch = reader.batch([rows[i] for i in chosen.tolist()])
                loss = _loss(masked, reader, batch, frozen[chosen.to(frozen.device)], generator)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        adapted.eval()
    data.place.folder.mkdir(parents=True, exist_ok=True)
    adapted.save_pretrained(str(data.place.folder / FOLDER))
    return reader


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then a linear fall."""
    rise = math.ceil(WARMUP * steps)
    return min((step + 1) / rise, (steps - step) / max(steps - rise, 1))


def _loss(
    masked: MaskedLM, reader: Reader, batch: Batch, frozen: Tensor, generator: torch.Generator
) -> Tensor:
    """L of one batch; `frozen` [batch, layers, hidden] are the plain texts under the untrained encoder."""
    ids, hidden = hide(batch, masked.tokenizer, generator)
    out = masked.model(input_ids=ids, attention_mask=batch.attention, output_hidden_states=True)
    loss = nn.functional.cross_entropy(out.logits[hidden].float(), batch.ids[hidden])
    states = pooled(out.hidden_states[1 : reader.layers + 1], batch.attention)
    for layer in range(reader.layers):  # the embeddings below them have no LoRA, and nothing to learn
        loss = loss + contrastive_entropy(states[:, layer], frozen[:, layer])
    return loss


def hide(batch: Batch, tokenizer: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids with tokens hidden as in BERT, and which those are ([batch, tokens] bool): in every text at least one."""
    shape = batch.ids.shape
    special = torch.isin(batch.ids, torch.tensor(tokenizer.all_special_ids, device=batch.ids.device))
    drawn = torch.rand(shape, generator=generator).to(batch.ids.device)
    drawn = drawn.masked_fill(special | (batch.attention == 0), 2)
    hidden = (drawn < HIDDEN) | ((drawn == drawn.min(1, keepdim=True).values) & (drawn < 2))
    how = torch.rand(shape, generator=generator).to(batch.ids.device)
    others = torch.randint(len(tokenizer), shape, generator=generator).to(batch.ids.device)
    seen = torch.where(how < 0.8, tokenizer.mask_token_id, torch.where(how < 0.9, others, batch.ids))
    return torch.where(hidden, seen, batch.ids), hidden
