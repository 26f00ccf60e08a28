"""The examples: DULL's mask touches what it should, and an outside method is reached by the command line."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from tests.run.test_unlearn import FORGET, RETAIN
from tests.test_house import SECTIONS

EXAMPLES = Path(__file__).parents[2] / "examples"


def load():
    spec = importlib.util.spec_from_file_location("examples_dull", EXAMPLES / "dull.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks up the annotations
    spec.loader.exec_module(module)
    return module


dull = load()
CHANNELS = 20
WRONG = 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = dull.Classifier(CHANNELS)
    with torch.no_grad():
        model.trunk[2].bias.fill_(1.0)  # no channel is dead
    return model


@pytest.fixture
def images():
    return torch.rand(6, 64, generator=torch.Generator().manual_seed(1))


def one_class_a_channel():
    """G with two channels for each class."""
    return one_hot(torch.arange(CHANNELS) % dull.CLASSES, dull.CLASSES).float()


def gradients(model):
    return [part.grad for part in (*model.trunk.parameters(), *model.head.parameters())]


def test_forgetting_touches_only_the_wrong_classes_channels(model, images):
    association = one_class_a_channel()
    features = model.trunk(images)
    features.retain_grad()
    dull.forgetting(model.head, features, torch.full((6,), WRONG), association).backward()
    own = association[:, WRONG].bool()
    last = model.trunk[2]
    assert own.sum() == 2
    for grad in (features.grad.T, model.head.weight.grad.T, last.weight.grad, last.bias.grad):
        assert (grad[~own] == 0).all()
        assert (grad[own] != 0).any(-1).all()


def test_learning_the_corrected_label_leaves_the_wrong_classes_channels_alone(model, images):
    association = one_class_a_channel()
    features = model.trunk(images)
    features.retain_grad()
    method = dull.DULL(forget=0.0)
    method.suspects(
        model.head, features, torch.full((6,), WRONG), torch.full((6,), 8), association
    ).backward()
    own = association[:, WRONG].bool()
    assert (features.grad[:, own] == 0).all()
    assert (features.grad[:, ~own] != 0).any()


def test_without_an_association_it_is_plain_fine_tuning(model, images):
    wrong, corrected = torch.full((6,), WRONG), torch.tensor([5, 6, 7, 8, 9, 5])
    dull.DULL(forget=2.0).suspects(
        model.head, model.trunk(images), wrong, corrected, torch.zeros(CHANNELS, dull.CLASSES)
    ).backward()
    masked = [grad.clone() for grad in gradients(model)]
    model.zero_grad()
    cross_entropy(model(images), corrected).backward()
    assert all(map(torch.equal, masked, gradients(model)))


def test_forgetting_lowers_the_wrong_label_through_its_channels(model, images):
    wrong, association = torch.full((6,), WRONG), one_class_a_channel()
    part = association.T[wrong] * model.trunk(images).detach()
    before = model.head(part).log_softmax(1)[:, WRONG]
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    dull.forgetting(model.head, model.trunk(images), wrong, association).backward()
    optimizer.step()
    assert (model.head(part).log_softmax(1)[:, WRONG] < before).all()


def test_disentangling_is_zero_where_each_class_has_channels_of_its_own():
    association = one_class_a_channel()
    labels = torch.arange(dull.CLASSES)
    apart = 2.0 * association.T  # [classes, channels], each row in its own channels
    assert dull.DULL().disentangling(apart, labels, association) == 0
    even = torch.full((CHANNELS, dull.CLASSES), 1 / dull.CLASSES)
    found = dull.DULL(reconstruction=1.0, entropy=1.0).disentangling(apart, labels, even)
    assert found.item() == pytest.approx(0.9**2 + torch.log(torch.tensor(10.0)).item(), rel=1e-5)


def test_only_tail_labels_are_wrong_and_they_point_at_the_head():
    data = dull.long_tailed_digits(0)
    counts = torch.bincount(data.truth, minlength=dull.CLASSES).tolist()
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 10 * counts[-1]
    assert torch.bincount(data.test_labels).tolist() == [60] * dull.CLASSES
    assert torch.equal(data.suspect, data.labels != data.truth)
    assert (data.truth[data.suspect] >= dull.HEAD).all()
    assert (data.labels[data.suspect] < dull.HEAD).all()
    again = dull.long_tailed_digits(0)
    assert all(map(torch.equal, data, again))


def test_channels_come_to_speak_for_one_class_and_the_tail_gains():
    data, method = dull.long_tailed_digits(4), dull.DULL()
    before = dull.learn(data, method, seed=4)
    assert before.association.max(1).values.mean() > 0.95
    assert len(before.association.argmax(1).unique()) >= 8
    after = dull.tune(before, data, dull.correct(before, data), method)
    assert dull.accuracy(after, data)["tail"] > dull.accuracy(before, data)["tail"] + 0.1


def test_it_says_what_it_is():
    for section in SECTIONS:
        assert section in dull.__doc__
    assert "reconstruct" in dull.__doc__.splitlines()[0]


def test_the_outside_objective_of_the_readme_trains_by_its_dotted_path(model_folder, tmp_path):
    code = re.search(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.S).group(1)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "module.py").write_text(code)
    for name, part in (("forget", FORGET), ("retain", RETAIN)):
        rows = [json.dumps({"id": row.id, "question": row.question, "answer": row.answer}) for row in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    arguments = f"unlearn {model_folder} --forget forget.jsonl --retain retain.jsonl --method nll --out run --json --set objective.name=my_package.module:MyObjective --set objective.ceiling=-9 --set train.max_steps=3"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", "from expunge.cli import main; main()", *arguments.split()],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["recipe"]["objective"]
    assert recorded == {"name": "my_package.module:MyObjective", "ceiling": -9.0}
    losses = [json.loads(line)["forget_loss"] for line in (tmp_path / "run" / "trace.jsonl").read_text().splitlines()]  # fmt: skip
    assert losses[-1] < losses[0]
