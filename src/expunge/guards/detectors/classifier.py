"""ECO's prompt classifier: a pretrained encoder, fine-tuned on forget against retain prompts (Liu et al., 2024, arXiv:2406.07933).

    score(x) = softmax( C(x) )[forget],    trained with  - w_y log softmax( C(x) )[y],    w_c = N / n_c

Needs: forget and retain prompts, and an encoder or a ready sequence classifier with two labels. Where the target names are
known, the same prompts about made-up namesakes join the retain side of the training.
Differs from the paper: the threshold is calibrated on prompts that were not trained on; long prompts are read in windows, and
in smaller pieces where the tokenizer would cut; namesakes.
Differs from the authors' code: the class is known by its index, so no label name can switch it off; the threshold is not
0.99 to 0.9999 by hand; no prompt is both trained on and tested on; a model that was swapped or gives no number is noticed.
Fails when: the prompt names nobody (reverse look-up, pronouns), or is written as no prompt of the training was; small encoders
and few prompts are told apart by their wording alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge.errors import DataError, ModelError, TrainingError
from expunge.guards.detection import DetectorSettings, windows
from expunge.guards.namesakes import namesakes
from expunge.types import Seed

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.guards.guard import FitData, Place
    from expunge.models.reader import Reader
    from expunge.types import LanguageModel

FOLDER = "classifier"
"""Where the weights lie within the guard's folder."""
BATCH, WARMUP = 16, 0.1
TOLERANCE = 1e-3
"""Most that the canary's probability may have moved since the classifier was fitted: devices differ, other weights differ more."""


class Classifier(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain"})
    raw: ClassVar = True

    model: str = "FacebookAI/roberta-base"
    """An encoder, or with `train: false` a ready sequence classifier, by folder or hub id."""
    train: bool = True
    """Fine-tune it on the prompts. Without, it is taken as it is, with the weights it has."""
    forget_label: Literal[0, 1] = 1
    """Index of the class that means in scope. What a model calls its labels does not matter."""
    epochs: int = Field(30, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    """Peak rate of AdamW, after a warm-up of a tenth of the steps and before a cosine fall to 0."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedClassifier:
        """Train, and write the weights into the guard's folder. Raises DataError without prompts of both classes, ModelError."""
        if not data.forget_prompts or (self.train and not data.retain_prompts):
            raise DataError(
                "the classifier learns from forget prompts and retain prompts, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=names"
            )
        if self.train:
            rng = np.random.default_rng(Seed(data.seed).child("namesakes").number)
            retain = [*data.retain_prompts, *namesakes(data.forget_prompts, data.names, rng)]
            reader = fine_tune(self, model, data.forget_prompts, retain, Seed(data.seed).child("classifier"))
        else:
            reader = open_ready(self.model, model)
        folder = data.place.folder / FOLDER
        reader.model.save_pretrained(folder)
        reader.tokenizer.save_pretrained(folder)
        return FittedClassifier(reader, self.forget_label, windows(data.forget_prompts[0])[0])


class FittedClassifier:
    def __init__(self, reader: Reader, forget_label: int, canary: str):
        self.reader, self.forget_label, self.canary = reader, forget_label, canary

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] probabilities of being in scope; of a text in several pieces the highest, NaN where one gives no number."""
        import torch

        pieces = [self.reader.pieces(text) for text in texts]
        flat = [piece for found in pieces for piece in found]
        found = []
        for ids, mask in self.reader.batches(flat):
            with torch.inference_mode():
                logits = self.reader.model(input_ids=ids, attention_mask=mask).logits  # [batch, 2]
            found.append(logits.double().softmax(-1)[:, self.forget_label].cpu().numpy())
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        return np.maximum.reduceat(np.concatenate(found), starts) if found else np.zeros(0)

    def state(self) -> dict[str, Any]:
        score = float(self.scores([self.canary])[0])
        return {
            "forget_label": self.forget_label,
            "canary": self.canary,
            "score": score if np.isfinite(score) else None,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedClassifier:
        """Raises ModelError when the weights are gone, or when the canary does not score as it did."""
        folder = place.folder / FOLDER
        fitted = cls(open_ready(str(folder), model), state["forget_label"], state["canary"])
        was = np.nan if state["score"] is None else state["score"]
        score = fitted.scores([fitted.canary])[0]
        if not np.isclose(score, was, rtol=0, atol=TOLERANCE, equal_nan=True):
            raise ModelError(
                f"{folder}: its first forget prompt scored {was:.4f} when the guard was fitted, and {score:.4f} now: these are other weights.\n"
                "Put the folder back as it was written, or fit the guard again."
            )
        return fitted


def open_ready(name: str, model: LanguageModel) -> Reader:
    """A sequence classifier with a head of its own and two labels. Raises ModelError for any other."""
    from transformers import AutoModelForSequenceClassification

    from expunge.models.reader import device_of, open_reader

    reader = open_reader(AutoModelForSequenceClassification, name, device=device_of(model))
    labels = reader.model.config.num_labels
    if labels != 2:
        raise ModelError(
            f"{name}: a classifier with {labels} labels, and this guard needs two: in scope or not.\n"
            "Give another, or fine-tune this one: --set detector.train=true"
        )
    return reader


def fine_tune(
    settings: Classifier, model: LanguageModel, forget: Sequence[str], retain: Sequence[str], seed: Seed
) -> Reader:
    """The authors' recipe. The same prompts and seed give the same weights. Raises TrainingError for a loss that is no number."""
    import torch
    from transformers import AutoModelForSequenceClassification, get_cosine_schedule_with_warmup

    from expunge.models.reader import device_of, open_reader

    with torch.random.fork_rng():
        torch.manual_seed(seed.number)
        reader = open_reader(
            AutoModelForSequenceClassification,
            settings.model,
            device=device_of(model),
            complete=False,
            num_labels=2,
            ignore_mismatched_sizes=True,
        )
        rows = [
            (piece, label)
            for texts, label in ((forget, settings.forget_label), (retain, 1 - settings.forget_label))
            for text in texts
            for window in windows(text)
            for piece in reader.pieces(window)
        ]
        labels = torch.tensor([label for _, label in rows])
        weights = class_weights(labels).to(reader.model.device)
        steps = settings.epochs * -(-len(rows) // BATCH)
        optimiser = torch.optim.AdamW(_decayed(reader.model), settings.learning_rate, (0.9, 0.98), eps=1e-6)
        schedule = get_cosine_schedule_with_warmup(optimiser, round(WARMUP * steps), steps)
        reader.model.train()
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(rows)).split(BATCH):
                ids, mask = reader.padded([rows[i][0] for i in chosen.tolist()])
                logits = reader.model(input_ids=ids, attention_mask=mask).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.float(), labels[chosen].to(logits.device), weights
                )
                if not torch.isfinite(loss):
                    raise TrainingError(
                        "detector classifier: its loss is no number any more. Try a smaller detector.learning_rate, or another model."
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        reader.model.eval()
    return reader


def class_weights(labels: Tensor) -> Tensor:
    """[2] rows in all by rows of the class: the rarer class counts for more."""
    return len(labels) / labels.bincount(minlength=2).float()


def _decayed(model: Any) -> list[dict[str, Any]]:
    """Weight decay is for matrices; biases and norms go without it."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
