"""How a test connects: redis-py's clients, each of which is closed after the test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from orchestrator.services.drivers import driver

if TYPE_CHECKING:
    import asyncio

    import redis
    import redis.asyncio

    from orchestrator.services.redis import Redis

_SILENCE: Final = 5.0  # seconds


def url(service: Redis, address: str, *, verified: bool) -> str:
    """The URL of a handle.

    Args:
        service: A handle.
        address: Host and port.
        verified: With TLS, whether to name the file of the authority that clients must trust.
    """
    scheme = "redis" if service.identity is None else "rediss"
    user, password = quote(service.username, safe=""), quote(service.password or "", safe="")
    query = (
        f"?{urlencode({'ssl_ca_certs': service.ca_file})}" if verified and service.ca_file else ""
    )
    return f"{scheme}://{user}:{password}@{address}/{service.database}{query}"


def client(service: Redis, **arguments: Any) -> redis.Redis:
    """A client for synchronous code."""
    made: redis.Redis = driver("redis", extra="redis").Redis(**_settings(service), **arguments)
    service.clients.callback(made.close)
    return made


def async_client(service: Redis, **arguments: Any) -> redis.asyncio.Redis:
    """A client for asyncio.

    It is closed in its event loop, if that still exists when the test has ended.
    """
    import asyncio  # not at import: declaring must be cheap

    made: redis.asyncio.Redis = driver("redis.asyncio", extra="redis").Redis(
        **_settings(service), **arguments
    )
    with contextlib.suppress(RuntimeError):
        service.clients.callback(_close, made, asyncio.get_running_loop())
    return made


def reconnecting() -> dict[str, Any]:
    """Arguments of a client that connects again, once, when the server was restarted.

    It does not wait for a frozen server.
    """
    retry = driver("redis.retry", extra="redis").Retry
    no_backoff = driver("redis.backoff", extra="redis").NoBackoff
    broken = driver("redis.exceptions", extra="redis").ConnectionError
    return {
        "single_connection_client": True,
        "retry": retry(no_backoff(), 1, supported_errors=(broken,)),
        "retry_on_error": [broken],
        "socket_timeout": _SILENCE,
    }


def _settings(service: Redis) -> dict[str, Any]:
    settings = {
        "host": service.host,
        "port": service.port,
        "username": service.username,
        "password": service.password,
        "db": service.database,
        "socket_connect_timeout": 10,
    }
    if service.identity is not None:
        settings |= {"ssl": True, "ssl_ca_data": service.identity.authority.certificate.decode()}
    return settings


def _close(made: redis.asyncio.Redis, loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(made.aclose())
