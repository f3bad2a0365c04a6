"""What the packages offer, compared with their files."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import blockzoo

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "layers")

pytestmark = pytest.mark.skipif(not (ROOT / "zoo").is_dir(), reason="the tests run outside of a checkout")


def public(path: Path) -> tuple[str, ...]:
    """Classes and functions among the names that a file declares as public."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    declared = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert declared, f"{path} has no __all__"
    return tuple(sorted(defined & set(declared[0])))


def of_files(package: str) -> dict[str, tuple[str, ...]]:
    folder = ROOT / package
    paths = [path for path in folder.rglob("*.py") if not path.name.startswith("_")]
    return {".".join(path.relative_to(folder).with_suffix("").parts): public(path) for path in paths}


@pytest.mark.parametrize("package", PACKAGES)
def test_declarations_follow_the_files(package):
    assert importlib.import_module(f"blockzoo.{package}")._FILES == of_files(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_every_file(package):
    """The star imports that only type checkers follow name the same files."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    starred = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"}
    assert starred == {f"blockzoo.{package}.{file}" for file in of_files(package)}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_stands_in_two_files(package):
    names = [name for found in of_files(package).values() for name in found]
    assert sorted(names) == sorted(set(names)) == importlib.import_module(f"blockzoo.{package}").__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_each_name_is_the_thing_in_its_file(package):
    module = importlib.import_module(f"blockzoo.{package}")
    for file, names in of_files(package).items():
        source = importlib.import_module(f"blockzoo.{package}.{file}")
        assert all(getattr(module, name) is getattr(source, name) for name in names), file
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module 'blockzoo.{package}' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "from blockzoo.kernels import fold_conv",
        "import blockzoo.kernels.fold_conv; from blockzoo.kernels import fold_conv",
        "from blockzoo.kernels.fold_conv import fold_conv_ref; from blockzoo.kernels import fold_conv",
        "import blockzoo.layers.series.period; from blockzoo.kernels import fold_conv",
        "from blockzoo.kernels import *",
    ],
)
def test_a_kernels_file_never_hides_its_function(code):
    code += "\nimport sys; print(fold_conv is sys.modules['blockzoo.kernels.fold_conv'].fold_conv)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout == "True\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_none_of_its_files(package):
    code = f"import sys, blockzoo.{package}; print([m for m in sys.modules if m.startswith('blockzoo.{package}.')"
    code += " and not m.endswith('._lazy')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout == "[]\n"


def test_the_package_offers_what_it_declares():
    assert sorted(blockzoo.__all__) == blockzoo.__all__ == sorted({*blockzoo._HOMES, "__version__"})
    for name in blockzoo._HOMES:
        source = importlib.import_module(f"blockzoo.{blockzoo._HOMES[name]}")
        assert getattr(blockzoo, name) is getattr(source, name) and name in source.__all__
    tree = ast.parse((ROOT / "zoo" / "__init__.py").read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    seen = {alias.name: node.module.removeprefix("blockzoo.") for node in typed for alias in node.names}
    assert {name: home for name, home in seen.items() if not name.startswith("_")} == blockzoo._HOMES


@pytest.mark.parametrize("group", [path.parent for path in sorted((ROOT / "layers").glob("*/__init__.py"))])
def test_a_groups_page_names_its_files(group):
    text = ast.get_docstring(ast.parse((group / "__init__.py").read_text(encoding="utf-8")))
    assert [path.stem for path in group.glob("[!_]*.py") if f"`{path.stem}`" not in text] == []
