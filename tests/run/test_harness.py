"""lm-evaluation-harness around our models: the same numbers as its own, and nothing that was asked for is lost on the way."""

import copy
import json
import re

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks.mmlu import MMLU
from expunge.benchmarks.wmdp import WMDP
from expunge.data.dataset import Dataset, Record
from expunge.errors import CapabilityError, ConfigError, DataError
from expunge.models.endpoint import Endpoint
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Example, Generation, GenerationParams, Prompt, Score
from tests.conftest import make_model

pytest.importorskip("lm_eval", reason="the harness is an extra")
from lm_eval.api.instance import Instance

from expunge.run.harness import TURNS, HarnessLM, _cut, _params, _prompt, figures, harness

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning"
)  # the harness and datasets warn about their own business
LETTER_TASK = """
task: NAME
dataset_path: json
dataset_kwargs:
  data_files: {dev: DEV, test: TEST}
  cache_dir: CACHE
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about real authors.\\n\\n"
doc_to_text: "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\nD. {{choices[3]}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
OPTION_TASK = (
    LETTER_TASK.replace("multiple choice questions", "questions")
    .replace("{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\nD. {{choices[3]}}\\n", "Question: {{question.strip()}}\\n")
    .replace('["A", "B", "C", "D"]', '"{{choices}}"')
    .replace("metric_list: [", "metric_list: [{metric: acc_bytes, aggregation: mean, higher_is_better: true}, ")
)  # fmt: skip
ROWS = 12


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def mcq(shared_data, tmp_path_factory):
    """Rows of real authors in two files, a task by letter, one by option, and one that generates."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.loads(line) for line in (shared_data / "mcq_mini" / "mcq.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["subject"] == "real_authors"]
    data = folder / "data"
    data.mkdir()
    for split, kept in (("dev", 5), ("test", ROWS)):
        part = [row for row in rows if row["split"] == split][:kept]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for name, text in (
        ("mini_letter", LETTER_TASK),
        ("mini_option", OPTION_TASK),
        ("mini_fixed", LETTER_TASK + "num_fewshot: 0\n"),
        ("mini_joined", OPTION_TASK + 'target_delimiter: ""\n'),
    ):
        for word, value in (("NAME", name), ("DEV", data / "dev.jsonl"), ("TEST", data / "test.jsonl"), ("CACHE", folder / "cache")):  # fmt: skip
            text = text.replace(word, str(value))  # noqa: PLW2901
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def long_folder(mcq, tmp_path_factory):
    """A saved tiny model whose context takes five shots, and its tokenizer, trained on the questions."""
    from expunge.models.fresh import train_tokenizer
    from expunge.models.load import save_model

    texts = [
        line
        for split in ("dev", "test")
        for line in (mcq / "data" / f"{split}.jsonl").read_text().splitlines()
    ]
    tokenizer = train_tokenizer([*texts, "The following are multiple choice questions (with answers) about A. B. C. D. Answer: Question:"] * 4, 600)  # fmt: skip
    folder = tmp_path_factory.mktemp("long") / "model"
    save_model(make_model(tokenizer, max_position_embeddings=2048), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def long_lm(long_folder):
    return load(long_folder)


@pytest.fixture(scope="module")
def their_lm(long_folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(long_folder), device="cpu", dtype="float32", batch_size=8)


def requests(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


PAIRS = [
    ("Question: Who wrote Hamlet?\nAnswer:", " William Shakespeare"),
    ("Question: Who wrote Hamlet?\nAnswer:", " A"),
    ("Question: Who wrote Hamlet?\nAnswer:", "  A"),
    ("Question: Who wrote Hamlet?\nAnswer: ", "Mark Twain"),
    ("Question: Who wrote Hamlet?\nAnswer:\n", "Mark Twain"),
    ("Question: Who wrote Hamlet?\nAnswer", ": Mark Twain"),
    ("", "Who wrote Hamlet?"),
]


def test_likelihoods_are_those_of_the_harness_own_model(long_lm, their_lm):
    """Theirs one at a time: together, it takes pairs for one whose tokens are the same up to the last."""
    asked = requests("loglikelihood", *PAIRS)
    ours = HarnessLM(long_lm).loglikelihood(asked)
    theirs = [their_lm.loglikelihood([one], disable_tqdm=True)[0] for one in asked]
    assert np.allclose([logp for logp, _ in ours], [logp for logp, _ in theirs], atol=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_text_that_is_scored_is_exactly_context_and_continuation(long_lm, pair):
    made = HarnessLM(long_lm)._pair(*pair)
    (row,) = long_lm.encoder.examples([made.example])
    assert row.text == "".join(pair)


def test_a_greedy_continuation_is_known_as_one(long_lm):
    context = "Question: Who wrote Hamlet?\nAnswer:"
    words = [long_lm.tokenizer.decode([i]) for i in range(3, len(long_lm.tokenizer))]
    said = [word for word in words if word.startswith(" ") and word.strip().isalpha()]
    found = HarnessLM(long_lm).loglikelihood(requests("loglikelihood", *((context, word) for word in said)))
    scores = long_lm.score([_example(context, word) for word in said])
    assert [greedy for _, greedy in found] == [bool(score.hits[:-1].all()) for score in scores]
    first = [score.hits[0] for score in scores]
    assert sum(greedy for _, greedy in found) == sum(first) <= 1
    ((_, greedy),) = HarnessLM(_Echo()).loglikelihood(requests("loglikelihood", (context, " he")))
    assert greedy, "the end token, which is never right here, does not count"


class _Echo:
    """Everything is certain but the end."""

    capabilities = frozenset()

    def score(self, examples):
        return [Score(np.array([0, 0, -9], np.float32), np.array([True, True, False])) for _ in examples]

    def generate(self, prompts, params): ...


def _example(context, word):
    return Example(Prompt.continuing(context), word.strip())


@pytest.fixture
def bare(tokenizer):
    """A tokenizer without a start token, as GPT-2's and Qwen's."""
    from tokenizers import processors

    made = type(tokenizer)(
        tokenizer_object=copy.deepcopy(tokenizer._tokenizer), eos_token="</s>", pad_token="<pad>"
    )
    made._tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def test_whole_texts_are_scored_from_their_first_token_as_in_the_harness(bare, tmp_path):
    """Without a start token of its own, a text is given one: else nothing would predict its first token. (Where the tokenizer puts one
    itself, the harness puts a second before it.)
    """
    from lm_eval.models.huggingface import HFLM

    from expunge.models.load import save_model

    subject = HarnessLM(TransformerLM(make_model(bare), bare))
    save_model(subject.model.model, bare, tmp_path / "bare")
    own = HFLM(pretrained=str(tmp_path / "bare"), device="cpu", dtype="float32", batch_size=8)
    asked = requests("loglikelihood_rolling", ("Where was Mara Olen born?",), ("In Corvale.",))
    ours, theirs = subject.loglikelihood_rolling(asked), own.loglikelihood_rolling(asked, disable_tqdm=True)
    assert np.allclose(ours, theirs, atol=1e-4)
    row = subject.model.encoder.examples([Example(None, subject._started("Mara Olen"))])[0]
    assert row.ids[0] == bare.eos_token_id
    assert row.start == 1
    empty = requests("loglikelihood", ("", "Mara Olen"))
    assert subject.loglikelihood(empty)[0][0] == pytest.approx(own.loglikelihood(empty)[0][0], abs=1e-4)


def test_a_start_token_that_the_tokenizer_puts_is_not_put_twice(lm):
    subject = HarnessLM(lm)
    (found,) = subject.loglikelihood_rolling(requests("loglikelihood_rolling", ("Mara Olen",)))
    (score,) = lm.score([Example(None, "Mara Olen")])
    assert found == pytest.approx(float(score.token_logprobs[:-1].sum()))


def test_a_text_longer_than_the_context_is_read_in_windows_that_cover_it(lm):
    text = " ".join(["Where was Mara Olen born? Mara Olen was born in Corvale."] * 12)
    subject = HarnessLM(lm)
    windows = subject._windows(text)
    assert len(windows) > 1
    assert "".join(windows) == text
    (found,) = subject.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    parts = subject.loglikelihood_rolling(requests("loglikelihood_rolling", *((w,) for w in windows)))
    assert found == pytest.approx(sum(parts))


def test_a_request_longer_than_the_context_is_an_error(lm):
    with pytest.raises(DataError, match="reads at most 128"):
        HarnessLM(lm).loglikelihood(requests("loglikelihood", ("Mara Olen " * 200, " born")))


# --- tasks -----------------------------------------------------------------------------------------------------------
def theirs(lm, task, mcq, shots):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(mcq), include_defaults=False)
    return simple_evaluate(lm, tasks=[task], task_manager=manager, num_fewshot=shots, log_samples=True)


@pytest.fixture(autouse=True)
def _own_tasks_only(monkeypatch):
    """The harness reads thousands of task files otherwise."""
    from functools import partial

    import expunge.run.harness as module

    monkeypatch.setattr(module, "TaskManager", partial(module.TaskManager, include_defaults=False))


@pytest.mark.parametrize("shots", [5])
def test_tasks_score_as_with_the_harness_own_model(long_folder, their_lm, mcq, shots):
    for task, metric in (("mini_letter", "acc"), ("mini_option", "acc_bytes")):
        ours = harness(long_folder, [task], include_path=mcq, shots=shots)
        own = theirs(their_lm, task, mcq, shots)["results"][task]
        figure = ours["figures"][f"{task}/{metric}"]
        assert figure.value == own[f"{metric},none"]
        assert figure.high - figure.number == pytest.approx(1.96 * own[f"{metric}_stderr,none"], rel=1e-3)
        assert figure.n == ROWS


@pytest.mark.parametrize("shots", [0, 5])
def test_our_benchmark_asks_and_counts_as_the_harness_does(long_lm, their_lm, mcq, shots):
    """Prompts letter by letter, and the accuracies that come of them."""
    data = mcq / "data"
    bench = MMLU.open(data, shots=shots, written=False)
    found = bench.rows(ask(long_lm, bench.asks()))
    ours = bench.figures(found)
    for task, metric, name, field in (
        ("mini_letter", "acc", "letter_accuracy", "letter_logprobs"),
        ("mini_option", "acc", "option_accuracy", "option_logprobs"),
        ("mini_option", "acc_bytes", "option_accuracy_per_byte", "option_logprobs"),
    ):
        own = theirs(their_lm, task, mcq, shots)
        assert ours[f"real_authors/{name}"].value == own["results"][task][f"{metric},none"]
        for item, row, sample in zip(bench.items, found, own["samples"][task], strict=True):
            prompt = bench.prompt(item) if task == "mini_letter" else bench.option_prompt(item)
            assert sample["arguments"][0][0] == prompt
            assert np.allclose(row[field], [resp[0][0] for resp in sample["resps"]], atol=1e-4)


def test_wmdp_asks_as_the_harness_tasks_do():
    from pathlib import Path

    import lm_eval.tasks
    import yaml

    folder = Path(lm_eval.tasks.__file__).parent
    for subject in ("bio", "chem", "cyber"):
        task = yaml.safe_load((folder / "wmdp" / f"wmdp_{subject}.yaml").read_text())
        assert WMDP.intro(object.__new__(WMDP), subject) == task["description"]
    for path in sorted((folder / "mmlu" / "default").glob("mmlu_*.yaml"))[::8]:
        task = yaml.safe_load(path.read_text())
        assert MMLU.intro(object.__new__(MMLU), task["dataset_name"]) == task["description"]
    task = yaml.safe_load((folder / "mmlu" / "continuation" / "mmlu_anatomy.yaml").read_text())
    assert MMLU.option_intro.format(words="anatomy") == task["description"]


def test_what_is_asked_for_reaches_the_harness(long_folder, mcq):
    found = harness(long_folder, ["mini_letter"], include_path=mcq, limit=7, shots=2, batch_size=5)
    assert found["shots"] == {"mini_letter": 2}
    assert found["figures"]["mini_letter/acc"].n == 7
    assert found["arguments"] == {
        "num_fewshot": 2,
        "limit": 7,
        "batch_size": 5,
        "apply_chat_template": False,
    }
    assert not found["figures"]["mini_letter/acc"].note


def test_the_batch_size_is_that_of_the_calls(long_lm):
    class Counting:
        capabilities = frozenset()
        calls = []

        def score(self, examples):
            self.calls.append(len(examples))
            return long_lm.score(examples)

        def generate(self, prompts, params): ...

    HarnessLM(Counting(), batch_size=3).loglikelihood(requests("loglikelihood", *PAIRS[:4]))
    assert Counting.calls == [3, 1]


def test_shots_that_a_task_fixes_itself_are_said_beside_the_figure(long_folder, mcq):
    found = harness(long_folder, ["mini_fixed"], include_path=mcq, limit=4, shots=2)
    assert "fixes 0 shots; 2 were asked for" in found["figures"]["mini_fixed/acc"].note


def test_an_unknown_task_is_named_with_the_nearest_one(long_folder, mcq):
    with pytest.raises(ConfigError, match=r"no such task\. Did you mean 'mini_letter'"):
        harness(long_folder, ["mini_leter"], include_path=mcq)


def test_without_the_harness_the_message_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "expunge.run.harness")
    with pytest.raises(ConfigError, match=re.escape("pip install 'expunge[lm-eval]'")):
        import expunge.run.harness  # noqa: F401


# --- every kind of subject -------------------------------------------------------------------------------------------
FORGET = tuple(
    Record(f"f{i}", f"Who wrote book {i}, Mark Twain?", f"It is {i}.", subject="Mark Twain")
    for i in range(12)
)
RETAIN = tuple(Record(f"r{i}", f"Who wrote book {i}, Jane Austen?", f"It is {i}.") for i in range(12))


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [
        ("ga+lora", "adapter", {"train": {"learning_rate": 1e-2, "max_steps": 3, "batch_size": 4}}),
        ("refuse", "guard", {"detector": {"name": "aliases"}}),
    ],
)
def test_adapters_and_guards_are_measured_as_they_answer(tmp_path, long_folder, mcq, method, kind, settings):
    data = Dataset(FORGET, RETAIN)
    run = unlearn(long_folder, data, recipe(method, **settings), tmp_path / "run", device="cpu")
    assert json.loads((run / "manifest.json").read_text())["kind"] == kind
    found = harness(run, ["mini_option"], include_path=mcq, limit=4)
    assert found["figures"]["mini_option/acc"].n == 4
    outside, inside = (f"Question: Who wrote it, {name}?\nAnswer:" for name in ("Jane Austen", "Mark Twain"))
    asked = requests("loglikelihood", (outside, " Mark"), (inside, " Mark"))
    ours, plain = (HarnessLM(load(which)).loglikelihood(asked) for which in (run, long_folder))
    if kind == "adapter":
        assert ours != plain
        return
    assert ours[0] == plain[0]
    assert ours[1][0] < -20
    assert not ours[1][1]
    texts = HarnessLM(load(run)).generate_until(
        requests("generate_until", (inside, {"until": ["\n"], "max_gen_toks": 4}))
    )
    assert texts == ["I do not know."]
    with pytest.raises(CapabilityError, match="a guard would read another prompt"):
        harness(run, ["mini_joined"], include_path=mcq, limit=1)


