"""The table of exports in the documentation: which model exports to which format, measured on small models.

For maintainers, in a source checkout: `blockzoo export --table docs/exports.md`. Each model goes through every format,
with free sizes where the architecture allows them, and the file is run and compared as `blockzoo export` does. Results
are kept in `tests/tasks/deploy/export_table.json`, beside the test that compares the page with them.
"""

import fnmatch
import json
import tempfile
from pathlib import Path
from typing import Any

from blockzoo._about import Small
from blockzoo._registry import small_models
from blockzoo.tasks.core.files import write_text
from blockzoo.tasks.core.rooms import declared

__all__ = ["RESULTS", "measure_row", "render", "row_of", "rows", "write_table"]

RESULTS = Path("tests") / "tasks" / "deploy" / "export_table.json"
BEGIN, END = "<!-- export table: blockzoo export --table docs/exports.md -->", "<!-- end of export table -->"
COLUMNS = {"torch-export": False, "onnx": True, "aoti": True}
"""Formats by column, and whether the model is deployed before."""


def rows() -> list[Small]:
    """The models of the table: the small ones that every family names."""
    return small_models()


def row_of(name: str) -> Small:
    """The row that represents a model."""
    return next(row for row in rows() if any(fnmatch.fnmatchcase(name, pattern) for pattern in row.covers))


def measure_row(row: Small, formats: tuple[str, ...] = tuple(COLUMNS)) -> dict[str, Any]:
    """Export a row's model to formats and compare.

    Returns:
        "size": which sizes are free, or why none is. For each format: "ok" with the difference, or "no" with the
        reason.
    """
    import torch

    import blockzoo
    from blockzoo.tasks.deploy import export as model_export
    from blockzoo.tasks.deploy.checking import TOLERANCE, liven

    found: dict[str, Any] = {}
    for form in formats:
        torch.manual_seed(0)
        model = blockzoo.create_model(row.name, **row.args).eval()
        liven(model)
        dynamic = False
        try:
            steps = model.size_steps()
            dynamic, found["size"] = True, "steps of " + " x ".join(map(str, steps))
        except ValueError:
            found["size"] = "atoms, edges, graphs" if model.modality in declared("exporters") else "fixed"
        if COLUMNS[form]:
            model.deploy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("model.onnx" if form == "onnx" else "model.pt2")
            try:
                model_export.export_model(model, form, path, dynamic_size=dynamic)
                fresh = model_export.fresh_examples(model, dynamic_size=dynamic)
                error = model_export.difference(model, model_export.load_exported(path, form), fresh)
            except ValueError as refusal:
                found[form] = {"no": str(refusal)}
            else:
                found[form] = {"ok" if error < TOLERANCE else "no": f"{error:.0e}"}
    return found


def render(results: dict[str, Any]) -> str:
    """The table, Markdown; rows without results say that they were not measured."""
    lines = ["| model | stands for | free size | " + " | ".join(COLUMNS) + " |", "| --- " * (3 + len(COLUMNS)) + "|"]
    for row in rows():
        found = results.get(row.name, {})
        cells = [_cell(found.get(form)) for form in COLUMNS]
        covers = ", ".join(f"`{pattern}`" for pattern in row.covers)
        lines.append(f"| `{row.name}` | {covers} | {found.get('size', '-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: dict[str, str] | None) -> str:
    if found is None:
        return "not measured"
    return "yes" if "ok" in found else f"no: {found['no']}".replace("|", "/")


def write_table(readme: Path, only: list[str] | None = None) -> int:
    """Measure the rows, keep the results, and write the table into a page between its markers.

    Args:
        readme: The page, in `docs/` of a checkout; results are kept in `RESULTS` of that checkout.
        only: Names of the rows to measure again; all by default.

    Raises:
        ValueError: The file has no markers, or no row has the name.
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} has no lines {BEGIN} and {END}")
    names = [row.name for row in rows()]
    for name in only or ():
        if name not in names:
            raise ValueError(f"--only {name} is none of {', '.join(names)}")
    path = readme.parent.parent / RESULTS
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for row in rows():
        if only and row.name not in only:
            continue
        results[row.name] = measure_row(row)
        print(row.name, json.dumps(results[row.name]), flush=True)
        write_text(path, json.dumps({name: results[name] for name in names if name in results}, indent=2) + "\n")
    head, rest = text.split(BEGIN)[0], text.split(END, 1)[1]
    write_text(readme, f"{head}{BEGIN}\n{render(results)}\n{END}{rest}")
    bad = [name for name in names if any("no" in results.get(name, {}).get(form, {}) for form in COLUMNS)]
    if bad:
        print(f"not in every format: {', '.join(bad)}")
    return 0
