"""``images.lock``: which bytes each image is, and which entry a service means.

It is found, read and checked word by word here; `lock` writes it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import ImageNotLockedError, InvalidReferenceError, LockError, did_you_mean
from orchestrator.images.reference import Reference, is_digest, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.settings import Settings

FILE_NAME: Final = "images.lock"
VERSION: Final = 1
DEFAULT: Final = Path(__file__).with_name("default.lock")
ENTRY_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?")
_LARGEST: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LockedPlatform:
    """An image on one platform: the digests of its manifest and of its config.

    The config's is the classic store's image id, which survives ``docker load``.
    """

    config: str
    manifest: str | None = None


@dataclass(frozen=True, kw_only=True)
class LockedImage:
    """An image and the digests that identify it.

    Attributes:
        name: The entry's name; for an image given by reference, the reference as written.
        reference: Tag and digest. Without digest only where ``ORCHESTRATOR_UNLOCKED=allow``.
        platforms: ``os/architecture[/variant]`` to what the image is there.
    """

    name: str
    reference: Reference
    platforms: Mapping[str, LockedPlatform] = field(default_factory=dict)

    @property
    def digest(self) -> str | None:
        """The digest of the index."""
        return self.reference.digest

    @property
    def digests(self) -> set[str]:
        """Every digest that proves it: of the index, and of each platform's manifest and config."""
        found = [self.digest]
        for platform in self.platforms.values():
            found += [platform.config, platform.manifest]
        return {digest for digest in found if digest}

    def on(self, platform: str, /) -> LockedPlatform | None:
        """The image for a platform; ``linux/arm64`` also finds ``linux/arm64/v8``."""
        if platform in self.platforms:
            return self.platforms[platform]
        variants = [name for name in self.platforms if name.startswith(f"{platform}/")]
        return self.platforms[variants[-1]] if variants else None

    def __str__(self) -> str:
        return str(self.reference)


@dataclass(frozen=True, kw_only=True)
class LockFile:
    """A lock file that has been read: its entries in the order of the file, and its whole text."""

    path: Path
    text: str
    entries: Mapping[str, LockedImage]

    @property
    def is_default(self) -> bool:
        """Whether this is the packaged lock, which serves projects that have none."""
        return self.path == DEFAULT

    def find(self, reference: Reference, /) -> LockedImage | None:
        """The entry with the same registry, repository and tag."""
        wanted = reference.tagged
        return next((e for e in self.entries.values() if e.reference.tagged == wanted), None)

    def select(self, names: Sequence[str], /) -> list[LockedImage]:
        """The entries of these names; all of them when there are no names."""
        if unknown := [name for name in names if name not in self.entries]:
            hint = did_you_mean(unknown[0], self.entries, otherwise="it has")
            raise LockError(f"{self.path} has no entry {unknown[0]!r}{hint}")
        return [self.entries[name] for name in names or self.entries]


def find_lock(settings: Settings) -> LockFile:
    """Find and read the lock file; a `LockError` if it is missing where one is named, or malformed.

    ``ORCHESTRATOR_IMAGES_LOCK`` counts first, then ``images.lock`` in the working directory and
    every folder above it, then the lock that comes with this package.
    """
    named_by = None if settings.images_lock is None else "ORCHESTRATOR_IMAGES_LOCK"
    return read_lock(lock_path(settings), named_by=named_by)


def lock_path(settings: Settings) -> Path:
    """The lock file that `find_lock` reads."""
    if settings.images_lock is not None:
        return settings.images_lock
    try:
        folder = Path.cwd().resolve()
    except (OSError, RuntimeError) as error:
        raise LockError(f"the working directory cannot be read: {error}") from error
    candidates = (parent / FILE_NAME for parent in (folder, *folder.parents))
    return next((path for path in candidates if path.is_file()), DEFAULT)


def read_lock(path: Path, *, named_by: str | None = None) -> LockFile:
    """Read one lock file; a LockError says why it cannot be read, with file, line or entry."""
    source = f" (named by {named_by})" if named_by else ""
    try:
        if path == DEFAULT:
            from importlib import resources  # this package may be in an archive

            raw = resources.files(__package__).joinpath(path.name).read_bytes()
        else:
            with path.open("rb") as file:
                raw = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise LockError(f"{path}{source} cannot be read: {reason}") from error
    return parse_lock(raw, path=path)


