"""The manifest: what is known of every set of pretrained weights."""

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
_SOURCE_KEYS = ({"package"}, {"url"}, {"hub_repo", "hub_file", "hub_revision"})


@dataclass(frozen=True)
class Source:
    """Where weights can be had; exactly one kind is set.

    Attributes:
        package: Name of a file inside this package.
        url: http(s) or file address.
        hub_repo: "organisation/name" on the Hugging Face Hub.
        hub_file: File in that repository.
        hub_revision: Commit, 40 hexadecimal digits, so that the file cannot change.
    """

    package: str | None = None
    url: str | None = None
    hub_repo: str | None = None
    hub_file: str | None = None
    hub_revision: str | None = None

    def __str__(self) -> str:
        """The place in one line."""
        if self.hub_repo:
            return f"hub {self.hub_repo}/{self.hub_file}@{self.hub_revision}"
        return f"packaged {self.package}" if self.package else str(self.url)


@dataclass(frozen=True)
class Artifact:
    """One file of weights.

    Attributes:
        name: "model.tag".
        file: File name in the cache.
        sha256: Hash of the file, 64 hexadecimal digits.
        size: Bytes of the file.
        sources: Places to get it from, in this order.
        license: Licence of the weights, an SPDX identifier.
        data_license: Licence of the data they were trained on.
        origin: "official" for published weights, "ours" for those trained by this repository's configs.
        conversion: Name of the published layout, None for ours.
        metric: What the weights reach: `name`, `value`, `dataset`, `split`, and whatever else describes it.
        command: The command that produced the file.
        card: Name of the model card inside this package.
        model_args: Constructor arguments of the model.
        preprocessing: How inputs are prepared, for example per-channel `mean` and `std`.
    """

    name: str
    file: str
    sha256: str
    size: int
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
        path: The file; the packaged one by default.

    Returns:
        Artifacts by "model.tag".

    Raises:
        CheckpointError: The file does not follow the format; the message names the entry and what is wrong.
    """
    return _read(Path(path)) if path is not None else dict(_packaged())


@cache
def _packaged() -> dict[str, Artifact]:
    return _read(Path(str(files("blockzoo.checkpoints") / "manifest.json")))


def read_card(artifact: Artifact) -> str:
    """The text of an artifact's model card, Markdown.

    Raises:
        CheckpointError: It has none.
    """
    if artifact.card is None:
        raise CheckpointError(f"{artifact.name} has no model card")
    return (files("blockzoo.checkpoints") / artifact.card).read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Artifact]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version is {content.get('format_version')!r}, expected {FORMAT_VERSION}")
    return {name: _artifact(f"{path}: {name}", name, entry) for name, entry in content["checkpoints"].items()}


def _artifact(where: str, name: str, entry: dict[str, Any]) -> Artifact:
    known = {item.name for item in fields(Artifact)} - {"name"}
    optional = {"conversion", "card", "model_args", "preprocessing"}
    if unknown := set(entry) - known:
        raise CheckpointError(f"{where}: unknown fields {sorted(unknown)}; known are {sorted(known)}")
    if missing := known - optional - set(entry):
        raise CheckpointError(f"{where}: missing fields {sorted(missing)}")
    if not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
        raise CheckpointError(f"{where}: sha256 is {entry['sha256']!r}, expected 64 hexadecimal digits")
    if not isinstance(entry["size"], int) or entry["size"] <= 0:
        raise CheckpointError(f"{where}: size is {entry['size']!r}, expected a positive number of bytes")
    if Path(entry["file"]).name != entry["file"]:
        raise CheckpointError(f"{where}: file is {entry['file']!r}, expected a bare file name")
    if entry["origin"] not in ("official", "ours"):
        raise CheckpointError(f"{where}: origin is {entry['origin']!r}, expected 'official' or 'ours'")
    for source in entry["sources"]:
        if set(source) not in _SOURCE_KEYS:
            raise CheckpointError(f"{where}: source has fields {sorted(source)}, expected one of {_SOURCE_KEYS}")
        if not re.fullmatch("[0-9a-f]{40}", source.get("hub_revision", "0" * 40)):
            raise CheckpointError(f"{where}: hub_revision is {source['hub_revision']!r}, expected a 40-digit commit")
    return Artifact(name=name, **{**entry, "sources": tuple(Source(**source) for source in entry["sources"])})
