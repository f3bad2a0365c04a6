"""Write the measured tables of the documents from `docs/measured/*.json`.

    python docs/figures.py            # rewrite the tables between their markers
    python docs/figures.py --check    # exit status 1 if a table is not what the JSON gives

A file of `docs/measured/` holds one table with the command that measured it, the date, the commit and the machine. To
change a figure, run the command, put what it prints into the file, and run this script. Tables of speed that sum up
several files are computed from them. Cells are kept with the digits that were measured.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "measured"
PAGES = ("README.md", "BENCHMARKS.md", "docs/exports.md", "docs/forecasting.md", "docs/results.md", "docs/speed.md",
         "docs/training.md")  # fmt: skip
BLOCK = re.compile(r"<!-- figures: ([\w-]+) -->\n(.*?)<!-- /figures -->", re.S)


def read(name: str) -> dict[str, Any]:
    """A file of `docs/measured/`, with numbers as the text that is written there."""
    text = (MEASURED / f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text, parse_float=str, parse_int=str)
    return found


def markdown(columns: list[str], rows: list[list[str]], group: bool = False) -> str:
    """A Markdown table; with `group`, a first cell that repeats the one above is left empty."""
    lines = [f"| {' | '.join(columns)} |", "| " + " | ".join(["---"] * len(columns)) + " |"]
    above = ""
    for row in rows:
        first = "" if group and row[0] == above else row[0]
        above = row[0]
        lines.append(f"| {' | '.join([first, *row[1:]])} |".replace("|  |", "| |"))
    return "\n".join(lines)


def table(name: str) -> str:
    """The table of a file, and a line that says how it was measured."""
    found = read(name)
    commands = ", ".join(f"`{command}`" for command in found["command"].split("; "))
    commits = ", ".join(f"`{commit}`" for commit in found["commit"].split(", "))
    source = f"*Measured {found['date']} at {commits}, {found['machine']}: {commands}.*"
    return f"{markdown(found['columns'], found['rows'], found.get('group', False))}\n\n{source}"


def column(name: str, index: int, only: tuple[str, ...] = ()) -> list[str]:
    """The numbers at the start of a column's cells, of rows whose first cell names one of `only`."""
    rows = [row for row in read(name)["rows"] if not only or any(word in row[0] for word in only)]
    found = [re.match(r"\d+(\.\d+)?", row[index]) for row in rows]
    return [number[0] for number in found if number]


def span(numbers: list[str]) -> str:
    """Smallest and largest of some numbers, with their own digits."""
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if float(low) == float(high) else f"{low} to {high}"


def share(part: str, whole: str) -> str:
    """A part in per cent, rounded."""
    return f"{100 * float(part) / float(whole):.0f} %"


def speed() -> str:
    """The page on speed: ratios by family, and two sentences on memory."""
    bench = "`blockzoo bench "
    rows = [
        ["TimesNet", "the plain formulation", span(column("bench_timesnet", 4)), span(column("bench_timesnet", 7)),
         f"{bench}timesnet`"],
        ["Next-ViT-S, batch 1 and 8", "timm", ", ".join(column("bench_images", 5, ("nextvit_small",))), "-",
         f"{bench}nextvit`"],
        ["NASNet-A large, batch 1 and 8", "timm", ", ".join(column("bench_images", 5, ("nasnetalarge",))), "-",
         f"{bench}nasnet`"],
        ["EMOv2 1M and 5M", "ours before merging", span(column("bench_images", 5, ("emov2",))), "-", f"{bench}emov2`"],
        ["P3D-63 and -199", "plain 3-D convolutions", span(column("bench_p3d", 5)), span(column("bench_p3d", 8)),
         f"{bench}p3d`"],
        ["FNO, 64 to 256 points a side", "neuraloperator 2.0.0", span(column("bench_fno", 3)),
         span(column("bench_fno", 4)), f"{bench}fno --threads 1`"],
        ["its spectral layers, 64 to 512", "neuraloperator 2.0.0", span(column("bench_fno", 1)),
         span(column("bench_fno", 2)), ""],
        ["edge product, l_max 1, 2 and 3", "e3nn", ", ".join(column("bench_edge_product", 1)),
         ", ".join(column("bench_edge_product", 2)), f"{bench}equivariant`"],
        ["TDN, energy and forces, l_max 1 and 2", "the published code", ", ".join(column("bench_tdn", 5)), "-",
         f"{bench}equivariant --official PATH`"],
        ["Raptor of equal cost", "its teacher", span(column("bench_raptor", 3)), "-", f"{bench}raptor`"],
    ]  # fmt: skip
    memory = next(row for row in read("bench_fno_memory")["rows"] if row[:2] == ["128 x 128, 16, 4", "training step"])
    patches = {row[0]: row[1] for row in read("bench_multigrid")["rows"]}
    part = share(patches["1 patch at a time"], patches["FNO on the whole field"])
    words = (
        f"A training step of an FNO (128 x 128 points, width 32, batch 4) needs {share(memory[3], memory[2])} of "
        "neuraloperator's\nmemory. One of a 1024 x 1024 field in 4 x 4 multi-grid patches, one after the other, needs "
        f"{part} of the\nmemory of the whole field (`blockzoo bench multigrid`)."
    )
    return f"{markdown(['models', 'reference', 'inference', 'training step', 'command'], rows)}\n\n{words}"


def speed_short() -> str:
    """The README's table."""
    rows = [
        ["TimesNet", "the plain formulation", span(column("bench_timesnet", 4)), span(column("bench_timesnet", 7))],
        ["Next-ViT-S, NASNet-A large", "timm", span(column("bench_images", 5, ("nextvit_small", "nasnetalarge"))), "-"],
        ["P3D-63 and -199", "plain 3-D convolutions", span(column("bench_p3d", 5)), span(column("bench_p3d", 8))],
        ["FNO, 64 to 256 points a side", "neuraloperator 2.0.0", span(column("bench_fno", 3)),
         span(column("bench_fno", 4))],
        ["TDN, energy and forces", "the published code", span(column("bench_tdn", 5)), "-"],
    ]  # fmt: skip
    return markdown(["models", "reference", "inference", "training step"], rows)


COMPUTED = {"speed": speed, "speed-short": speed_short}


def filled(text: str) -> str:
    """A page's text with every marked block as the JSON gives it."""
    return BLOCK.sub(
        lambda block: (
            f"<!-- figures: {block[1]} -->\n"
            f"{COMPUTED[block[1]]() if block[1] in COMPUTED else table(block[1])}\n<!-- /figures -->"
        ),
        text,
    )


def main() -> int:
    """Rewrite the pages, or name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if a page differs")
    check = parser.parse_args().check
    stale = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(page)
            if not check:
                (ROOT / page).write_text(new, encoding="utf-8")
    print(
        "\n".join(f"{page}: {'differs from docs/measured' if check else 'written'}" for page in stale) or "up to date"
    )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
