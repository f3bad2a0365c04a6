"""Fetch and verify pretrained weights, for example before going offline.

Examples:
  blockzoo download --all
  blockzoo download timesnet_classifier.japanese_vowels --to weights/
  blockzoo download --all --verify
  blockzoo download --published --list
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from blockzoo.checkpoints import Artifact, fetch, load_manifest, verify_file
from blockzoo.tasks.commands.output import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="MODEL.TAG", help="weights to fetch")
    parser.add_argument("--all", action="store_true", help="all weights of this project")
    parser.add_argument("--published", action="store_true", help="all official weights, several gigabytes")
    parser.add_argument("--list", action="store_true", help="only say what would be fetched, from where, which licence")
    parser.add_argument("--to", metavar="DIR", help="also copy the files into this folder")
    parser.add_argument("--cache-dir", help="cache folder instead of the default one")
    parser.add_argument("--verify", action="store_true", help="hash the files again, cached ones included")


def _chosen(args: argparse.Namespace) -> list[Artifact]:
    manifest = load_manifest()
    origins = [origin for origin, wanted in (("ours", args.all), ("official", args.published)) if wanted]
    if origins:
        return [artifact for artifact in manifest.values() if artifact.origin in origins]
    if not args.names:
        raise ValueError("name the weights to fetch, or use --all or --published")
    for name in args.names:
        if name not in manifest:
            raise ValueError(f"no weights named {name!r}; there are {', '.join(manifest) or 'none'}")
    return [manifest[name] for name in args.names]


def run(args: argparse.Namespace) -> int:
    """Fetch, and print where the files are."""
    rows: list[tuple[Any, ...]] = []
    if args.list:
        for artifact in _chosen(args):
            rows.append((artifact.name, artifact.license, "; ".join(map(str, artifact.sources))))
        print_table(("weights", "license", "from"), rows)
        return 0
    for artifact in _chosen(args):
        path = fetch(artifact, cache_dir=args.cache_dir)
        if args.verify:
            verify_file(path, artifact)
        if args.to:
            Path(args.to).mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(path, Path(args.to) / artifact.file))
        rows.append((artifact.name, path.stat().st_size, artifact.license, artifact.sha256 or "recorded", path))
    print_table(("weights", "bytes", "license", "sha256", "path"), rows)
    return 0
