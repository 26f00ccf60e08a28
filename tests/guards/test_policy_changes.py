"""Whatever comes and goes, decisions are those of a policy made from what is left, and nobody sees half a change."""

import gc
import threading
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.data.dataset import Record
from expunge.guards.actions.refuse import Refuse
from expunge.guards.neighbours import Background, Chunk, HashedNgrams, nearest_owners
from expunge.guards.policy import ALPHA, Policy
from expunge.guards.snapshot import _threshold
from expunge.types import Generation, GenerationParams, Prompt, Scope
from tests.guards.cases import ASKED, FIRST, LAST, OTHERS, RETAIN, TARGETS
from tests.guards.test_policy_snapshot import BIOS, MODEL, RIDDLES, chat, guard, requests, subject

SCOPES = (Scope(), Scope(context=False), Scope(input=False), Scope(input=False, context=False))
NAMES = sorted({*TARGETS, "Mara Olesen", "Mara Olsen"})
PEOPLE = {
    name: [
        Record("s", subject=name, text=BIOS.get(name, "")),
        *([Record("q", RIDDLES[name], "x", subject=name)] if name in RIDDLES else []),
    ]
    for name in NAMES
}
PROMPTS = [
    *(f"Where was {name} born?" for name in NAMES),
    *RIDDLES.values(),
    *(text.replace(" the ", " a ") for text in RIDDLES.values()),
    *BIOS.values(),
    *(chat(("system", a), ("user", b)) for a, b in zip(RIDDLES.values(), BIOS.values(), strict=False)),
    *RETAIN[:5],
]
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(NAMES), st.sampled_from(("", "a", "b")), st.sampled_from(SCOPES)),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
        st.tuples(st.just("replace"), st.integers(0, 9), st.sampled_from(FIRST)),
    ),
    max_size=14,
)  # fmt: skip


def told(policy):
    """All decisions, for every tenant: which requests, and what is answered."""
    return [
        (found.requests, getattr(found.action, "text", None))
        for tenant in ("", "a", "b", "c")
        for found in policy.decide(PROMPTS, tenant)
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES)
def test_after_any_changes_decisions_are_those_of_a_policy_made_from_what_is_left(changes):
    policy, kept, fresh = Policy(MODEL, RETAIN), {}, count()
    for what, who, *where in changes:
        if what == "add":
            request = f"{next(fresh):03}"
            kept[request] = who, where, None
            policy.add(request, PEOPLE[who], Refuse(text=request), tenant=where[0], scope=where[1])
        elif kept:
            request = sorted(kept)[who % len(kept)]
            if what == "withdraw":
                policy.withdraw(request)
                del kept[request]
            else:
                kept[request] = *kept[request][:2], where[0]
                policy.replace(request, guard(where[0], request))
    again = Policy(MODEL, RETAIN)
    again.add_many(
        [(request, PEOPLE[who], Refuse(text=request), {"tenant": t, "scope": s}) for request, (who, (t, s), _) in kept.items()]
    )  # fmt: skip
    for request, (_, _, word) in kept.items():
        if word:
            again.replace(request, guard(word, request))
    assert told(policy) == told(again)
    assert policy.requests == again.requests
    for tenant in ("", "a", "b"):
        assert policy.snapshot._view(tenant).threshold == again.snapshot._view(tenant).threshold


