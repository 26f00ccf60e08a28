import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from expunge.serve.console import FOLDER, add_console, files
from expunge.serve.docs_page import docs_page


class Inner(BaseModel):
    depth: int = 1
    again: "list[Inner]" = []


class Body(BaseModel):
    name: str
    """<script>alert(1)</script>"""
    inner: Inner | None = None
    many: list[Inner] = []
    model_config = {"use_attribute_docstrings": True}


@pytest.fixture(scope="module")
def client():
    app = FastAPI(title="Shop & <b>", docs_url=None, redoc_url=None)
    add_console(app)

    @app.post("/v1/things/{place}", tags=["Things"], summary="Add <one>")
    async def add(place: int, body: Body, loud: bool = False) -> Inner:
        """Puts it there."""
        return Inner()

    with TestClient(app) as client:
        yield client


def loaded(text):
    """Addresses that a page, style or script names."""
    return re.findall(r'(?:href|src|from|import)\s*=?\s*"([^"]+)"|url\(([^)]+)\)', text)


def test_the_page_and_all_that_it_loads_are_served(client):
    page = client.get("/console")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = set(re.findall(r'(?:href|src)="console/([^"]+)"', page.text))
    assert names == {"icon.svg", "style.css", "console.js"}
    for name in {*names, *files()}:
        assert client.get(f"/console/{name}").content == (FOLDER / name).read_bytes()
    for name in files():
        if name.endswith(".js"):
            assert client.get(f"/console/{name}").headers["content-type"].startswith("text/javascript")
            imported = set(re.findall(r'from "\./([^"]+)"', (FOLDER / name).read_text()))
            assert imported <= set(files())


@pytest.mark.parametrize(
    "name", ["docs.html.j2", "nothing.js", "..%2fconsole.py", "%2e%2e/console.py", "../console.py"]
)
def test_nothing_else_is_served(client, name):
    assert client.get(f"/console/{name}").status_code == 404


def test_every_answer_forbids_what_is_not_its_own(client):
    for address in ("/console", *(f"/console/{name}" for name in files())):
        headers = client.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[kind] for kind in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        assert {policy[kind] for kind in ("frame-ancestors", "base-uri", "form-action")} == {"'none'"}
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"


def test_no_script_and_no_style_stands_inside_of_the_page():
    page = (FOLDER / "index.html").read_text() + (FOLDER / "docs.html.j2").read_text()
    assert "<style" not in page
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r'\s(?:on\w+|style)="', page)
    assert "javascript:" not in page


def test_nothing_names_an_outside_address():
    for name, (body, _) in files().items():
        text = body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s//\s.*$", "", text, flags=re.M), name
        for found in loaded(text):
            assert not any(address.startswith(("http:", "https:", "/")) for address in found), name


def test_scripts_put_data_in_as_text_only():
    for name, (body, _) in files().items():
        if name.endswith(".js"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|document\.cookie",
                body.decode(),
            ), name


def test_every_field_of_the_page_has_a_label():
    page = (FOLDER / "index.html").read_text()
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    for field in re.findall(r"<(?:input|textarea|select)\b[^>]*>", page):
        name = re.search(r'id="([^"]+)"', field).group(1)
        within = re.search(rf'<label class="check">?[^\n]*id="{name}"', page)
        assert name in labelled or within, name


def test_the_page_says_what_the_server_does_not_do():
    page = (FOLDER / "index.html").read_text()
    assert "Suppression, not erasure:</b> the weights still hold what is suppressed" in page
    assert "erased" not in page


def test_the_docs_page_shows_every_route_with_its_fields(client):
    page = docs_page(client.get("/openapi.json").json())
    assert "Shop &amp; &lt;b&gt;" in page
    assert "Things" in page
    assert "<code>/v1/things/{place}</code>" in page
    assert "Add &lt;one&gt;" in page
    assert "Puts it there." in page
    for field in ("place", "loud", "name", "inner", "inner.depth", "many", "many[].depth"):
        assert f"<code>{field}</code>" in page, field
    assert "list of" in page
    assert "<script" not in page


def test_the_docs_page_of_nothing_is_a_page():
    assert "API description" in docs_page({})


def test_the_docs_page_survives_a_description_that_refers_to_itself():
    loop = {"$ref": "#/a"}
    body = {"requestBody": {"content": {"application/json": {"schema": loop}}}}
    assert "/x" in docs_page({"a": loop, "paths": {"/x": {"post": body}}})
    tree = {"anyOf": [{"$ref": "#/tree"}, {"type": "string"}]}
    body = {"requestBody": {"content": {"application/json": {"schema": tree}}}}
    assert "/x" in docs_page({"tree": tree, "paths": {"/x": {"post": body}}})
