"""Fetch and verify pretrained weights, for example before going offline.

The command first prints what it will fetch, from where, and under which licence. `--published` fetches official weights
under a free licence; `--all-licences` fetches all weights under any licence. A name fetches that one file under any
licence.

Examples:
  blockzoo download --all
  blockzoo download --all-licences --list
  blockzoo download timesnet_classifier.japanese_vowels --to weights/
  blockzoo download --all --verify
  blockzoo download --published --list
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from blockzoo.checkpoints import Artifact, CheckpointError, fetch, is_cached, load_manifest, verify_file
from blockzoo.tasks.core.output import add_cache_dir, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="MODEL.TAG", help="weights to fetch")
    parser.add_argument("--all", action="store_true", help="all weights of this project")
    parser.add_argument("--published", action="store_true", help="official weights under a free licence, gigabytes")
    both = ("--all-licences", "--all-licenses")
    parser.add_argument(*both, action="store_true", help="all weights, the project's and official, under any licence")
    parser.add_argument(
        "--list", action="store_true", help="only print what would be fetched, from where, and its licence"
    )
    parser.add_argument("--to", metavar="DIR", help="also copy the files into this folder")
    add_cache_dir(parser)
    parser.add_argument("--verify", action="store_true", help="hash the files again, cached ones included")


FREE = ("Apache-2.0", "BSD-3-Clause", "MIT")
"""Licences of official weights that need no second thought; others are fetched by name or with `--all-licences`."""


def _chosen(args: argparse.Namespace) -> list[Artifact]:
    manifest = load_manifest()
    if args.all_licences:
        return list(manifest.values())
    chosen = []
    if args.all:
        chosen += [artifact for artifact in manifest.values() if artifact.origin == "ours"]
    if args.published:
        official = [artifact for artifact in manifest.values() if artifact.origin == "official"]
        chosen += [artifact for artifact in official if artifact.license in FREE]
        left = [f"{artifact.name} ({artifact.license})" for artifact in official if artifact.license not in FREE]
        if left:
            print(f"left out, take with --all-licences or by name: {', '.join(left)}", file=sys.stderr)
    if not (chosen or args.names):
        raise ValueError("name the weights to fetch, or use --all, --published or --all-licences")
    for name in args.names:
        if name not in manifest:
            raise ValueError(f"no weights named {name!r}; there are {', '.join(manifest) or 'none'}")
    return list({artifact.name: artifact for artifact in [*chosen, *(manifest[name] for name in args.names)]}.values())


def _announce(artifacts: list[Artifact], cache_dir: str | None) -> None:
    """Print what is cached, what will be fetched, from where, and under which licences."""
    rows = []
    for artifact in artifacts:
        source = "; ".join(map(str, artifact.sources))
        here = " (here already)" if is_cached(artifact, cache_dir) else ""
        rows.append((artifact.name, artifact.license, artifact.data_license, f"{source}{here}"))
    print_table(("weights", "license", "license of the data", "from"), rows)


def run(args: argparse.Namespace) -> int:
    """Fetch, and print where the files are; status 1 if some could not be fetched."""
    artifacts = _chosen(args)
    _announce(artifacts, args.cache_dir)
    if args.list:
        return 0
    rows: list[tuple[Any, ...]] = []
    failures: list[CheckpointError] = []
    for artifact in artifacts:
        try:
            path = fetch(artifact, cache_dir=args.cache_dir)
        except CheckpointError as error:
            if len(artifacts) == 1:
                raise
            failures.append(error)  # the others may be had all the same
            continue
        if args.verify:
            verify_file(path, artifact)
        if args.to:
            Path(args.to).mkdir(parents=True, exist_ok=True)
            name = artifact.file if artifact.file.startswith(artifact.name) else f"{artifact.name}{path.suffix}"
            path = Path(shutil.copyfile(path, Path(args.to) / name))
        rows.append((artifact.name, path.stat().st_size, artifact.license, artifact.sha256 or "recorded", path))
    print_table(("weights", "bytes", "license", "sha256", "path"), rows)
    for failure in failures:
        print(f"blockzoo download: {failure}", file=sys.stderr)
    return 1 if failures else 0