def test_who_decides_while_requests_come_and_go_sees_one_moment(monkeypatch):
    """Two requests, of a name and of a riddle, come and go at once: both are seen or none. A third is always there."""
    monkeypatch.setattr("expunge.guards.snapshot.CHUNK", 3)
    policy = Policy(MODEL, RETAIN)
    policy.add("kept", [*subject("Mara Olen"), Record("q", RIDDLES[TARGETS[1]], "x")])
    text = f"{RIDDLES[TARGETS[0]]}\n{RIDDLES[TARGETS[1]]}"
    wrong, stop = [], threading.Event()

    def ask():
        try:
            while not stop.is_set():
                snapshot = policy.snapshot
                found = snapshot.decide([text, "Mara Olen met Tovin Brask.", "Where is Jola Reed?"])
                expected = tuple(r for r in snapshot.requests if r in ("kept", "pair"))
                if "kept" not in found[0].requests or "kept" not in found[1].requests or found[2].requests:
                    wrong.append(found)
                if not set(found[0].requests) | set(found[1].requests) <= set(expected):
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        policy.add("pair", [*subject("Tovin Brask"), Record("q", RIDDLES[TARGETS[0]], "x")])
        assert requests(policy, text) == ("kept", "pair")
        policy.add(f"r{i}", subject(OTHERS[i % 10 + 5]), tenant="a")
        policy.withdraw("pair")
        assert requests(policy, text) == ("kept",)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_how_questions_are_spread_over_chunks_changes_nothing(monkeypatch, most):
    monkeypatch.setattr("expunge.guards.snapshot.CHUNK", most)
    monkeypatch.setattr("expunge.guards.policy.CHUNK", most)
    many, one = Policy(MODEL, RETAIN), Policy(MODEL, RETAIN)
    rows = {
        f"{a} {b}": [Record("q", ASKED[i % 5].format(f"{a} {b}"), "x")]
        for i, a in enumerate(FIRST)
        for b in LAST[:2]
    }
    many.add_many([(name, found, None, {}) for name, found in rows.items()])
    for name in reversed(rows):
        one.add(name, rows[name])
    assert many.snapshot._view("").threshold == one.snapshot._view("").threshold
    asked = [question.format(name) for name in rows for question in ASKED]
    assert [found.requests for found in many.decide(asked)] == [found.requests for found in one.decide(asked)]
    assert any(found.requests for found in many.decide(asked))
    for name in list(rows)[::2]:
        many.withdraw(name)
    left = Policy(MODEL, RETAIN)
    left.add_many([(name, rows[name], None, {}) for name in list(rows)[1::2]])
    assert many.snapshot._view("").threshold == left.snapshot._view("").threshold
    assert [found.requests for found in many.decide(asked)] == [
        found.requests for found in left.decide(asked)
    ]


def test_how_much_is_compared_at_a_time_changes_nothing(monkeypatch):
    people = [f"{a} {b}" for a in FIRST[:6] for b in LAST[:2]]
    asked = [question.format(name) for name in people for question in ASKED]

    def found():
        policy = Policy(MODEL, RETAIN)
        rows = [(name, [Record("q", ASKED[0].format(name), "x")], None, {}) for name in people]
        policy.add_many(rows)
        policy.withdraw(people[3])
        decided = policy.decide([*asked, "\n".join(asked)])
        return policy.snapshot._view("").threshold, [decision.requests for decision in decided]

    whole = found()
    assert len(whole[1][-1]) > 3
    for block in (1, 100):
        monkeypatch.setattr("expunge.guards.neighbours.BLOCK", block)
        assert found() == whole


def test_a_request_that_comes_back_with_other_names_has_none_of_the_old_ones():
    policy = Policy(MODEL)
    policy.add("r", subject("Mara Olen"))
    policy.withdraw("r")
    policy.add("r", subject("Tovin Brask"))
    assert requests(policy, "Who is Mara Olen?") == ()
    assert requests(policy, "Who is Tovin Brask?") == ("r",)


def test_rows_that_pass_are_written_once_whatever_answers_the_others():
    class Counts:
        tokenizer, capabilities, asked = None, frozenset(), []

        def generate(self, prompts, params):
            self.asked += [prompt.text for prompt in prompts]
            return [[Generation(f"plain {prompt.text}", 1, True)] for prompt in prompts]

    policy = Policy(Counts())
    policy.add("r1", subject("Mara Olen"), Refuse(text="No."))
    policy.add("r2", subject("Tovin Brask"), Refuse(text="Never."))
    prompts = [Prompt.continuing(text) for text in ("Who is Mara Olen?", "Hi.", "Who is Tovin Brask?")]
    answers = policy.generate(prompts, GenerationParams())
    assert [answer.text for (answer,) in answers] == ["No.", f"plain {prompts[1].text}", "Never."]
    assert Counts.asked == [prompts[1].text]


def test_garbage_is_collected_again_after_many_were_added():
    Policy(MODEL).add_many([("r", subject("Mara Olen"), None, {})])
    assert gc.isenabled()