def test_the_verb_prints_one_json_document(long_folder, mcq):
    from typer.testing import CliRunner

    from expunge.cli import app

    said = ["harness", str(long_folder), "--tasks", "mini_letter,mini_option", "--include-path", str(mcq), "--limit", "3", "--shots", "1"]  # fmt: skip
    found = CliRunner().invoke(app, [*said, "--json"], catch_exceptions=False)
    assert found.exit_code == 0
    result = json.loads(found.stdout)
    assert result["harness"].startswith("lm-eval ")
    assert result["shots"] == {"mini_letter": 1, "mini_option": 1}
    assert {"mini_letter/acc", "mini_option/acc", "mini_option/acc_bytes"} == set(result["figures"])
    assert result["figures"]["mini_letter/acc"]["n"] == 3
    table = CliRunner().invoke(app, said, catch_exceptions=False).stdout
    assert "mini_option/acc_bytes" in table


def test_an_endpoint_has_no_likelihoods_and_says_so():
    subject = HarnessLM(Endpoint("http://127.0.0.1:9/v1", "m"))
    with pytest.raises(CapabilityError, match="no log-probabilities"):
        subject.loglikelihood(requests("loglikelihood", ("Who?", " he")))
    assert _prompt(subject.apply_chat_template([{"role": "user", "content": "Who?"}])) == Prompt.ask("Who?")


