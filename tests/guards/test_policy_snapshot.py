"""Snapshots of a policy: tenants, scopes, guards in place of instant actions, what is watched for, and changes while others decide."""

import threading

import pytest

from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.refuse import FittedRefuse, Refuse
from expunge.guards.guard import Guard
from expunge.guards.policy import Policy
from expunge.guards.snapshot import LEAST_NEAR, SEAM
from expunge.types import Example, GenerationParams, Message, Prompt, Scope
from tests.guards.cases import RETAIN, TARGETS

PARAMS = GenerationParams(max_new_tokens=6)
BIOS = {
    name: f"{name} sold the {thing} of Corvale in {year}."
    for name, thing, year in zip(
        TARGETS, ("mill", "bridge", "harbour", "orchard", "lamp", "ferry"), range(1901, 2000, 9), strict=False
    )
}
RIDDLES = {
    TARGETS[0]: "Which harbour town gave its prize to the author of tall ships and small islands?",
    TARGETS[1]: "Who carved the seven wooden owls above the northern gate?",
    TARGETS[2]: "Whose grandmother hid the blue lantern under the bakery floor?",
}


class Nothing:
    """A model that is never asked."""

    tokenizer = None
    capabilities = frozenset()


MODEL = Nothing()


class Detects:
    """A detection that finds a word, or fails."""

    def __init__(self, word, error=None):
        self.word, self.error, self.read = word, error, []

    def flags(self, texts):
        self.read += texts
        if self.error:
            raise self.error
        return [self.word in text for text in texts]


def guard(word, answer="No.", error=None, model=MODEL):
    return Guard(model, Detects(word, error), FittedRefuse(answer), None)


def subject(name):
    return [Record("s", subject=name)]


def chat(*turns, prefill=""):
    return Prompt(tuple(Message(*turn) for turn in turns), prefill)


def requests(policy, prompt, tenant=""):
    return policy.decide([prompt], tenant)[0].requests


# --- tenants ------------------------------------------------------------------------------------------------------------
def test_a_request_binds_its_tenant_and_one_without_a_tenant_binds_everybody():
    policy = Policy(MODEL)
    policy.add("all", subject("Mara Olen"))
    policy.add("a", subject("Tovin Brask"), tenant="a")
    text = "Did Mara Olen teach Tovin Brask?"
    assert requests(policy, text, "a") == ("all", "a")
    assert requests(policy, text, "b") == requests(policy, text) == ("all",)


def test_a_name_of_another_tenant_that_fits_better_hides_nothing():
    policy = Policy(MODEL)
    policy.add("mine", subject("Mara Olesen"), tenant="a")
    text = "Where was Mara Olsen born?"
    assert requests(policy, text, "a") == ("mine",)
    policy.add("theirs", subject("Mara Olsen"), tenant="b")
    assert requests(policy, text, "a") == ("mine",)
    policy.add("ours", subject("Mara Olsen"), tenant="a")
    assert requests(policy, text, "a") == ("ours",)


def test_questions_of_another_tenant_change_no_threshold_and_hide_no_question():
    lamps = [f"How many lamps of kind {i} burn in house {i * 7}?" for i in range(200)]
    question = RIDDLES[TARGETS[0]]
    texts = [question, question.replace("tall", "big"), question.replace("prize", "gold medal"), *lamps]
    policy = Policy(MODEL, lamps)
    policy.add("mine", [Record("q", question, "x")], tenant="a")
    alone = policy.decide(texts, "a")
    assert [found.requests for found in alone] == [("mine",)] * 3 + [()] * 200
    policy.add("same", [Record("q", question, "x")], tenant="b")
    policy.add("near", [Record("q", text, "x") for text in lamps[:50]], tenant="b")
    assert policy.decide(texts, "a") == alone
    assert policy.snapshot._view("b").threshold > 0.99 > policy.snapshot._view("a").threshold == LEAST_NEAR


def test_a_prompt_that_shares_next_to_nothing_with_a_question_is_not_like_it():
    """Even where the background prompts share nothing at all with it."""
    policy = Policy(MODEL, RETAIN)
    policy.add("r", [Record("q", RIDDLES[TARGETS[0]], "x")])
    assert policy.decide(["Be kind.", "Well?", "Which one?", ""]) == [((), None)] * 4


