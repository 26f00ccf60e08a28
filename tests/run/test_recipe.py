"""Recipes: names to objects, presets, overrides, and combinations that are refused with their reason."""

import pytest

from expunge.errors import ConfigError
from expunge.recipes import RECIPES, preset_names, read_recipe, recipe


def test_a_method_string_names_one_value_per_axis_in_any_order():
    assert recipe("gru+nll+npo").method == recipe("npo", retain="nll", gradient="gru").method == "npo+nll+gru"
    assert recipe("graddiff").method == "ga+nll"
    assert recipe("npo+gru").retain_weight == 0, (
        "without a retain term the retain gradient serves the projection alone"
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_reads_says_its_source_and_survives_a_round_trip(name):
    made = read_recipe(name)
    assert made.source
    assert recipe(**made.describe()) == made
    assert made.claim in ("approximate", "exact", "suppression")


def test_overrides_reach_every_setting():
    made = read_recipe("tofu-npo", ["objective.beta=0.5", "train.learning_rate=3e-5", "seed=4"])
    assert (made.axes["objective"].beta, made.train.learning_rate, made.seed) == (0.5, 3e-5, 4)


def test_a_recipe_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("method: npo+kl\nobjective: {beta: 0.2}\ntrain: {epochs: 2}\n")
    made = read_recipe(str(tmp_path / "mine.yaml"))
    assert (made.method, made.axes["objective"].beta, made.train.epochs) == ("npo+kl", 0.2, 2)


def test_a_class_of_ones_own_by_dotted_path():
    made = recipe("npo+nll", objective={"name": "expunge.methods.objectives.simnpo:SimNPO", "beta": 3.0})
    assert type(made.axes["objective"]).__name__ == "SimNPO"


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("nppo", {}, "unknown method 'nppo'. Did you mean 'npo'?"),
        ("npo+ga", {}, "both values of the axis 'objective'"),
        ("nll", {}, "has no forget objective"),
        ("npo+wga", {}, "takes no token weights"),
        ("eco+npo", {}, "is a guard and leaves the weights alone"),
        ("ngram", {}, "a detector alone does nothing"),
        ("retrain+npo", {}, "takes no forget objective"),
        ("retrain+wagle", {}, "takes no forget objective, and so no selection either"),
        ("npo++nll", {}, "names joined by '+'"),
        ("npo", {"objective": {"betta": 1}}, "objective npo: unknown setting 'betta'. Did you mean 'beta'?"),
        ("npo", {"objective": {"beta": -1}}, "'beta' is -1"),
        (
            "npo",
            {"train": {"learning_rat": 1}},
            "train: unknown setting 'learning_rat'. Did you mean 'learning_rate'?",
        ),
        ("npo", {"train": {"epochs": "many"}}, "'epochs' is 'many'"),
        ("npo", {"retain": "nlll"}, "unknown retain 'nlll'. Did you mean 'nll'?"),
        ("ga", {"weighting": {"beta": 1}}, "has no weighting"),
        ("npo", {"retian_weight": 1}, "unknown setting 'retian_weight'. Did you mean 'retain_weight'?"),
        ("my.module:Thing", {}, "a dotted path does not say its axis"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_to_type(method, settings, message):
    with pytest.raises(ConfigError) as error:
        recipe(method, **settings)
    assert message in str(error.value)


def test_bad_files_and_overrides_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("method: [npo\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- npo\n")
    with pytest.raises(ConfigError, match="expected 'name: value' lines"):
        read_recipe(str(tmp_path / "list.yaml"))
    (tmp_path / "empty.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="no 'method'"):
        read_recipe(str(tmp_path / "empty.yaml"))
    with pytest.raises(ConfigError, match="expected name=value"):
        read_recipe("npo", ["train.epochs"])
    with pytest.raises(ConfigError, match="is a single value"):
        read_recipe("npo", ["method.x=1"])


def test_there_is_a_preset_for_every_published_use():
    assert {path.stem for path in RECIPES.glob("tofu-*.yaml")} >= {
        "tofu-npo",
        "tofu-simnpo",
        "tofu-dpo",
        "tofu-gru",
        "tofu-retrain",
        "tofu-eco",
    }


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("npo+primal_dual+gru", {}, "both answer the same conflict"),
        ("flat+nll", {}, "no longer that method"),
        ("rmu+embed", {}, "the paper trains mlp.down_proj of three blocks"),
        ("npo+embed", {"retain": {"layer": 0}}, "what later blocks do with them is free"),
    ],
)
def test_what_is_allowed_but_odd_is_said(method, settings, said):
    (warning,) = recipe(method, **settings).warnings
    assert said in warning
    assert not recipe("npo+nll").warnings
