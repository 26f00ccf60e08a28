"""The server's process: its socket, its log, and its end."""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from expunge.errors import ConfigError
from expunge.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 512
"""Connections that may wait to be taken."""


def bind(host: str, port: int, settings: ServeSettings) -> socket.socket:
    """Taken before the model is loaded, so that a port in use is told at once. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(
            socket, "TCP_USER_TIMEOUT"
        ):  # connections of clients that take nothing end in the kernel too
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.write_seconds * 1e3))
        found.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}. Name another with --host and --port."
        ) from None
    return found


def run(
    app: FastAPI,
    listener: socket.socket,
    settings: ServeSettings,
    ready: Callable[[], None],
    stopping: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; answers under way get some seconds then. Raises what kept the app from starting."""
    import uvicorn

    from expunge.serve.connection import Connection

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("expunge").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what went wrong is told by us

    def started() -> None:
        gc.collect()
        gc.freeze()  # model and policy stay: nothing among them is looked for when garbage is
        ready()

    app.state.ready = started
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # uvicorn heeds them, and raises them again when it has stopped
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app,
        http=partial(Connection, head_seconds=settings.head_seconds),  # ty: ignore[invalid-argument-type]
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(settings.stop_seconds),
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            if not self.should_exit:
                stopping()
            super().handle_exit(sig, frame)

    try:
        Server(config).run(sockets=[listener])
    except SystemExit:
        if app.state.failed is None:
            raise
    finally:
        listener.close()
    if app.state.failed is not None:
        raise app.state.failed