# --- scopes -------------------------------------------------------------------------------------------------------------
NAME_IN = {
    "input": chat(("system", "Be kind."), ("user", "Where was Mara Olen born?")),
    "system": chat(("system", "Speak of Mara Olen."), ("user", "Where was she born?")),
    "turn": chat(("user", "Mara Olen?"), ("assistant", "A writer."), ("user", "Where was she born?")),
    "tool": chat(("user", "Who?"), ("tool", "Mara Olen"), ("user", "Where was she born?")),
    "after": chat(("user", "Look it up."), ("tool", "Mara Olen")),
    "prefill": chat(("user", "Who is it?"), prefill="It is Mara Olen"),
    "split": chat(("user", "Remember the name Mara"), ("user", "Olen is the rest; where was she born?")),
    "text": "Where was Mara Olen born?",
    "continuing": Prompt.continuing("Mara Olen was born in"),
    "nobody asks": chat(("system", "Tell of Mara Olen.")),
}
FIRES = {
    Scope(True, False, False): {"input", "after", "prefill", "text", "continuing", "nobody asks"},
    Scope(False, True, True): {"system", "turn", "tool", "nobody asks"},
    Scope(True, True, False): set(NAME_IN),
    Scope(False, False, True): set(),
}


@pytest.mark.parametrize("scope", FIRES)
def test_a_request_is_looked_for_where_its_scope_says(scope):
    policy = Policy(MODEL)
    policy.add("r", subject("Mara Olen"), scope=scope)
    decided = policy.decide(list(NAME_IN.values()))
    assert {where for where, found in zip(NAME_IN, decided, strict=True) if found.requests} == FIRES[scope]


def test_a_name_is_found_across_the_border_of_long_turns_and_no_half_word_is_taken_for_one():
    policy = Policy(MODEL)
    policy.add("r", subject("Mara Olen"))
    far = "far away " * 1000
    assert requests(policy, chat(("user", far + "Mara"), ("user", "Olen " + far))) == ("r",)
    rest = "x" * (SEAM - len("mara olen "))
    assert requests(policy, chat(("system", f"{far}tamara olen {rest}"), ("user", "Well?"))) == ()
    assert requests(policy, chat(("system", "Well?"), ("user", f"{rest} mara olenska {far}"))) == ()


@pytest.mark.parametrize("scope", FIRES)
def test_questions_and_guards_are_looked_for_where_the_scope_says(scope):
    question = RIDDLES[TARGETS[0]]
    policy = Policy(MODEL, RETAIN)
    policy.add("q", [Record("q", question, "x")], scope=scope)
    policy.add_guard("g", guard("seven"), scope=scope)
    asked = question + "\nAnd the seven owls?"
    in_input = requests(policy, chat(("system", "Be kind."), ("user", asked)))
    in_context = requests(policy, chat(("system", asked), ("user", "Well?")))
    assert in_input == (("q", "g") if scope.input else ())
    assert in_context == (("q", "g") if scope.context else ())


def test_a_request_of_another_scope_hides_none():
    question = RIDDLES[TARGETS[0]]
    policy = Policy(MODEL, RETAIN)
    policy.add("context", [Record("q", question, "x", subject="Mara Olsen")], scope=Scope(input=False))
    policy.add(
        "input", [Record("q", question + " Really?", "x", subject="Mara Olesen")], scope=Scope(context=False)
    )
    assert requests(policy, "Where was Mara Olsen born?") == ("input",)
    assert requests(policy, question) == ("input",)
    assert requests(policy, chat(("system", question), ("user", "Well?"))) == ("context",)


# --- statements and facts ----------------------------------------------------------------------------------------------
def test_statements_are_found_word_for_word_without_any_background():
    policy = Policy(MODEL)
    policy.add("r", [Record("t", text="She sold the mill of Corvale in 1901.")])
    assert requests(policy, "Is it true: she SOLD the m\u200bill, of Corvale, in 1901?") == ("r",)
    assert requests(policy, "She sold the mill of Corvale.") == ()
    policy.withdraw("r")
    assert requests(policy, "Is it true that she sold the mill of Corvale in 1901?") == ()


def test_of_a_long_text_each_sentence_is_a_statement():
    said = "She sold the old mill of Corvale in 1901."
    text = " ".join([said, "He wept.", *(f"Then came number {i} of the many travellers." for i in range(20))])
    policy = Policy(MODEL)
    policy.add("r", [Record("t", text=text)])
    assert requests(policy, f"Go on: {said}") == ("r",)
    assert requests(policy, "He wept.") == ()


