"""The routes for those who administer removal requests and watch over the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.security import HTTPBearer

from expunge.errors import UserError
from expunge.ledger import RemovalRequest
from expunge.ledger.requests import Status
from expunge.serve.auth import Access
from expunge.serve.wire_errors import ApiError

if TYPE_CHECKING:
    from expunge.ledger import Entry
    from expunge.serve.gateway import Gateway

BEARER = Depends(HTTPBearer(auto_error=False, description="exp_..."))
"""For the description alone: the door has looked at the key already."""
Id = Annotated[str, Path(min_length=1, max_length=100, description="The request's id.")]


def need(*scopes: str) -> Any:
    """The client's access, which must have one of these scopes."""

    async def access_of(request: Request, _: Any = BEARER) -> Access:
        access: Access = request.state.access
        if not access.may(*scopes):
            raise ApiError(403, "This key may not do that.", "insufficient_scope")
        return access

    return Depends(access_of)


def refuse_bound(access: Access) -> None:
    """Raises ApiError for a key of one tenant, where all tenants would be seen."""
    if access.tenant:
        raise ApiError(403, "This key is one tenant's, and this is about all of them.", "insufficient_scope")


def actor_of(access: Access) -> str:
    """Who did it, as the history says."""
    return f"key {access.id} ({access.name})" if access.id else access.name


def add_routes(app: FastAPI) -> None:
    _add_requests(app)
    _add_records(app)


def _add_requests(app: FastAPI) -> None:
    read, write, either = need("requests:read"), need("requests:write"), need("requests:read", "audit")

    @app.post(
        "/v1/requests", status_code=201, tags=["Removal requests"], summary="Put a removal request in force"
    )
    async def add(
        body: RemovalRequest,
        request: Request,
        response: Response,
        access: Access = write,
        idempotency_key: Annotated[str, Header(max_length=200)] = "",
    ) -> dict[str, Any]:
        gateway = _gateway(request)
        wanted = _own(body, access)

        def work() -> Entry:
            _refuse_id(request, wanted.id, access)
            gateway.enforcer.check(wanted)
            key = f"{access.id}:{idempotency_key}" if idempotency_key else ""
            entry = gateway.enforcer.ledger.add(wanted, actor=actor_of(access), idempotency=key)
            gateway.enforcer.current()
            return entry

        return _shown(request, response, await asyncio.to_thread(work), access)

    @app.get("/v1/requests", tags=["Removal requests"], summary="All removal requests that the key may see")
    async def listed(
        request: Request,
        access: Access = read,
        tenant: Annotated[str | None, Query(max_length=100)] = None,
        status: Annotated[Status | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str, Query(max_length=100, description="The last id of the page before.")] = "",
        order: Annotated[Literal["oldest", "newest"], Query(description="Which come first.")] = "oldest",
        texts: Annotated[
            bool, Query(description="With what they are about; for keys with the scope 'admin'.")
        ] = False,
    ) -> dict[str, Any]:
        if texts and not access.may("admin"):
            raise ApiError(403, "This key may not read what requests are about.", "insufficient_scope", "texts")  # fmt: skip
        mine = access.tenant or tenant
        if access.tenant and tenant not in (None, access.tenant):
            return {"object": "list", "data": [], "has_more": False}
        ledger = _gateway(request).enforcer.ledger
        found = await asyncio.to_thread(ledger.list, mine, status, limit + 1, after, order == "newest")
        data = [_facts(request, entry, texts=texts) for entry in found[:limit]]
        return {"object": "list", "data": data, "has_more": len(found) > limit}

    @app.get("/v1/requests/{id}", tags=["Removal requests"], summary="One removal request")
    async def show(id: Id, request: Request, response: Response, access: Access = read) -> dict[str, Any]:
        return _shown(request, response, await asyncio.to_thread(_find, request, id, access), access)

    @app.put(
        "/v1/requests/{id}",
        tags=["Removal requests"],
        summary="Change a removal request: a new version in its place",
    )
    async def change(
        id: Id, body: RemovalRequest, request: Request, response: Response, access: Access = write
    ) -> dict[str, Any]:
        gateway = _gateway(request)
        if body.id not in ("", id):
            raise ApiError(400, "The id in the body is not the one in the address.", "invalid_value", "id")
        wanted = _own(body, access)

        def work() -> Entry:
            _find(request, id, access)
            gateway.enforcer.check(wanted)
            entry = gateway.enforcer.ledger.change(id, wanted, actor=actor_of(access))
            gateway.enforcer.current()
            return entry

        return _shown(request, response, await asyncio.to_thread(work), access)

    @app.delete(
        "/v1/requests/{id}",
        tags=["Removal requests"],
        summary="Withdraw a removal request: its texts' key is destroyed, and the model answers as before",
    )
    async def withdraw(
        id: Id,
        request: Request,
        response: Response,
        access: Access = write,
        reason: Annotated[str, Query(max_length=500)] = "",
    ) -> dict[str, Any]:
        gateway = _gateway(request)

        def work() -> Entry:
            _find(request, id, access)
            entry = gateway.enforcer.ledger.withdraw(id, actor=actor_of(access), reason=reason)
            gateway.enforcer.current()
            return entry

        return _shown(request, response, await asyncio.to_thread(work), access)

    @app.get(
        "/v1/requests/{id}/evidence",
        tags=["Removal requests"],
        summary="What was made and measured for a request",
    )
    async def evidence(id: Id, request: Request, access: Access = either) -> dict[str, Any]:
        entry = await asyncio.to_thread(_find, request, id, access)
        facts = entry.describe()
        return {
            "object": "list",
            "data": facts["evidence"],
            "artifacts": facts["artifacts"],
            "claim": "suppression",
        }


