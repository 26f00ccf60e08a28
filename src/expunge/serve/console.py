"""The console: one page for people, served beside the API that it speaks to."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER = Path(__file__).parent / "console"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Suffix to media type; a file of another kind is not served."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""On every page for people: nothing from elsewhere, no script or style inside of the page, no frame around it."""


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """The console's files by name, each with its media type."""
    return {
        path.name: (path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8")
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES
    }


def add_console(app: FastAPI) -> None:
    """GET /console, and below it the files that the page loads. The page holds no data: it asks /v1 with the key that a person types."""
    from fastapi import HTTPException, Response

    def answer(name: str) -> Response:
        if name not in files():
            raise HTTPException(404)
        body, kind = files()[name]
        return Response(body, media_type=kind, headers=HEADERS)

    @app.get("/console", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @app.get("/console/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return answer(name)
