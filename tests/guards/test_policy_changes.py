"""Whatever comes and goes, decisions are those of a policy made from what is left, and nobody sees half a change."""

import threading
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.data.dataset import Record
from expunge.guards.actions.refuse import Refuse
from expunge.guards.policy import Policy
from expunge.types import Scope
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
