"""Images made in memory and pushed through the registry's API: small, unique, for any platform."""

import gzip
import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import requests.auth

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"


def digest_of(content: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tar_of(members: Iterable[tuple[str, bytes]], *, mode: int = 0o644) -> bytes:
    """A tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), mode
            tar.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class TinyImage:
    """One image for one platform: a single layer with a single file."""

    platform: str
    config: str
    manifest: bytes
    blobs: Mapping[str, bytes] = field(repr=False)  # by digest: the layers and the config

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return digest_of(self.manifest)


def tiny_image(
    *, platform: str = "linux/amd64", content: bytes = b"", layers: int = 1
) -> TinyImage:
    """Make an image that nobody has: every one holds a word of its own."""
    plain = [tar_of([(f"file{it}", content + uuid.uuid4().bytes)]) for it in range(layers)]
    packed = [gzip.compress(layer, mtime=0) for layer in plain]
    system, architecture, *variant = platform.split("/")
    about: dict[str, Any] = {"os": system, "architecture": architecture}
    if variant:
        about["variant"] = variant[0]
    about |= {
        "config": {"Cmd": ["/file0"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in plain]},
        "history": [{"created_by": "tests"} for _ in plain],
    }
    config = json.dumps(about).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _described(config, "application/vnd.docker.container.image.v1+json"),
        "layers": [
            _described(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")
            for layer in packed
        ],
    }
    return TinyImage(
        platform=platform,
        config=digest_of(config),
        manifest=json.dumps(manifest).encode(),
        blobs={digest_of(blob): blob for blob in (config, *packed)},
    )


def index_of(images: Sequence[TinyImage]) -> bytes:
    """A multi-platform index."""
    listed = []
    for image in images:
        system, architecture, *variant = image.platform.split("/")
        platform = {"os": system, "architecture": architecture}
        if variant:
            platform["variant"] = variant[0]
        listed.append({**_described(image.manifest, MANIFEST), "platform": platform})
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()


class Pusher:
    """Pushes to one registry; `verify` is the file with the CA of its certificate."""

    def __init__(
        self, url: str, *, auth: tuple[bytes, bytes] | None = None, verify: str | bool = True
    ) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.auth = requests.auth.HTTPBasicAuth(*auth) if auth else None
        self._session.verify = verify
        self._session.trust_env = False

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def push(self, repository: str, tag: str, *images: TinyImage) -> str:
        """Push one image, or an index of several with an attestation, and return its digest."""
        if len(images) > 1:
            images = (*images, tiny_image(platform="unknown/unknown"))
        for image in images:
            for digest, blob in image.blobs.items():
                self._blob(repository, digest, blob)
            self._manifest(repository, image.digest, image.manifest, MANIFEST)
        if len(images) == 1:
            return self._manifest(repository, tag, images[0].manifest, MANIFEST)
        return self._manifest(repository, tag, index_of(images), INDEX)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest."""
        url = f"{self._url}/v2/{repository}/manifests/{digest}"
        self._session.delete(url, timeout=60).raise_for_status()

    def _blob(self, repository: str, digest: str, blob: bytes) -> None:
        begun = self._session.post(f"{self._url}/v2/{repository}/blobs/uploads/", timeout=60)
        begun.raise_for_status()
        where = begun.headers["Location"]
        where = where if "://" in where else f"{self._url}{where}"
        self._session.put(
            where, params={"digest": digest}, data=blob, timeout=60
        ).raise_for_status()

    def _manifest(self, repository: str, reference: str, content: bytes, kind: str) -> str:
        url = f"{self._url}/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": kind}
        self._session.put(url, data=content, headers=headers, timeout=60).raise_for_status()
        return digest_of(content)


def _described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": digest_of(content)}
