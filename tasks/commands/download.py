"""Fetch and verify pretrained weights, for example before going offline.

Examples:
  blockzoo download --all
  blockzoo download timesnet_classifier.japanese_vowels --to weights/
  blockzoo download --all --verify
"""

import argparse
import shutil
from pathlib import Path

from blockzoo.checkpoints import Artifact, fetch, load_manifest, verify_file
from blockzoo.tasks.commands.output import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="MODEL.TAG", help="weights to fetch")
    parser.add_argument("--all", action="store_true", help="all weights of the manifest")
    parser.add_argument("--to", metavar="DIR", help="also copy the files into this folder")
    parser.add_argument("--cache-dir", help="cache folder instead of the default one")
    parser.add_argument("--verify", action="store_true", help="hash the files again, cached ones included")


def _chosen(args: argparse.Namespace) -> list[Artifact]:
    manifest = load_manifest()
    if args.all:
        return list(manifest.values())
    if not args.names:
        raise ValueError("name the weights to fetch, or use --all")
    for name in args.names:
        if name not in manifest:
            raise ValueError(f"no weights named {name!r}; there are {', '.join(manifest) or 'none'}")
    return [manifest[name] for name in args.names]


def run(args: argparse.Namespace) -> int:
    """Fetch, and print where the files are."""
    rows = []
    for artifact in _chosen(args):
        path = fetch(artifact, cache_dir=args.cache_dir)
        if args.verify:
            verify_file(path, artifact)
        if args.to:
            Path(args.to).mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(path, Path(args.to) / artifact.file))
        rows.append((artifact.name, artifact.size, artifact.license, artifact.sha256, path))
    print_table(("weights", "bytes", "license", "sha256", "path"), rows)
    return 0