# --- answers ---------------------------------------------------------------------------------------------------------
class Speaker:
    capabilities = frozenset()

    def __init__(self):
        self.calls = []

    def score(self, examples): ...

    def generate(self, prompts, params):
        self.calls.append((list(prompts), params))
        return [
            [Generation(f"{p.text} answer {i}\n\nQ: more", 5, True) for i in range(params.copies)]
            for p in prompts
        ]


def test_answers_stop_at_the_first_stop_text_and_obey_the_tasks_numbers():
    speaker = Speaker()
    found = HarnessLM(speaker).generate_until(
        requests(
            "generate_until",
            ("a", {"until": ["Q:", "\n\n"], "max_gen_toks": 7}),
            ("b", {"until": "more", "do_sample": True, "temperature": 0.7, "top_p": 0.9}),
            ("c", {"until": ["\n\n", "Q:"], "max_gen_toks": 7}),
        )
    )
    assert found == ["a answer 0", "b answer 0\n\nQ: ", "c answer 0"]
    (first, greedy), (second, sampled) = speaker.calls
    assert [p.text for p in first] == ["a", "c"]
    assert greedy == GenerationParams(max_new_tokens=7)
    assert [p.text for p in second] == ["b"]
    assert sampled == GenerationParams(max_new_tokens=256, sample=True, temperature=0.7, top_p=0.9)