def test_a_chunk_with_some_taken_out_or_put_beside_is_the_chunk_of_those_that_are_in_it(monkeypatch):
    encoder = HashedNgrams.fit(RETAIN)
    background = Background(encoder.encode(RETAIN))
    people = [f"{a} {b}" for a in FIRST for b in LAST]
    texts = [ASKED[i % len(ASKED)].format(name) for i, name in enumerate(people)]

    def chunk(of):
        return Chunk.of([people[i] for i in of], encoder.encode([texts[i] for i in of]), background)

    def same(a, b):
        return a.owners == b.owners and a.requests == b.requests and all(map(np.array_equal, a[2:4], b[2:4]))

    whole = chunk(range(len(people)))
    for step in (2, 3, 5):
        left = [i for i in range(len(people)) if i % step]
        gone = frozenset(people) - {people[i] for i in left}
        assert same(whole.without(gone, background), chunk(left))
        apart = chunk(range(step)).beside(chunk(range(step, len(people))))
        assert np.array_equal(apart.near, whole.near)
        assert apart.requests == whole.requests
        assert same(apart.without(gone, background), chunk(left))
    assert whole.without(frozenset(people), background) is None
    monkeypatch.setattr("expunge.guards.neighbours.BLOCK", 2 * len(RETAIN))
    assert same(chunk(range(len(people))), whole)


def test_what_cannot_be_compared_counts_as_near():
    encoder = HashedNgrams.fit(RETAIN)
    rows = encoder.encode(["Who is Mara Olen?"])
    chunk = Chunk.of(["r"], rows, Background(encoder.encode(RETAIN)))
    assert nearest_owners(rows, [chunk], 2.0) == set()
    chunk.columns.values[:] = np.nan
    assert nearest_owners(rows, [chunk], 2.0) == {"r"}


@pytest.mark.parametrize("count", [99, 100, 150, 199, 250])
def test_of_ordinary_prompts_no_more_than_the_share_comes_as_near_as_the_threshold(count):
    near = 0.3 + np.random.default_rng(count).permutation(count) / 1000
    above = int((near >= _threshold([near, near / 2], ALPHA)).sum())
    assert (above + 1) / (count + 1) <= ALPHA + 1e-12 < (above + 2) / (count + 1)


def test_a_text_is_read_anew_for_requests_of_another_scope(monkeypatch):
    monkeypatch.setattr("expunge.guards.snapshot.LEAST_NEAR", 0.95)
    policy = Policy(MODEL, RETAIN)
    question = RIDDLES[TARGETS[0]]
    policy.add("input", [Record("q", question, "x")], scope=Scope(context=False))
    policy.add("context", [Record("q", question, "x")], scope=Scope(input=False))
    filler = "The weather was mild and the harbour quiet in that year of little wind. " * 8
    twice = chat(("system", f"{filler}\n{question}\n{filler}"), ("user", question))
    assert requests(policy, twice) == ("input", "context")


def test_nothing_is_left_of_requests_that_are_gone_and_few_joined_actions_are_kept(monkeypatch):
    monkeypatch.setattr("expunge.guards.snapshot.COMBINED", 2)
    policy = Policy(MODEL, RETAIN)
    for number, name in enumerate(NAMES):
        policy.add(name, subject(name), Refuse(text=f"No {number}."), tenant="ab"[number % 2])
        policy.add(f"{name} asked", [Record("q", f"Who is {name}?", "x")])
    for name in NAMES:
        tenant = policy.snapshot[name].tenant
        assert policy.decide([f"Who is {name}?"], tenant)[0].requests[:2] == (name, f"{name} asked")
        assert len(policy.snapshot._joined) <= 2
    for request in policy.requests:
        policy.withdraw(request)
    assert not policy.snapshot._shelves
    assert not policy.requests


def test_facts_of_a_request_whose_scope_has_no_output_are_not_watched_for():
    for output in (True, False):
        policy = Policy(MODEL, answers=RETAIN)
        rows = [Record("q", "Who is Mara Olen?", "She carved seven wooden owls.", subject="Mara Olen")]
        policy.add("r", rows, scope=Scope(output=output))
        (decision,) = policy.decide(["Who is Mara Olen?"])
        assert decision.requests == ("r",)
        assert (policy.snapshot.watch("Who is Mara Olen?", decision) is not None) == output


def test_chunks_are_filled_before_others_are_begun(monkeypatch):
    monkeypatch.setattr("expunge.guards.snapshot.CHUNK", 2)
    policy = Policy(MODEL, RETAIN)
    for name in NAMES[:4]:
        policy.add(name, [Record("q", f"Who is {name}?", "x")])
    (((_, shelf),), _, _) = policy.snapshot._view("")
    assert [chunk.requests for chunk in shelf.chunks] == [2, 2]
