"""Optional packages: found, missing, and installed without what they import."""

import json
import sys

import pytest

from blockzoo.__main__ import main
from blockzoo.tasks.core.extras import MissingPackageError, needs


def test_packages_are_imported_or_named_with_their_extra(tmp_path, monkeypatch):
    assert needs("json", "fields", "x.nc") is json
    with pytest.raises(MissingPackageError, match=r"^x.nc needs nosuch: pip install 'blockzoo\[fields\]'$"):
        needs("nosuch.inner", "fields", "x.nc")
    (tmp_path / "broken_package.py").write_text("import nosuch_either\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nosuch_either") as caught:
        needs("broken_package", "fields", "x.nc")
    assert not isinstance(caught.value, MissingPackageError)


@pytest.mark.parametrize(
    "words",
    [
        "science eos tdn.gfn2 --bulk C:diamond:3.567",
        "science md tdn.gfn2",
        "predict tdn.gfn2 x.xyz",
        "fit --config molecules/tdn --data StructureFiles --data.path=x.xyz --trainer.accelerator=cpu",
    ],
)
def test_commands_without_ase_end_with_one_line(words, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ase"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "blockzoo.tasks.molecules.ase_calculator", raising=False)
    monkeypatch.setitem(sys.modules, "ase", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.xyz").write_text("1\n\nH 0 0 0\n", encoding="utf-8")
    assert main(words.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("blockzoo") and "ase: pip install 'blockzoo[molecules]'" in said