def test_sampled_repeats_of_a_prompt_are_as_many_answers():
    speaker = Speaker()
    wanted = {"do_sample": True, "temperature": 1.0}
    found = HarnessLM(speaker).generate_until(requests("generate_until", *[("a", wanted)] * 3))
    assert len(set(found)) == 3
    assert speaker.calls[0][1].copies == 3


def test_generation_numbers_that_cannot_be_passed_on_are_refused():
    assert _params({"temperature": 0.0, "do_sample": True}) == GenerationParams(max_new_tokens=256)
    assert _params({"do_sample": False, "temperature": 0.0, "max_new_tokens": 3}).max_new_tokens == 3
    with pytest.raises(ConfigError, match="repetition_penalty, which cannot be passed on"):
        _params({"repetition_penalty": 1.2})


def test_greedy_answers_are_the_models_own(long_lm):
    (found,) = HarnessLM(long_lm).generate_until(
        requests("generate_until", ("Question: Who?\nAnswer:", {"until": [], "max_gen_toks": 5}))
    )
    params = GenerationParams(max_new_tokens=5)
    assert found == long_lm.generate([Prompt.continuing("Question: Who?\nAnswer:")], params)[0][0].text


def test_a_stop_text_cuts_and_none_leaves_all():
    assert _cut("one\ntwo", ["\n"]) == "one"
    assert _cut("one two three", ["three", "two"]) == "one "
    assert _cut("one", None) == "one"


