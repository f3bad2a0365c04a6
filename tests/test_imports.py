"""What importing costs, and which way imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("kernels", "layers", "zoo", "tasks")


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_loads_nothing_heavy():
    heavy = ("torch", "timm", "torchvision", "lightning", "e3nn", "triton", "matplotlib", "huggingface_hub")
    assert run(f"import sys, blockzoo; print([m for m in {heavy!r} if m in sys.modules])") == "[]"


def test_creating_a_model_loads_neither_lightning_nor_e3nn():
    code = "import sys, blockzoo; blockzoo.create_model('timesnet_forecast'); "
    assert run(code + "print([m for m in ('lightning', 'e3nn', 'blockzoo.tasks') if m in sys.modules])") == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import blockzoo, timm",
        "import timm, blockzoo",
        "import blockzoo.timesnet, timm",
        "import blockzoo._builder",
        "import blockzoo._registry",
        "import blockzoo._cfg",
        "from blockzoo import create_model",
        "import blockzoo.layers.series.period, timm.layers",
    ],
)
def test_any_order_of_imports_works(code):
    lines = [code, "import blockzoo, timm", "assert blockzoo.is_model('timesnet_forecast')"]
    # A registered image model is in timm whatever came first; the families are loaded exactly once.
    lines += ["print(sorted(set(blockzoo.list_models(modality='image')) - set(timm.list_models())))"]
    assert run("\n".join(lines)) == "[]"


def test_version_and_directory():
    assert run("import blockzoo; print(blockzoo.__version__, 'create_model' in dir(blockzoo))").endswith(" True")
    assert "no attribute 'nonsense'" in run(
        "import blockzoo\ntry: blockzoo.nonsense\nexcept AttributeError as e: print(e)"
    )


def imported(path: Path) -> set[str]:
    """Parts of the package that a file imports when it is loaded, function bodies left out."""
    names: set[str] = set()
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        stack.extend(ast.iter_child_nodes(node))
    parts = {name.split(".")[1] if "." in name else "" for name in names if name.split(".")[0] == "blockzoo"}
    return {part if part in (*LAYERS, "checkpoints", "configs") else "zoo" for part in parts}


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_point_one_way(folder):
    allowed = {*LAYERS[: LAYERS.index(folder) + 1]} | (
        {"checkpoints", "configs"} if folder in ("zoo", "tasks") else set()
    )
    for path in (ROOT / folder).rglob("*.py"):
        assert imported(path) <= allowed, path


def test_checkpoints_stand_alone():
    for path in (ROOT / "checkpoints").rglob("*.py"):
        assert imported(path) <= {"checkpoints"}, path


@pytest.mark.parametrize("folder", ["checkpoints", "configs", "kernels", "layers", "tasks"])
def test_folders_refuse_to_be_imported_under_their_bare_names(folder):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\ntry: import {folder}\nexcept ImportError as e: print(e)"
    assert f"import this package as blockzoo.{folder}" in run(code)


def everywhere(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, function bodies and type checking included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "blockzoo"}


def room_of(module: str) -> str | None:
    """The folder of `blockzoo.tasks` that a module is in."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["blockzoo", "tasks"] and len(parts) > 2 else None


ROOMS = sorted(path.parent.name for path in (ROOT / "tasks").glob("*/__init__.py"))
BESIDE = {"deploy", "compress", "training"}
"""Folders of `tasks/` beside the rooms, which know no room; rooms may use them."""


@pytest.mark.parametrize("room", ROOMS)
def test_inside_tasks_imports_go_from_core_to_rooms_to_app(room):
    others = set(ROOMS) - {room}
    forbidden = {"core": others, "app": set()}.get(room, others - {"core", *BESIDE})
    for path in (ROOT / "tasks" / room).rglob("*.py"):
        assert not {room_of(name) for name in everywhere(path)} & forbidden, path


def test_tasks_hold_folders_only():
    assert [path.name for path in (ROOT / "tasks").glob("*.py")] == ["__init__.py"]


def test_no_two_modules_import_each_other():
    folders = {
        "zoo": "blockzoo",
        **{name: f"blockzoo.{name}" for name in ("layers", "kernels", "tasks", "checkpoints")},
    }
    modules = {}
    for folder, package in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py":
                modules[".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])] = path
    arrows = {name: everywhere(path) & set(modules) - {name} for name, path in modules.items()}
    reach = {name: set(targets) for name, targets in arrows.items()}
    for middle in modules:
        for name in modules:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    assert not [name for name in modules if name in reach[name]]