def parse_lock(raw: bytes, *, path: Path) -> LockFile:
    """Parse and check the content of a lock file."""
    if len(raw) > _LARGEST:
        raise LockError(f"{path} is larger than 1 MiB: that is no lock file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise LockError(f"{path}:{line}: not UTF-8 text") from error
    text = text.replace("\r\n", "\n")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # the line goes to the front, where editors look for it
        match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        where = (
            f"{path}:{match[2]}: {match[1]} (column {match[3]})" if match else f"{path}: {error}"
        )
        raise LockError(where) from error
    except (RecursionError, ValueError) as error:  # brackets without end, integers without end
        raise LockError(f"{path}: not TOML that can be read: {type(error).__name__}") from error
    return LockFile(path=path, text=text, entries=_Check(path).document(document))


def resolve_image(
    image: str | None, *, default: str, lock: LockFile, settings: Settings
) -> LockedImage:
    """Find the image a service runs.

    ``image`` is the name of an entry, a locked reference, or a reference with a digest; None takes
    the service's own entry, ``default``. ``ORCHESTRATOR_UNLOCKED=allow`` lets through what is not
    locked; else that is an `ImageNotLockedError`, whose message has the command that locks it.
    """
    found = _find(image, default=default, lock=lock, settings=settings)
    check_allowed([found], settings=settings)
    return found


def check_allowed(images: Iterable[LockedImage], *, settings: Settings) -> None:
    """Check that images come from a registry of ``ORCHESTRATOR_REGISTRIES``, locked or not.

    Whole parts of a name count: ``ghcr.io/acme`` does not let ``ghcr.io/acme-evil`` in. A mirror
    changes nothing: what counts is the name an image is locked under. The LockError names each.
    """
    allowed = settings.registries
    beginnings = tuple(f"{part}/" for part in allowed)
    names = dict.fromkeys(image.reference.name for image in images)
    foreign = [name for name in names if not f"{name}/".startswith(beginnings)]
    if allowed and foreign:
        raise LockError(
            f"{', '.join(foreign)} {'is' if len(foreign) == 1 else 'are'} not from an allowed "
            f"registry: ORCHESTRATOR_REGISTRIES has {', '.join(allowed)}. "
            "Use an image from there, or have its name added."
        )


def _find(image: str | None, *, default: str, lock: LockFile, settings: Settings) -> LockedImage:
    name = default if image is None else image
    if name in lock.entries:
        return lock.entries[name]
    references = [entry.reference.familiar for entry in lock.entries.values()]
    hint = did_you_mean(name, [*lock.entries, *references])
    packaged = read_lock(DEFAULT).entries.get(default) if image is None else None
    if image is None and packaged is None:
        raise ImageNotLockedError(
            f"{_place(lock)} has no entry {default!r}{hint or '.'} Add one: "
            f"python -m orchestrator lock {default}=REFERENCE"
        )
    try:
        reference = packaged.reference.with_digest(None) if packaged else parse_reference(name)
    except InvalidReferenceError as error:
        raise InvalidReferenceError(f"{error}{hint}") from None
    if reference.digest:  # it needs no entry; one with the same digest knows its platforms
        same = (e.platforms for e in lock.entries.values() if e.digest == reference.digest)
        return LockedImage(name=name, reference=reference, platforms=next(same, {}))
    if entry := lock.find(reference):
        return entry
    if settings.unlocked == "allow":
        return packaged or LockedImage(name=name, reference=reference)
    what = f"has no entry {default!r}" if image is None else f"does not lock {name!r}"
    raise ImageNotLockedError(
        f"{_place(lock)} {what}{hint or '.'} Lock it: python -m orchestrator lock "
        f"{reference.familiar} (or give the reference with its digest, or set "
        "ORCHESTRATOR_UNLOCKED=allow)"
    )


def _place(lock: LockFile) -> str:
    return "the packaged lock (there is no images.lock)" if lock.is_default else str(lock.path)


class _Check:
    """Turns what `tomllib` read into entries, or says where it is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _require(self, good: bool, message: str, entry: str = "") -> None:  # noqa: FBT001
        if not good:
            where = f"entry {entry!r}: " if entry else ""
            raise LockError(f"{self._path}: {where}{message}")

    def document(self, document: dict[str, Any]) -> Mapping[str, LockedImage]:
        version, images = document.get("version"), document.get("images", {})
        self._require(
            version == VERSION and not isinstance(version, bool),
            f"expected 'version = {VERSION}' at the top, not {version!r:.50}; a newer "
            "orchestrator may be needed",
        )
        self._require_keys(document, {"version", "images"})
        self._require(isinstance(images, dict), "images is not a table; expected [images.NAME]")
        entries = {name: self._entry(name, table) for name, table in images.items()}
        seen: dict[str, LockedImage] = {}
        for entry in entries.values():
            other, name = seen.setdefault(entry.reference.tagged, entry), entry.reference.familiar
            message = f"{name} is also locked by entry {other.name!r}, with another digest"
            self._require(other.digest == entry.digest, message, entry.name)
        return MappingProxyType(entries)

    def _entry(self, name: str, table: Any) -> LockedImage:
        named = bool(ENTRY_NAME.fullmatch(name))
        self._require(named, "a name may hold letters, digits, '-' and '_'", name)
        self._require(isinstance(table, dict), f"expected a table [images.{name}]", name)
        self._require_keys(table, {"reference", "digest", "platforms"}, name)
        self._require_digest(table.get("digest"), "digest", name)
        try:
            reference = parse_reference(table.get("reference", ""))
        except InvalidReferenceError as error:
            raise LockError(f"{self._path}: entry {name!r}: {error}") from error
        self._require(not reference.digest, "the digest goes into its own key", name)
        platforms = table.get("platforms", {})
        self._require(isinstance(platforms, dict), "platforms is not a table", name)
        return LockedImage(
            name=name,
            reference=reference.with_digest(table["digest"]),
            platforms=MappingProxyType(
                {key: self._platform(name, key, platforms[key]) for key in platforms}
            ),
        )

    def _platform(self, name: str, key: str, table: Any) -> LockedPlatform:
        known = bool(_PLATFORM.fullmatch(key))
        self._require(known, f"{key!r} is not a platform; expected one like 'linux/amd64'", name)
        whole = isinstance(table, dict) and {"config"} <= table.keys() <= {"manifest", "config"}
        self._require(whole, f"{key}: expected config and manifest", name)
        for part, digest in table.items():
            self._require_digest(digest, f"{key}: {part}", name)
        return LockedPlatform(config=table["config"], manifest=table.get("manifest"))

    def _require_keys(self, table: dict[str, Any], known: set[str], name: str = "") -> None:
        for key in table:
            message = f"unknown key {key!r}; expected {', '.join(sorted(known))}"
            self._require(key in known, message, name)

    def _require_digest(self, digest: Any, what: str, name: str) -> None:
        message = f"{what} is {digest!r:.80}; expected sha256: and 64 lower-case hex digits"
        self._require(is_digest(digest), message, name)
