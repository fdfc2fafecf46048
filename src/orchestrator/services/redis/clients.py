"""The redis-py clients of one handle: opened for a test, closed after it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from orchestrator.services.drivers import driver
from orchestrator.services.once import OwnStack
from orchestrator.services.tls import PemFiles

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    import redis
    import redis.asyncio

_CONNECT_TIMEOUT: Final = 10  # seconds
_ADMIN_TIMEOUT: Final = 5.0


class Clients:
    """The clients, and the files that they read, of one handle.

    Args:
        settings: How they reach the server, as redis-py's keyword arguments.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {"socket_connect_timeout": _CONNECT_TIMEOUT, **settings}
        self._open = OwnStack()

    def open(self, **config: Any) -> redis.Redis:
        """Open a client for synchronous code; `close` closes it."""
        client: redis.Redis = driver("redis", extra="redis").Redis(**self._settings, **config)
        self._open.callback(client.close)
        return client

    def open_async(self) -> redis.asyncio.Redis:
        """Open a client for asyncio; `close` closes it in its event loop, if that still exists."""
        import asyncio  # not at import: declaring must be cheap

        client: redis.asyncio.Redis = driver("redis.asyncio", extra="redis").Redis(**self._settings)
        with contextlib.suppress(RuntimeError):
            self._open.callback(_close, client, asyncio.get_running_loop())
        return client

    def open_admin(self) -> redis.Redis:
        """Open a client that connects again, once, when the server was restarted.

        It does not wait for a frozen server.
        """
        broken = driver("redis.exceptions", extra="redis").ConnectionError
        no_backoff = driver("redis.backoff", extra="redis").NoBackoff()
        retry = driver("redis.retry", extra="redis").Retry
        return self.open(
            single_connection_client=True,
            retry=retry(no_backoff, 1, supported_errors=(broken,)),
            retry_on_error=[broken],
            socket_timeout=_ADMIN_TIMEOUT,
        )

    def file(self, name: str, content: bytes) -> str:
        """The path of a file that `close` removes."""
        return self._open.enter_context(PemFiles()).write(name, content)

    def close(self) -> None:
        """Close all that are still open, the last one first."""
        self._open.close()


def _close(client: redis.asyncio.Redis, loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(client.aclose())
