"""The manifest: the facts about every set of pretrained weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from blockzoo.checkpoints.errors import CheckpointError

__all__ = ["Artifact", "Source", "load_manifest", "read_card"]

FORMAT_VERSION = 1
_SOURCE_KEYS = ({"package"}, {"url"}, {"hub_repo", "hub_file", "hub_revision"}, {"hub_repo", "hub_file"})
_METRIC_KEYS = {"name", "value", "dataset", "split"}

_FILE = (r"\w[\w.+-]*", "a bare file name")
_SOURCE_TEXTS = {
    "package": _FILE,
    "url": (r"(https?|file)://\S+", "an http, https or file address"),
    "hub_repo": (r"[\w.-]+/[\w.-]+", "organisation/name"),
    "hub_file": (r"\w[\w.+-]*(/\w[\w.+-]*)*", "a path in the repository"),
    "hub_revision": (r"[0-9a-f]{40}", "a 40-digit commit"),
}
_TEXTS = (
    ("file", *_FILE),
    ("card", *_FILE),
    ("sha256", "[0-9a-f]{64}", "64 hexadecimal digits"),
    ("origin", "official|ours", "'official' or 'ours'"),
    *((key, r".*\S.*", "text") for key in ("license", "data_license", "command", "conversion")),
)


@dataclass(frozen=True)
class Source:
    """A place to get weights from; exactly one kind is set.

    Attributes:
        package: Name of a file inside this package.
        url: http(s) or file address.
        hub_repo: "organisation/name" on the Hugging Face Hub.
        hub_file: File in that repository.
        hub_revision: Commit, 40 hexadecimal digits, so that the file cannot change; None for the newest.
    """

    package: str | None = None
    url: str | None = None
    hub_repo: str | None = None
    hub_file: str | None = None
    hub_revision: str | None = None

    def __str__(self) -> str:
        """The place in one line."""
        if self.hub_repo:
            return f"hub {self.hub_repo}/{self.hub_file}@{self.hub_revision or 'main'}"
        return f"packaged {self.package}" if self.package else str(self.url)


@dataclass(frozen=True)
class Artifact:
    """One file of weights.

    Attributes:
        name: "model.tag".
        file: File name in the cache.
        sha256: Hash of the file, 64 hexadecimal digits; None for official weights without a published hash. The hash of
            the first download is then recorded, and later downloads must match it.
        size: Bytes of the file; None if the hash is None.
        sources: Places to get it from, in this order.
        license: Licence of the weights, an SPDX identifier.
        data_license: Licence of the data they were trained on.
        origin: "official" for published weights, "ours" for those trained by this repository's configs.
        conversion: Name of the published layout, None for ours.
        metric: The metric of the weights: `name`, `value`, `dataset`, `split`, and other entries that describe it.
        command: The command that produced the file.
        card: Name of the model card inside this package.
        model_args: Constructor arguments of the model.
        preprocessing: How inputs are prepared, for example per-channel `mean` and `std`.
    """

    name: str
    file: str
    sha256: str | None
    size: int | None
    sources: tuple[Source, ...]
    license: str
    data_license: str
    origin: str
    metric: Mapping[str, Any]
    command: str
    conversion: str | None = None
    card: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def load_manifest(path: str | Path | None = None) -> dict[str, Artifact]:
    """Read and check a manifest.

    Args:
        path: The file; the packaged ones, `manifest.FAMILY.json`, by default.

    Returns:
        Artifacts by "model.tag".

    Raises:
        CheckpointError: The file does not follow the format; the message names the entry and what is wrong.
    """
    return _read(Path(path)) if path is not None else dict(_packaged())


@cache
def _packaged() -> dict[str, Artifact]:
    return _read_folder(Path(str(files("blockzoo.checkpoints"))))


def _read_folder(folder: Path) -> dict[str, Artifact]:
    """Read all `manifest.FAMILY.json` of a folder; each family has its own file."""
    found: dict[str, Artifact] = {}
    for path in sorted(folder.glob("manifest.*.json")):
        for name, artifact in _read(path).items():
            if name in found:
                raise CheckpointError(f"{path}: {name} stands in another manifest too")
            found[name] = artifact
    return found


def read_card(artifact: Artifact) -> str:
    """The text of an artifact's model card, Markdown.

    Raises:
        CheckpointError: The artifact has no card.
    """
    if artifact.card is None:
        raise CheckpointError(f"{artifact.name} has no model card")
    return (files("blockzoo.checkpoints") / artifact.card).read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Artifact]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
    entries = content.get("checkpoints")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: checkpoints is {entries!r}, expected an object of entries by name")
    return {name: _artifact(f"{path}: {name}", name, entry) for name, entry in entries.items()}


def _artifact(where: str, name: str, entry: Any) -> Artifact:
    def check(good: bool, what: str, expected: str) -> None:
        if not good:
            raise CheckpointError(f"{where}: {what}, expected {expected}")

    check(isinstance(entry, dict), f"the entry is {entry!r}", "an object")
    check(re.fullmatch(r"\w+\.[\w-]+", name) is not None, f"the name is {name!r}", '"model.tag"')
    known = {item.name for item in fields(Artifact)} - {"name"}
    optional = {"conversion", "card", "model_args", "preprocessing"}
    if unknown := set(entry) - known:
        raise CheckpointError(f"{where}: unknown fields {sorted(unknown)}; known are {sorted(known)}")
    if missing := known - optional - set(entry):
        raise CheckpointError(f"{where}: missing fields {sorted(missing)}")
    for key, pattern, expected in _TEXTS:
        value = entry.get(key)
        good = (
            value is None
            and (key in optional or key == "sha256")
            or isinstance(value, str)
            and re.fullmatch(pattern, value) is not None
        )
        check(good, f"{key} is {value!r}", expected)
    size, unhashed = entry["size"], entry["sha256"] is None
    check(not unhashed or entry["origin"] == "official", "sha256 is None", "64 hexadecimal digits for weights of ours")
    check((size is None) == unhashed, f"size is {size!r}", "null exactly where sha256 is")
    check(unhashed or type(size) is int and size > 0, f"size is {size!r}", "a positive number of bytes")
    for key in ("metric", "model_args", "preprocessing"):
        check(isinstance(entry.get(key, {}), dict), f"{key} is {entry.get(key)!r}", "an object")
    if missing := _METRIC_KEYS - set(entry["metric"]):
        raise CheckpointError(f"{where}: metric lacks {sorted(missing)}")
    sources = entry["sources"]
    check(isinstance(sources, list) and bool(sources), f"sources is {sources!r}", "a list of at least one")
    return Artifact(name=name, **{**entry, "sources": tuple(_source(where, source) for source in sources)})


def _source(where: str, source: Any) -> Source:
    if not isinstance(source, dict) or set(source) not in _SOURCE_KEYS:
        kinds = " or ".join(str(sorted(keys)) for keys in _SOURCE_KEYS)
        raise CheckpointError(f"{where}: source is {source!r}, expected the fields {kinds}")
    for key, value in source.items():
        pattern, expected = _SOURCE_TEXTS[key]
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise CheckpointError(f"{where}: {key} is {value!r}, expected {expected}")
    return Source(**source)