def _add_records(app: FastAPI) -> None:
    audit, only_admin = need("audit"), need("admin")

    @app.get("/v1/ledger", tags=["Ledger"], summary="The history, oldest first")
    async def history(
        request: Request,
        access: Access = audit,
        since: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        about: Annotated[str | None, Query(max_length=100, description="A request's id.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        ledger = _gateway(request).enforcer.ledger
        found = await asyncio.to_thread(ledger.history, since, about)
        mine = [row.describe() for row in found if access.tenant in ("", row.tenant)]
        return {"object": "list", "data": mine[:limit], "has_more": len(mine) > limit}

    @app.get("/v1/ledger/verify", tags=["Ledger"], summary="Recompute the history's chain")
    async def verify(request: Request, access: Access = audit) -> dict[str, Any]:
        ledger = _gateway(request).enforcer.ledger
        return (await asyncio.to_thread(ledger.verify)).describe()

    @app.get("/v1/decisions", tags=["Decisions"], summary="Recent decisions, newest first; never a text")
    async def decisions(
        request: Request,
        access: Access = only_admin,
        since: Annotated[int, Query(ge=0, description="A decision's number.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        gateway = _gateway(request)
        recent = gateway.telemetry.recent(since, None)
        mine = [found for found in recent if access.tenant in ("", found["tenant"])][:limit]
        data = [{**found, "requests": gateway.told(found["requests"], access)} for found in mine]
        return {"object": "list", "data": data}


def _gateway(request: Request) -> Gateway:
    return request.app.state.gateway


def _own(body: RemovalRequest, access: Access) -> RemovalRequest:
    """Bound to the key's tenant. Raises ApiError for another's."""
    if not access.tenant:
        return body
    if body.tenant not in ("", access.tenant):
        raise ApiError(403, "This key may not bind other tenants.", "insufficient_scope", "tenant")
    return body.model_copy(update={"tenant": access.tenant})


def _refuse_id(request: Request, id: str, access: Access) -> None:
    """Raises ApiError for an id that a key of one tenant chooses: which ones are taken would tell of other tenants' requests."""
    if not (access.tenant and id):
        return
    try:
        _find(request, id, access)
    except ApiError:
        raise ApiError(
            400,
            "A key of one tenant chooses no ids: leave 'id' out and take the one in the answer. To add a request only once, send an "
            "Idempotency-Key.",
            "invalid_value",
            "id",
        ) from None


def _find(request: Request, id: str, access: Access) -> Entry:
    """Raises ApiError where there is none that the key may see; whose it is otherwise is not told."""
    try:
        entry = _gateway(request).enforcer.ledger.show(id)
    except UserError as error:
        if type(error).__name__ == "LedgerError":
            raise
        entry = None
    if entry is None or access.tenant not in ("", entry.tenant):
        raise ApiError(404, "There is no such removal request.", "request_not_found", "id")
    return entry


def _shown(request: Request, response: Response, entry: Entry, access: Access) -> dict[str, Any]:
    response.headers["x-expunge-epoch"] = str(_gateway(request).enforcer.epoch)
    response.headers["x-expunge-claim"] = "suppression"
    return _facts(request, entry, texts=access.may("admin"))


def _facts(request: Request, entry: Entry, *, texts: bool) -> dict[str, Any]:
    enforcer, builder = _gateway(request).enforcer, request.app.state.builder
    state = builder.state(entry) if builder else ""
    return {
        "object": "removal_request",
        **entry.describe(texts=texts),
        "in_force": enforcer.holds(entry.id),
        "state": state,
        "note": enforcer.notes.get(entry.id, ""),
    }
