"""The console in a real browser, before the real gateway: what a person sees, and what the page may not do."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serve.conftest import make_world
from tests.serve.conftest import served as serving
from tests.serve.stub_backend import StubBackend

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FACT = "He is a bridge engineer in Corvale."
HOSTILE = "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
]


def says(prompt):
    """What the model answers: the one thing that it knows, or what it is told to say."""
    return prompt.text.removeprefix("Say ") if prompt.text.startswith("Say ") else FACT


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The gateway on a port of its own, with what it knows."""
    world = make_world(tmp_path_factory.mktemp("console"), StubBackend(says, pause=0.01), allow_plain=True)
    reader = world.ledger.add_key("", ["infer", "requests:read"], name="small", actor="test")
    with serving(world.app) as address:
        yield SimpleNamespace(
            address=address, ledger=world.ledger, checker=world.app.state.checker, admin=world.keys["admin"], reader=reader,
            model=world.backend.name, fact=FACT, subject="Edo Marsh", question="What does Edo Marsh do?",
        )  # fmt: skip
    world.ledger.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that notes whatever it should not do."""

    def __init__(self, browser, address, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.wrong, self.addresses = [], []
        self.expected = set()
        """Statuses that the page may be answered with; the browser writes them to its console by itself."""
        self.page.on("console", self._wrote)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.goto(f"{address}/console")
        self.address = address

    def _wrote(self, message):
        status = re.search(r"the server responded with a status of (\d+)", message.text)
        if message.type in ("error", "warning") and not (status and int(status[1]) in self.expected):
            self.wrong.append(message.text)

    def enter(self, key):
        self.page.fill("#key", key)
        self.page.click("#login-form button")

    def see(self, text, within="body"):
        self.page.locator(within, has_text=text).first.wait_for()

    def open(self, part):
        self.page.click(f"#tab-{part}")
        self.page.wait_for_selector(f"#{part}:not([hidden])")

    def add(self, **fields):
        if not self.page.locator("#add").evaluate("node => node.open"):
            self.page.click("#add summary")
        for name, text in fields.items():
            self.page.fill(f"#{name}", text)
        self.page.click("#add-form button")
        self.see("from the click", "#add-said.good")
        return re.search(r"Request (\S+) is", self.page.text_content("#add-said"))[1]

    def ask(self, text):
        self.open("try")
        self.page.fill("#prompt", text)
        self.page.click("#try-form button.main")
        self.page.wait_for_selector('#try-said:text("Done.")')
        return {who: self.page.text_content(f"#{who}-answer") for who in ("plain", "guarded")}

    def leave(self):
        """Closes the page; nothing went wrong, and nothing was asked of another host."""
        kept = self.page.evaluate("() => [location.href, document.cookie, localStorage.length].join(' ')")
        title = self.page.title()
        self.context.close()
        assert self.wrong == []
        assert {
            address.split("/console")[0].split("/v1")[0].split("/health")[0] for address in self.addresses
        } <= {
            self.address,
            f"{self.address}/docs",
            f"blob:{self.address}",
        }
        assert "exp_" not in kept
        assert kept.endswith(" 0")
        assert title == "Expunge console"


@pytest.fixture
def visit(browser, served):
    made = []

    def start(**settings):
        made.append(Visit(browser, served.address, **settings))
        return made[-1]

    yield start
    for one in made:
        one.leave()


def test_a_wrong_key_is_told_and_forgotten(visit):
    here = visit()
    here.expected = {401}
    here.enter("exp_nobody_" + "x" * 43)
    here.see("This key is not valid", "#login-said")
    assert here.page.is_hidden("#inside")
    assert here.page.evaluate("() => sessionStorage.length") == 0
    here.enter("no\u2019key\u2603")  # what no header can carry
    here.see("not", "#login-said.bad")
    assert here.page.is_hidden("#inside")


def test_a_removal_from_the_key_to_the_verified_ledger(visit, served):
    here = visit()
    here.enter(served.admin)
    here.see(served.model, "#model")
    here.see("held back", "#canary.good")
    here.see("ok", "#health.good")
    here.see("Suppression, not erasure: the weights still hold what is suppressed", "header")

    before = here.ask(served.question)
    assert served.fact in before["plain"]
    assert served.fact in before["guarded"]
    here.see("let through", "#try-decision")

    here.open("requests")
    request = here.add(subject=served.subject, aliases="Another Name", tenant="")
    here.see(request, "#requests-rows")
    epoch = re.search(r"epoch (\d+)", here.page.text_content("#add-said"))[1]
    here.see(epoch, "#epoch")

    after = here.ask(served.question)
    assert served.fact in after["plain"]
    assert served.fact not in after["guarded"]
    assert after["guarded"]
    here.see("held back: refuse", "#try-decision")
    here.see(request, "#try-decision")
    here.see("first words after", "#guarded-said")

    here.open("decisions")
    rows = here.page.locator("#decisions-rows tr", has_text=request)
    rows.filter(has_text="refuse").wait_for()
    rows.filter(has_text="plain").wait_for()
    assert here.page.locator("#decisions-chart svg rect.held").count() > 0
    assert served.subject not in here.page.text_content("#decisions")

    here.open("requests")
    here.page.click(f"button[aria-label='Show request {request}']")
    here.see(served.subject, "#show-body")
    here.see("Another Name", "#show-body")
    here.see("Evidence", "#show-body")
    here.page.keyboard.press("Escape")
    here.page.wait_for_selector("#show", state="hidden")

    here.page.click(f"button[aria-label='Withdraw request {request}']")
    assert "the model answers as it did before" in here.page.inner_text("#withdraw")
    here.page.click("#withdraw button[value=keep]")
    here.page.wait_for_selector("#withdraw", state="hidden")
    here.page.click(f"button[aria-label='Withdraw request {request}']")
    here.page.click("#withdraw-yes")
    here.see("is withdrawn", "#requests-said")
    here.see("withdrawn", f"#requests-rows tr:has-text('{request}')")
    assert served.fact in here.ask(served.question)["guarded"]

    here.open("ledger")
    here.page.locator("#ledger-rows tr", has_text=request).first.wait_for()
    here.see("plain answer asked", "#ledger-rows")
    here.page.click("#verify")
    here.see("The chain holds", "#ledger-said.good")
    assert served.subject not in here.page.text_content("#ledger")


def test_hostile_names_stay_text(visit, served):
    here = visit()
    here.enter(served.admin)
    request = here.add(subject=HOSTILE, statements=f"{HOSTILE} was here.")
    here.page.click(f"button[aria-label='Show request {request}']")
    here.see("onerror", "#show-body")
    assert here.page.locator("#show-body img, #show-body script").count() == 0
    here.page.keyboard.press("Escape")
    here.page.fill("#filter", request)
    here.see("1 of", "#requests-count")
    here.page.fill("#filter", "nothing of the kind")
    here.see("No request fits", "#requests-rows")
    said = here.ask("Say <b onclick=alert(1)>this</b><svg onload=alert(1)>")
    assert said["guarded"] == said["plain"] == "<b onclick=alert(1)>this</b><svg onload=alert(1)>"
    assert here.page.locator("main img, main script, .answer *").count() == 0


def test_evidence_is_shown_as_figures_and_saved(visit, served):
    here = visit()
    here.enter(served.admin)
    request = here.add(subject="Rana Vello")
    served.ledger.record_evidence(
        request, "audit", "ab" * 32, {"accuracy forget": 0.031249, HOSTILE: HOSTILE}, "runs/eco/evaluations/audit.json", actor="test"
    )  # fmt: skip
    here.page.click(f"button[aria-label='Show request {request}']")
    here.see("0.03125", "#show-body")
    here.see("runs/eco/evaluations/audit.json", "#show-body")
    here.see("ab" * 32, "#show-body")
    assert here.page.locator("#show-body img, #show-body script").count() == 0
    with here.page.expect_download() as saved:
        here.page.click("text=Save as JSON")
    found = json.loads(Path(saved.value.path()).read_text())
    assert found["data"][0]["kind"] == "audit"
    assert found["claim"] == "suppression"
    here.page.click("#show button[value=close]")
    here.page.wait_for_selector("#show", state="hidden")


def test_a_guard_that_is_not_live_is_seen_at_once(visit, served):
    here = visit()
    here.expected = {503}
    here.see("held back", "#canary.good")
    served.checker.failed = "a question about the canary was not refused"
    here.see("failed", "#canary.bad")
    here.see("failing", "#health.bad")
    served.checker.failed = ""
    here.see("held back", "#canary.good")


def test_a_small_key_sees_what_it_may_and_is_told_the_rest(visit, served):
    here = visit()
    here.expected = {403}
    here.enter(served.reader)
    here.page.wait_for_selector("#inside:not([hidden])")
    here.open("decisions")
    here.see("this key may not do that", "#decisions-said")
    here.open("ledger")
    here.see("this key may not do that", "#ledger-said")
    here.ask("Hello?")
    here.see("Not available on this server", "#plain-answer")
    here.see("this key may not do that", "#try-decision")


def test_the_page_is_worked_by_keyboard_alone(visit, served):
    here = visit()
    here.page.keyboard.type(served.admin)  # the field has the focus
    here.page.keyboard.press("Enter")
    here.page.wait_for_selector("#inside:not([hidden])")
    here.page.focus("#tab-requests")
    here.page.keyboard.press("ArrowRight")
    assert here.page.is_visible("#decisions")
    here.page.keyboard.press("End")
    assert here.page.is_visible("#ledger")
    here.page.keyboard.press("ArrowRight")
    assert here.page.is_visible("#requests")
    assert here.page.evaluate("() => document.activeElement.id") == "tab-requests"
    here.page.focus("#add summary")
    here.page.keyboard.press("Enter")
    here.page.focus("#subject")
    here.page.keyboard.type("Keyboard Person")
    here.page.keyboard.press("Enter")
    here.see("from the click", "#add-said.good")


def test_leaving_forgets_the_key_and_what_was_shown(visit, served):
    here = visit()
    here.enter(served.admin)
    here.page.wait_for_selector("#inside:not([hidden])")
    here.page.reload()  # within the tab the key is kept
    here.page.wait_for_selector("#inside:not([hidden])")
    here.page.click("#leave")
    here.page.wait_for_selector("#login:not([hidden])")
    assert here.page.is_hidden("#inside")
    assert here.page.evaluate("() => sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off_on_a_phone_or_a_desk(visit, served, width, scheme):
    here = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    here.enter(served.admin)
    here.page.wait_for_selector("#inside:not([hidden])")
    request = here.add(subject="Somebody Long-Named " * 8, tenant="tenant-with-a-name-of-some-length")
    for part in ("requests", "decisions", "try", "ledger"):
        here.open(part)
        here.page.wait_for_timeout(100)
        wide = here.page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], (part, wide)
    here.open("requests")
    here.page.click(f"button[aria-label='Withdraw request {request}']")
    here.page.click("#withdraw-yes")
    here.see("is withdrawn", "#requests-said")


def test_a_server_that_goes_away_is_said(visit, served):
    here = visit()
    here.enter(served.admin)
    here.page.wait_for_selector("#inside:not([hidden])")
    here.open("decisions")
    here.context.set_offline(True)
    here.see("unreachable", "#health.bad")
    here.see("cannot be reached", "#decisions-said.bad")
    here.context.set_offline(False)
    here.see("ok", "#health.good")
    here.page.wait_for_selector("#decisions-said:empty", state="attached")
    here.wrong = [said for said in here.wrong if "ERR_INTERNET_DISCONNECTED" not in said]


def test_the_docs_page_loads_nothing_but_its_style(visit, served):
    here = visit()
    here.page.goto(f"{served.address}/docs")
    here.see("/v1/requests", "summary")
    here.page.goto(f"{served.address}/console")
