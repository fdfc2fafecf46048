"""Proving to a registry who asks, with the credentials that `docker login` keeps.

The two schemes of the distribution specification: Basic, and Bearer with a token fetched from the
realm the registry names. Credentials never reach a message.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import docker.auth
import docker.errors

from orchestrator.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user's name with a password, or an identity token; neither is shown by ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.token)


def find_credentials(registry: str) -> Credentials:
    """What docker's configuration has for a registry: auths, credHelpers or credsStore.

    Raises:
        EngineError: A credential helper failed, or the configuration cannot be read.
    """
    try:
        config = docker.auth.load_config()
        found = config.resolve_authconfig(None if registry == "docker.io" else registry)
    except docker.errors.DockerException as error:
        raise credentials_failed(registry, error) from error
    if not found:
        return Credentials()
    return Credentials(
        username=found.get("Username") or found.get("username") or "",
        password=found.get("Password") or found.get("password") or "",
        token=found.get("IdentityToken") or found.get("identitytoken") or "",
    )


def credentials_failed(registry: str, error: Exception) -> EngineError:
    """The error for a credential helper that failed."""
    return EngineError(
        f"the credentials for {registry} cannot be had: {error}. Look at credHelpers and "
        "credsStore in docker's config.json, or run `docker login` again"
    )


def authorize(
    session: requests.Session,
    response: requests.Response,
    *,
    credentials: Credentials,
    repository: str,
    timeout: float,
) -> str:
    """The Authorization header that answers the challenge of a 401.

    Raises:
        EngineError: There are no credentials where they are needed.
        requests.exceptions.RequestException: The token could not be fetched.
    """
    challenge = response.headers.get("WWW-Authenticate", "")
    scheme, _, rest = challenge.partition(" ")
    if scheme.lower() == "bearer":
        answers = dict(_PARAMETER.findall(rest))
        answers.setdefault("scope", f"repository:{repository}:pull")
        return f"Bearer {_token(session, response.url, answers, credentials, timeout)}"
    if not credentials.username:
        response.raise_for_status()
    return _basic(credentials)


def _token(
    session: requests.Session,
    url: str | bytes,
    challenge: Mapping[str, str],
    credentials: Credentials,
    timeout: float,
) -> str:
    realm = challenge.get("realm", "")
    if credentials and str(url).startswith("https:") and not realm.startswith("https:"):
        raise EngineError(f"the registry's token service {realm!r} is not https; refused")
    question = {"service": challenge.get("service", ""), "scope": challenge["scope"]}
    if credentials.token:
        form = {**question, "grant_type": "refresh_token", "client_id": "orchestrator"}
        form["refresh_token"] = credentials.token
        answer = session.post(realm, data=form, timeout=timeout)
    else:
        headers = {"Authorization": _basic(credentials)} if credentials.username else {}
        answer = session.get(realm, params=question, headers=headers, timeout=timeout)
    answer.raise_for_status()
    body = answer.json()
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
    if not isinstance(token, str):
        raise EngineError(f"the registry's token service {realm!r} gave no token: unauthorized")
    return token


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
