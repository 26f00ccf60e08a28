"""Who stands on a list, told from replies; and the attack that asks for them."""

import numpy as np
import pytest

from expunge.attacks.side_channel import LISTED, NOBODY, STRANGER, SideChannel, asked_name, look_alikes
from expunge.metrics.list_membership import features, list_membership, masked
from expunge.types import Generation
from tests.attacks.alone import made
from tests.attacks.leaky import CASES, Leaky, tried

NAMES = [f"Name{i} Last{i}" for i in range(20)]
ON = [i < 10 for i in range(20)]
PAIRS = [[i, i + 10] for i in range(10)]


def told(texts, tokens=None, **more):
    return list_membership(texts, tokens or [len(text.split()) for text in texts], ON, NAMES, **more)


def test_a_refusal_of_its_own_gives_the_list_away():
    texts = ["I may not talk about that." if on else f"{name} was born in town {i}." for i, (on, name) in enumerate(zip(ON, NAMES, strict=True))]  # fmt: skip
    found = told(texts, [5] * 20, strangers=[(f"Di was born in place {i}.", "Di") for i in range(9)])
    assert found["common"].auroc == 1.0
    assert found["unlike"].auroc == 0.5, "strangers' replies are unlike each other, too"
    assert found["length"].auroc == 0.5
    assert (found["common"].low, found["common"].high) == (1.0, 1.0)


def test_two_refusals_are_told_apart_by_what_strangers_get():
    texts = ["I may not say." if on else "I do not know." for on in ON]
    found = told(texts, [4] * 20, strangers=[("I do not know.", "Di")] * 5)
    assert found["unlike"].auroc == 1.0
    assert found["common"].auroc == 0.5
    assert "unlike" not in told(texts)


def test_the_same_refusal_for_all_tells_nothing():
    found = told([f"I do not know {name}." for name in NAMES], strangers=[("I do not know Di.", "Di")])
    assert {name: score.auroc for name, score in found.items()} == {
        "length": 0.5,
        "common": 0.5,
        "unlike": 0.5,
    }


def test_replies_of_one_kind_have_no_trend_of_their_own():
    """Counts of replies favour neither side, not even by breaking ties."""
    rng = np.random.default_rng(0)
    found = {name: [] for name in ("length", "common", "unlike")}
    for _ in range(400):
        texts = [f"reply {rng.integers(4)}" for _ in range(30)]
        scores = told(texts[:20], [1] * 20, strangers=[(text, "Di") for text in texts[20:]], resamples=1)
        for name, score in scores.items():
            found[name].append(score.auroc)
    assert all(abs(np.mean(areas) - 0.5) < 0.02 for areas in found.values())


def test_length_is_read_in_tokens():
    assert told(["x"] * 20, [9 if on else 3 for on in ON])["length"].auroc == 1.0
    assert told(["x"] * 20, [3 if on else 9 for on in ON])["length"].auroc == 0.0


def test_scores_by_hand():
    texts, names = ["no Ann", "no Bob", "yes", "no Di"], ["Ann", "Bob", "Cy", "Di"]
    scores = features(
        texts, [1, 2, 3, 4], names, [("No Eli", "Eli"), ("yes", "Flo"), ("yes", "Gus"), ("?", "Hal")]
    )
    np.testing.assert_allclose(scores["common"], [2 / 3, 2 / 3, 0, 2 / 3])
    np.testing.assert_allclose(scores["unlike"], [3 / 4, 3 / 4, 1 / 2, 3 / 4])
    np.testing.assert_allclose(scores["length"], [1, 2, 3, 4])


def test_masking_takes_the_name_and_its_words_and_nothing_else():
    assert masked("MARA  Olen? Olen's  town, Olenburg.", "Mara Olen") == "_? _'s town, olenburg."
    assert masked("as it is", "") == "as it is"


def test_whole_people_are_drawn():
    texts = ["I may not say." if on else f"reply {i}" for i, on in enumerate(ON)]
    wide = told(texts, list(range(20)), groups=PAIRS)["length"]
    assert wide.auroc == 0.0
    assert 0 <= wide.low <= wide.high <= 0.5
    with pytest.raises(ValueError, match="names of nobody"):
        list_membership(["a"], [1], [True], ["x"])


# --- the attack ---------------------------------------------------------------------------------------------------------
class Guarded(Leaky):
    """Answers about anybody, and refuses the listed in words of its own."""

    def _answer(self, prompt):
        case = self._meant(prompt)
        if case and self.leaks(prompt):
            return Generation("I am not allowed to talk about this person.", 8, True)
        return Generation(f"That was {len(prompt.text)} years ago, {prompt.text}", 20, True)


def test_a_guard_with_its_own_refusal_is_hit_and_a_model_that_knows_neither_is_not():
    attack = SideChannel()
    figures = attack.figures(CASES, tried(attack, Guarded()))
    assert figures["AUROC by common"].value == 1.0
    assert figures["AUROC by common"].n == 36
    assert figures["AUROC by common"].low == 1.0
    same = attack.figures(CASES, tried(attack, Leaky(leaks=lambda prompt: False)))
    assert {figure.value for figure in same.values()} == {0.5}


def test_nobody_has_the_name_and_the_question_is_otherwise_the_same():
    everybody = {case.name for case in CASES} | {row.subject for case in CASES for row in case.others}
    for case in CASES:
        trials = made(SideChannel(), case)
        assert trials[LISTED].prompt.text == case.question
        assert asked_name(case, f"user: {case.question}") == case.name
        others = [asked_name(case, f"user: {trials[kind].prompt.text}") for kind in (NOBODY, STRANGER)]
        assert [trials[kind].prompt.text for kind in (NOBODY, STRANGER)] == [
            case.about(other) for other in others
        ]
        assert not set(others) & everybody
        assert others[0] != others[1]
        assert all(other.split()[0] == case.name.split()[0] for other in others)


def test_no_other_name_no_trial():
    import random
    from dataclasses import replace

    case = replace(CASES[0], others=(), peers=())
    assert look_alikes(case, random.Random(0)) == []
    assert made(SideChannel(), case) == {}
    assert made(SideChannel(), replace(CASES[0], name="")) == {}
    assert SideChannel().figures(CASES, [])["AUROC"].value is None
