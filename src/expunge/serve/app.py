"""The HTTP face: OpenAI's routes for answers, ours for removal requests, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from expunge import __version__
from expunge.errors import UserError
from expunge.ledger import LedgerError
from expunge.serve import admin, console
from expunge.serve.answering import Answer, action_name
from expunge.serve.answers import Delta, Shape
from expunge.serve.auth import Access, Doorkeeper
from expunge.serve.canary import Canary, Checker
from expunge.serve.docs_page import docs_page
from expunge.serve.door import Door
from expunge.serve.gateway import Gateway
from expunge.serve.sse import DONE, EventStream, event, unless_gone
from expunge.serve.wire import ChatRequest, CheckRequest, CompletionRequest, Writing, first_problem
from expunge.serve.wire_errors import ApiError, busy

if TYPE_CHECKING:
    from expunge.serve.building import Builder

log = logging.getLogger("expunge.serve")
DESCRIPTION = "A language model behind removal requests. Suppression, not erasure: the weights still hold what is suppressed."


def make_app(gateway: Gateway, *, canary: Canary | None = None, builder: Builder | None = None) -> FastAPI:
    """The server before a gateway. With `canary`, which the gateway's enforcer must hold, it does not start unless the guard is live."""
    settings, ledger = gateway.settings, gateway.enforcer.ledger
    doorkeeper = Doorkeeper(ledger, no_auth=settings.no_auth)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        tasks = []
        try:
            await gateway.start()
            if checker := app.state.checker:
                await checker.refuse_to_start()
                tasks.append(asyncio.create_task(_forever(checker.check, settings.canary_seconds)))
            tasks.append(asyncio.create_task(_forever(gateway.look_after_backend, settings.canary_seconds)))
            if builder:
                builder.start()
            app.state.ready()
            yield
        except Exception as error:
            app.state.failed = error
            raise
        finally:
            for task in tasks:
                task.cancel()
            if builder:
                await asyncio.to_thread(builder.stop)
            await gateway.stop()

    app = FastAPI(
        title="Expunge",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.gateway, app.state.builder = gateway, builder
    app.state.failed, app.state.ready = None, lambda: None
    app.state.checker = Checker(app, gateway, canary, doorkeeper.own_key("canary")) if canary else None
    app.add_middleware(Door, doorkeeper=doorkeeper, settings=settings, telemetry=gateway.telemetry)
    _add_errors(app)
    _add_answers(app)
    admin.add_routes(app)
    _add_pages(app)
    console.add_console(app)
    return app


async def _forever(check: Any, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await check()


# --- answers ----------------------------------------------------------------------------------------------------------
def _add_answers(app: FastAPI) -> None:
    infer, only_admin = admin.need("infer"), admin.need("admin")

    @app.post("/v1/chat/completions", tags=["Answers"], summary="Answer a conversation", responses=STREAMED)
    async def chat(body: ChatRequest, request: Request, access: Access = infer) -> Response:
        return await _answered(request, body, access)

    @app.post("/v1/completions", tags=["Answers"], summary="Go on with a text", responses=STREAMED)
    async def completions(body: CompletionRequest, request: Request, access: Access = infer) -> Response:
        return await _answered(request, body, access)

    @app.get("/v1/models", tags=["Answers"], summary="The served model")
    async def models(request: Request, access: Access = infer) -> dict[str, Any]:
        gateway: Gateway = request.app.state.gateway
        return {"object": "list", "data": [_model(gateway)]}

    @app.get("/v1/models/{name:path}", tags=["Answers"], summary="The served model, by name")
    async def model(name: str, request: Request, access: Access = infer) -> dict[str, Any]:
        gateway: Gateway = request.app.state.gateway
        if name != gateway.backend.name:
            raise ApiError(404, "There is no such model here; see /v1/models.", "model_not_found", "model")
        return _model(gateway)

    @app.post("/v1/check", tags=["Decisions"], summary="What the guard makes of a prompt, without an answer")
    async def check(body: CheckRequest, request: Request, access: Access = only_admin) -> dict[str, Any]:
        gateway: Gateway = request.app.state.gateway
        if access.tenant and body.tenant not in ("", access.tenant):
            raise ApiError(403, "This key may not look at other tenants.", "insufficient_scope", "tenant")
        looked = await gateway.look(body.prompt_read, access.tenant or body.tenant)
        return {
            "object": "decision",
            "requests": gateway.told(gateway.enforcer.shown(looked.decision.requests), access),
            "flagged": bool(looked.decision.requests),
            "action": action_name(looked.decision.action),
            "stage": "input",
            "epoch": looked.epoch,
            "ms": round(looked.seconds * 1e3, 3),
        }

    @app.post(
        "/v1/plain",
        tags=["Answers"],
        summary="The answer without the guard, where the server allows it",
        responses=STREAMED,
    )
    async def plain(body: ChatRequest, request: Request, access: Access = only_admin) -> Response:
        gateway: Gateway = request.app.state.gateway
        if not gateway.settings.allow_plain:
            raise ApiError(
                404, "This server gives no plain answers; it was started without --allow-plain.", "not_found"
            )
        admin.refuse_bound(access)
        await asyncio.to_thread(
            gateway.enforcer.ledger.record,
            "plain answer asked",
            actor=admin.actor_of(access),
            tenant=access.tenant,
        )
        return await _answered(request, body, access, plain=True)


def _model(gateway: Gateway) -> dict[str, Any]:
    return {"id": gateway.backend.name, "object": "model", "created": 0, "owned_by": "expunge"}


async def _answered(
    request: Request, body: ChatRequest | CompletionRequest, access: Access, *, plain: bool = False
) -> Response:
    gateway: Gateway = request.app.state.gateway
    answer = await unless_gone(request.receive, gateway.open(body, access, plain=plain))
    usage_asked = bool(body.stream_options and body.stream_options.include_usage)
    shape = Shape(gateway.backend.name, isinstance(body, ChatRequest), usage_asked)
    headers = {
        "x-expunge-epoch": str(answer.epoch),
        "x-expunge-claim": "none" if plain else "suppression",
        "x-request-id": shape.id,
        **answer.limits,
    }
    if access.may("admin"):
        told = ",".join(gateway.told(answer.requests, access))
        headers["x-expunge-decision"] = f"{action_name(answer.action)}; requests={told}"
    try:
        if body.stream:
            return await _streamed(request, body, answer, shape, headers)
        return await _whole(request, body, answer, shape, headers)
    except BaseException:
        answer.close()
        raise


async def _whole(
    request: Request, body: Writing, answer: Answer, shape: Shape, headers: dict[str, str]
) -> Response:
    texts: list[list[str]] = [[] for _ in range(body.n)]
    ends: list[Any] = [None] * body.n

    async def collect() -> None:
        async with aclosing(answer.deltas()) as deltas:
            async for delta in deltas:
                texts[delta.index].append(delta.text)
                if delta.finish:
                    ends[delta.index] = delta

    await unless_gone(request.receive, _in_time(collect(), request))
    answer.close()
    logprobs = getattr(body, "wants_logprobs", False)
    content = shape.whole(["".join(parts) for parts in texts], ends, logprobs, answer.usage)
    return JSONResponse(content, headers=headers)


async def _in_time(work: Awaitable[Any], request: Request) -> Any:
    settings = request.app.state.gateway.settings
    try:
        async with asyncio.timeout(settings.answer_seconds):
            return await work
    except TimeoutError:
        raise too_slow() from None


def too_slow() -> ApiError:
    return busy("The answer took too long.", "timeout")


async def _streamed(
    request: Request, body: Writing, answer: Answer, shape: Shape, headers: dict[str, str]
) -> Response:
    """Waits for the first delta before it promises a good answer, but no longer than a client should wait for a sign of life."""
    gateway: Gateway = request.app.state.gateway
    settings, deltas = gateway.settings, answer.deltas()
    first = asyncio.ensure_future(anext(deltas))
    try:
        await unless_gone(request.receive, asyncio.wait({first}, timeout=settings.ping_seconds))
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await deltas.aclose()
        raise
    return EventStream(
        _events(body, answer, shape, first, deltas),
        headers=headers,
        ping=settings.ping_seconds,
        seconds=settings.answer_seconds,
        late=too_slow(),
        close=answer.close,
        left=gateway.telemetry.gone.labels("left").inc,
    )


async def _events(
    body: Writing, answer: Answer, shape: Shape, first: asyncio.Future[Delta], deltas: AsyncGenerator[Delta]
) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(deltas):
            for index in range(body.n):
                if chunk := shape.first(index):
                    yield event(chunk)
            for chunk in shape.delta(await first):
                yield event(chunk)
            async for delta in deltas:
                for chunk in shape.delta(delta):
                    yield event(chunk)
    finally:
        first.cancel()
    if shape.usage_asked:
        yield event(shape.usage(answer.usage))
    yield DONE


# --- pages --------------------------------------------------------------------------------------------------------------
def _add_pages(app: FastAPI) -> None:
    audit = admin.need("audit")

    @app.get(
        "/health",
        tags=["Server"],
        summary="Whether the server is up, its guard live and its model there",
        responses={503: {}},
    )
    async def health(request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        checker = request.app.state.checker
        failed = checker.failed if checker else ""
        try:
            await gateway.snapshot()
        except ApiError:
            failed = failed or "the ledger cannot be read"
        if gateway.unreachable:  # whoever stands behind is not told
            failed = failed or "the model does not answer"
        facts = {
            "status": "failing" if failed else "ok",
            "canary": ("failed" if checker.failed else "held back") if checker else "none",
            "backend": "unreachable" if gateway.unreachable else "ok",
            "why": failed,
            "model": gateway.backend.name,
            "epoch": gateway.enforcer.epoch,
            "claim": "suppression",
            "version": __version__,
        }
        return JSONResponse(facts, status_code=503 if failed else 200)

    @app.get("/metrics", tags=["Server"], summary="Figures for Prometheus", response_class=Response)
    async def metrics(request: Request, access: Access = audit) -> Response:
        admin.refuse_bound(access)
        page = request.app.state.gateway.telemetry.page()
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers=console.HEADERS)


# --- errors ---------------------------------------------------------------------------------------------------------------
_ERROR = {
    "description": "An error in OpenAI's shape",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "503": _ERROR}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def _add_errors(app: FastAPI) -> None:
    def told(error: ApiError) -> JSONResponse:
        return JSONResponse(error.describe(), status_code=error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def api(request: Request, error: ApiError) -> JSONResponse:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = first_problem(list(error.errors()))
        return told(ApiError(400, problem.message, problem.code, problem.param))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            404: "There is no such route here. What is not served is not guarded, and so is refused.",
            405: "This route has no such method.",
        }
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = said.get(error.status_code, str(error.detail))
        return told(ApiError(error.status_code, message, code, headers=error.headers))

    @app.exception_handler(LedgerError)
    @app.exception_handler(sqlite3.Error)
    async def ledger(request: Request, error: Exception) -> JSONResponse:
        log.error("the ledger: %s", error)
        return told(busy("The ledger cannot be used now.", "ledger_unavailable", 5))

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> JSONResponse:
        return told(ApiError(400, str(error), "invalid_value"))