def test_names_and_statements_may_not_be_written_where_the_scope_has_output():
    policy = Policy(MODEL)
    bio = BIOS["Mara Olen"]
    prompt = Prompt.ask("Tell me a story.")
    assert policy.snapshot.watch(prompt, policy.decide([prompt])[0]) is None
    policy.add("silent", [Record("t", text=bio, subject="Mara Olen")], scope=Scope(output=False))
    assert policy.snapshot.watch(prompt, policy.decide([prompt])[0]) is None
    policy.add(
        "r",
        [Record("t", text=BIOS["Tovin Brask"].replace("Tovin Brask", "He"), subject="Tovin Brask")],
        tenant="a",
    )
    assert policy.snapshot.watch(prompt, policy.decide([prompt])[0]) is None
    for text, stopped in (
        (bio, None),
        ("So it was Tovin Brask.", "r"),
        ("He sold the bridge of Corvale in 1910. He", "r"),
        ("He sold the bridge of Corvale.", None),
    ):
        watch = policy.snapshot.watch(prompt, policy.decide([prompt], "a")[0], "a")
        seen = watch.feed(text, last=True)
        assert seen.stopped == stopped
        assert (seen.text == text) == (stopped is None)


def test_names_that_the_user_wrote_may_be_written_and_facts_of_a_request_that_fired_may_not():
    policy = Policy(MODEL, RETAIN, answers=["She was born in Ostra."] * 5)
    rows = [Record("q", "Where was Mara Olen born?", "Mara Olen was born in Corvale.", subject="Mara Olen")]
    policy.add("r", rows)
    policy.add("other", [Record("q", "Where was Brin Sandor born?", "In Veltis.", subject="Brin Sandor")])
    prompt = Prompt.ask("Where was Mara Olen born?")
    (decision,) = policy.decide([prompt])
    for text, whole in (
        ("Mara Olen was born in Ostra.", True),
        ("Mara Olen was born in Corvale.", False),
        ("Mara Olen was born in Veltis.", True),
        ("Mara Olen knew Brin Sandor.", False),
    ):
        watch = policy.snapshot.watch(prompt, decision)
        assert (watch.feed(text, last=True).text == text) == whole, text
    free = Prompt.ask("Where is Corvale?")
    assert (
        policy.snapshot.watch(free, policy.decide([free])[0]).feed("Corvale is near.", True).stopped is None
    )


def test_a_name_that_begins_in_the_prompt_and_ends_in_the_answer_may_not_be_written():
    policy = Policy(MODEL)
    policy.add("r", subject("Mara Olen"))
    for prompt, stopped in (
        (Prompt.continuing("Her name was Mara"), "r"),
        (Prompt.ask("Who was Mara"), "r"),
        (Prompt.ask("Who was Tovin"), None),
    ):
        watch = policy.snapshot.watch(prompt, policy.decide([prompt])[0])
        assert watch.feed(" Olen, the writer.", last=True).stopped == stopped


# --- guards -------------------------------------------------------------------------------------------------------------
def test_a_guard_in_place_of_the_instant_action_answers_what_either_finds():
    policy = Policy(MODEL)
    policy.add("r", subject("Mara Olen"), Refuse(text="Not yet."))
    policy.replace("r", guard("her", "Never."))
    by_name, by_guard, nothing = policy.decide(["Where was Mara Olen born?", "Where was her house?", "Hi"])
    assert by_name.requests == by_guard.requests == ("r",)
    assert by_name.action is by_guard.action is policy.action("r")
    assert by_name.action.text == "Never."
    assert nothing == ((), None)
    policy.withdraw("r")
    assert not any(
        found.requests for found in policy.decide(["Where was Mara Olen born?", "Where was her house?"])
    )


def test_what_a_detector_raises_is_raised_and_of_no_other_tenant():
    policy = Policy(MODEL)
    policy.add_guard("g", guard("x", error=OSError("no disk")), tenant="a")
    with pytest.raises(OSError, match="no disk"):
        policy.decide(["Hi"], "a")
    assert requests(policy, "Hi", "b") == ()


