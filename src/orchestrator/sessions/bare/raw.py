"""Listing and removing what carries a label, over raw HTTP."""

from __future__ import annotations

import json
import time

from .daemon import exchange
from .thing import SilentError, Thing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .daemon import Address, Answer, Request

_OK = (200, 204, 304, 404)  # "not found" is success: somebody else was quicker
_LISTED = 200
_FOREVER = float("inf")


class RawReaper:
    """Removes everything with one label, without docker-py.

    Args:
        address: The daemon's unix socket or (host, port).
        label: ``name=value``.
        patience: Seconds for one answer.
        until: When to stop waiting for any, on the clock of `time.monotonic`.
    """

    def __init__(
        self, address: Address, label: str, *, patience: float, until: float = _FOREVER
    ) -> None:
        self._address = address
        self._filters = _quoted(json.dumps({"label": [label]}))
        self._patience = patience
        self._until = until

    def listed(self) -> list[Thing]:
        """Everything that has the label, containers first.

        Raises:
            SilentError: The daemon is away, hangs, or does not list.
        """
        answers = self._ask(
            ("GET", f"/containers/json?all=1&filters={self._filters}", b""),
            ("GET", f"/networks?filters={self._filters}", b""),
            ("GET", f"/volumes?filters={self._filters}", b""),
            ("GET", f"/images/json?filters={self._filters}", b""),
        )
        containers, networks, volumes, images = map(_listing, answers)
        return [  # nothing at all may be null instead of an empty list
            *(Thing("container", row["Id"], _container_name(row)) for row in containers or ()),
            *(Thing("network", row["Id"], row["Name"]) for row in networks or ()),
            *(Thing("volume", row["Name"], row["Name"]) for row in volumes["Volumes"] or ()),
            *(Thing("image", row["Id"], _image_name(row)) for row in images or ()),
        ]

    def remove(self, things: Iterable[Thing]) -> None:
        """Try once to remove these; the ``reason`` of each then says why it did not go, if so."""
        rest = list(things)
        self._delete([thing for thing in rest if thing.kind == "container"])
        rest = [thing for thing in rest if thing.kind != "container"]
        self._delete(rest)
        stuck = [thing for thing in rest if thing.kind == "network" and thing.reason]
        if stuck:
            self._free(stuck)
            self._delete(stuck)

    def _delete(self, things: Sequence[Thing]) -> None:
        answers = self._ask(*(("DELETE", _path(thing), b"") for thing in things))
        for thing, answer in zip(things, answers, strict=True):
            thing.reason = "" if answer.status in _OK else _reason(answer)

    def _free(self, networks: Sequence[Thing]) -> None:
        """Disconnect by force whoever is on these networks: they are ours, whatever joined them."""
        inspected = self._ask(*(("GET", f"/networks/{network.id}", b"") for network in networks))
        leave: list[Request] = []
        for network, answer in zip(networks, inspected, strict=True):
            if answer.status in _OK:
                for key, endpoint in (json.loads(answer.body).get("Containers") or {}).items():
                    # An endpoint whose container is gone is listed as "ep-…", known by name only.
                    who = endpoint.get("Name") if key.startswith("ep-") else key
                    body = json.dumps({"Container": who, "Force": True}).encode()
                    leave.append(("POST", f"/networks/{network.id}/disconnect", body))
        self._ask(*leave)

    def _ask(self, *requests: Request) -> list[Answer]:
        deadline = min(time.monotonic() + self._patience, self._until)
        return exchange(self._address, requests, deadline=deadline)


def _path(thing: Thing) -> str:
    paths = {
        "container": f"/containers/{thing.id}?force=1&v=1",
        "network": f"/networks/{thing.id}",
        "volume": f"/volumes/{_quoted(thing.id)}?force=1",
        "image": f"/images/{thing.id}?force=1",
    }
    return paths[thing.kind]


def _listing(answer: Answer) -> Any:
    if answer.status != _LISTED:
        raise SilentError(_reason(answer))
    try:
        return json.loads(answer.body)
    except ValueError:
        raise SilentError("the answer was cut off") from None


def _container_name(row: dict[str, Any]) -> str:
    """The first name without the slash Docker puts before it; a half-removed one may have none."""
    names = row["Names"] or [row["Id"]]
    return str(names[0]).lstrip("/")


def _image_name(row: dict[str, Any]) -> str:
    """The first tag without ``:latest``, as a create names it; one without tags has its id."""
    return str((row.get("RepoTags") or [row["Id"]])[0]).removesuffix(":latest")


def _reason(answer: Answer) -> str:
    text = answer.body.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text or f"status {answer.status}"


def _quoted(text: str) -> str:
    """Percent-encode (urllib.parse costs the watchdog 0.5 MiB)."""
    safe = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~"
    return "".join(chr(byte) if chr(byte) in safe else f"%{byte:02X}" for byte in text.encode())