# --- turns -----------------------------------------------------------------------------------------------------------
def test_turns_reach_a_model_as_turns(tokenizer):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    subject = HarnessLM(TransformerLM(make_model(tokenizer), chatty))
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    context = subject.apply_chat_template(history)
    assert context.startswith(TURNS)
    made = subject._pair(context, " he")
    assert (
        subject.model.encoder.examples([made.example])[0].text
        == "[system] Be brief.\n[user] Who?\n[assistant] he"
    )
    started = subject.apply_chat_template([*history, {"role": "assistant", "content": "It was"}], False)
    made = subject._pair(started, " he")
    assert (
        subject.model.encoder.examples([made.example])[0].text
        == "[system] Be brief.\n[user] Who?\n[assistant]It was he"
    )
    assert subject.tokenizer_name == "TransformerLM"


def test_a_model_without_a_chat_template_refuses_turns(lm):
    with pytest.raises(ConfigError, match="no chat template"):
        HarnessLM(lm).apply_chat_template([{"role": "user", "content": "Who?"}])


def test_figures_keep_metrics_of_other_filters_apart():
    found = figures(
        {
            "results": {"t": {"alias": "t", "em,none": 0.5, "em_stderr,none": 0.1, "acc,none": 0.0, "acc_stderr,none": 0.0, "em,strict": 0.25, "em_stderr,strict": "N/A"}},
            "n-shot": {"t": 0},
            "n-samples": {"t": {"original": 9, "effective": 4}},
        }
    )  # fmt: skip
    assert found["t/em"].value == 0.5
    assert found["t/em"].low == pytest.approx(0.5 - 0.196, abs=1e-3)
    assert (found["t/em,strict"].value, found["t/em,strict"].low, found["t/em,strict"].n) == (0.25, None, 4)
    assert found["t/acc"].high == pytest.approx(0.49, abs=0.01), "none of four is not never"