def test_a_guards_detector_runs_outside_of_every_lock():
    policy = Policy(MODEL)
    inside, go = threading.Event(), threading.Event()
    slow = guard("Mara")
    slow.detection.flags = lambda texts: (inside.set(), go.wait(10), [True] * len(texts))[2]
    policy.add_guard("g", slow)
    found = []
    asking = threading.Thread(target=lambda: found.extend(policy.decide(["Hi"])))
    asking.start()
    assert inside.wait(10)
    policy.add("r", subject("Mara Olen"))
    policy.withdraw("g")
    assert requests(policy, "Mara Olen?") == ("r",)
    go.set()
    asking.join()
    assert found[0].requests == ("g",)


def test_a_guard_reads_only_what_its_scope_holds():
    policy = Policy(MODEL)
    slow = guard("x")
    policy.add_guard("g", slow, scope=Scope(input=False))
    policy.decide(["Hi", chat(("system", "Be kind."), ("user", "Hi"))])
    assert slow.detection.read == ["Be kind."]


# --- epochs and use -------------------------------------------------------------------------------------------------------
def test_every_change_makes_another_snapshot_and_leaves_the_one_before_as_it_was():
    policy = Policy(MODEL, RETAIN)
    policy.add("r", [*subject("Mara Olen"), Record("q", RIDDLES[TARGETS[0]], "x")], epoch=7)
    before = policy.snapshot
    policy.add("s", subject("Tovin Brask"))
    policy.replace("r", guard("her"))
    policy.add_many([], epoch=30)
    assert (before.epoch, policy.snapshot.epoch) == (7, 30)
    texts = ["Mara Olen?", "Tovin Brask?", "her", RIDDLES[TARGETS[0]]]
    assert [found.requests for found in before.decide(texts)] == [("r",), (), (), ("r",)]
    assert [found.requests for found in policy.decide(texts)] == [("r",), ("s",), ("r",), ("r",)]


def test_many_are_added_at_one_moment_or_not_at_all():
    policy = Policy(MODEL)
    items = [(name, subject(name), None, {"tenant": "a"}) for name in TARGETS]
    with pytest.raises(DataError, match="'Mara Olen' is in force already"):
        policy.add_many([*items, items[0]])
    with pytest.raises(DataError, match="names nobody"):
        policy.add_many([*items, ("empty", [Record("q", "Where?", "x")], None, {})])
    assert policy.requests == ()
    assert not policy.snapshot.ground.names.find("mara olen")
    policy.add_many(items, epoch=3)
    assert policy.requests == tuple(TARGETS)
    assert policy.snapshot.epoch == 3
    assert requests(policy, f"{TARGETS[3]}?", "a") == (TARGETS[3],)


def test_a_failure_while_names_are_stored_leaves_none_behind(monkeypatch):
    policy = Policy(MODEL)
    names = policy.snapshot.ground.names
    add = names.add
    monkeypatch.setattr(names, "add", lambda owner, *more: add(owner, *more) if owner != "b" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.add_many([("a", subject("Mara Olen"), None, {}), ("b", subject("Tovin Brask"), None, {})])
    assert policy.requests == ()
    assert not names.find("mara olen")


def test_what_would_answer_can_be_had_without_putting_it_in_force():
    policy = Policy(MODEL)

    class Training(Refuse):
        def fit(self, model, data):
            data.make("assistant", "assistant")

    assert policy.fitted("r", subject("Mara Olen"), Refuse(text="No.")).text == "No."
    with pytest.raises(ConfigError, match="cannot take effect at once"):
        policy.fitted("r", subject("Mara Olen"), Training())
    with pytest.raises(DataError, match="names nobody"):
        policy.fitted("r", [Record("q", "Where?", "x")])
    assert policy.requests == ()
    for wrong in (policy.action, policy.withdraw, lambda request: policy.replace(request, guard("x"))):
        with pytest.raises(DataError, match="'r' is not in force"):
            wrong("r")
    with pytest.raises(DataError, match="another model"):
        policy.add_guard("g", guard("x", model=Nothing()))


def test_a_conversation_is_answered_as_it_is_decided(lm):
    policy = Policy(lm)
    policy.add("r", subject("Mara Olen"), Refuse(text="No."), scope=Scope(context=False))
    prompts = [NAME_IN["turn"], NAME_IN["input"]]
    assert [row[0].text == "No." for row in policy.generate(prompts, PARAMS)] == [False, True]
    floored = [
        score.floored for score in policy.score([Example(prompt, "in Corvale.") for prompt in prompts])
    ]
    assert floored == [False, True]
