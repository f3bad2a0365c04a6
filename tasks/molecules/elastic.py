"""Elastic constants of a crystal by a potential, from the stresses of small strains.

    blockzoo science elastic tdn.gfn2 --bulk C:diamond:3.567 --out elastic.png

It needs `pip install 'blockzoo[molecules]'`. Each of the six strains is applied in both directions, atoms relax in the
strained cell, and C = Δstress / Δstrain. Averages over directions after "The Elastic Behaviour of a Crystalline
Aggregate" (1952).
"""

import argparse
from typing import Any

import numpy as np

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.core.output import print_json
from blockzoo.tasks.molecules.options import check_positive
from blockzoo.tasks.molecules.science import add_common_arguments, relax_crystal, set_up
from blockzoo.tasks.molecules.units import GPA

__all__ = ["add_arguments", "averages", "draw", "elastic_constants", "run"]

AXES = ("xx", "yy", "zz", "yz", "xz", "xy")


def elastic_constants(atoms: Any, strain: float = 0.005, fmax: float = 0.0) -> np.ndarray:
    """The stiffness matrix in Voigt's order xx, yy, zz, yz, xz, xy with engineering shear strains.

    Args:
        atoms: ASE's `Atoms` with a calculator that gives stresses, at its minimum; they stay as they are.
        strain: Size of the strains.
        fmax: Relax the atoms in each strained cell to this force, in eV/Å; 0 to strain them with the cell alone.

    Returns:
        (6, 6) in GPa, symmetrised.
    """
    from ase.stress import voigt_6_to_full_3x3_strain  # with the identity

    columns = []
    for i in range(6):
        stresses = []
        for sign in (1, -1):
            voigt = np.zeros(6)
            voigt[i] = sign * strain
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ voigt_6_to_full_3x3_strain(voigt), scale_atoms=True)
            strained.calc = atoms.calc
            if fmax:
                relax_crystal(strained, fmax, cell=False)
            stresses.append(strained.get_stress())
        columns.append((stresses[0] - stresses[1]) / (2 * strain))
    matrix = np.array(columns).T * GPA
    return (matrix + matrix.T) / 2


def averages(matrix: np.ndarray) -> dict[str, float]:
    """Moduli of a polycrystal from a stiffness matrix (6, 6): Hill's mean of Voigt's and Reuss's bounds, in GPa.

    Returns:
        "bulk_modulus", "shear_modulus", "young_modulus", "poisson_ratio"; and "anisotropy", the universal index, 0 for
        an isotropic material. The last four are NaN for a matrix that is not positive definite.
    """
    upper = matrix[:3, :3]
    voigt = upper.trace() / 9 + 2 * (upper[0, 1] + upper[0, 2] + upper[1, 2]) / 9
    if np.linalg.eigvalsh(matrix).min() <= 0:
        names = ("shear_modulus", "young_modulus", "poisson_ratio", "anisotropy")
        return {"bulk_modulus": float(voigt), **dict.fromkeys(names, float("nan"))}
    soft = np.linalg.inv(matrix)
    reuss = 1 / soft[:3, :3].sum()
    shear_voigt = (upper.trace() - (upper.sum() - upper.trace()) / 2 + 3 * matrix[3:, 3:].trace()) / 15
    inner = soft[:3, :3]
    shear_reuss = 15 / (4 * inner.trace() - 2 * (inner.sum() - inner.trace()) + 3 * soft[3:, 3:].trace())
    bulk, shear = (voigt + reuss) / 2, (shear_voigt + shear_reuss) / 2
    return {
        "bulk_modulus": float(bulk),
        "shear_modulus": float(shear),
        "young_modulus": float(9 * bulk * shear / (3 * bulk + shear)),
        "poisson_ratio": float((3 * bulk - 2 * shear) / (6 * bulk + 2 * shear)),
        "anisotropy": float(5 * shear_voigt / shear_reuss + voigt / reuss - 6),
    }


def draw(matrix: np.ndarray, out: str, title: str = "") -> None:
    """Draw the matrix into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.2))
    axis = figure.subplots()
    largest = float(np.abs(matrix).max()) or 1.0
    image = axis.imshow(matrix, cmap="RdBu", vmin=-largest, vmax=largest)
    for i, j in np.ndindex(6, 6):
        light = abs(matrix[i, j]) > 0.6 * largest
        text = f"{matrix[i, j]:.0f}"
        axis.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if light else "black")
    axis.set(xticks=range(6), yticks=range(6), xticklabels=AXES, yticklabels=AXES, title=title)
    figure.colorbar(image, label="GPa", shrink=0.8)
    figure.tight_layout()
    write_figure(out, figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common_arguments(parser)
    parser.add_argument("--strain", type=float, default=0.005, help="size of the strains (default: 0.005)")


def run(args: argparse.Namespace) -> int:
    """Relax, strain, print; status 1 if the crystal is not stable.

    Raises:
        ValueError: An option is out of range, or the structure cannot be used.
    """
    check_positive(strain=args.strain)
    if args.strain > 0.1:
        raise ValueError(f"--strain {args.strain:g} must be at most 0.1")
    atoms = set_up(args)
    matrix = elastic_constants(atoms, args.strain, args.fmax)
    stable = bool(np.linalg.eigvalsh(matrix).min() > 0)
    found = {"model": args.name, "formula": atoms.get_chemical_formula(), **averages(matrix), "stable": stable}
    if args.out:
        draw(matrix, args.out, f"{args.name}, {found['formula']}: elastic constants")
    if args.json:
        plain = {name: None if value != value else value for name, value in found.items()}
        print_json({**plain, "constants": matrix.tolist(), "units": "GPa", "order": AXES})
    else:
        print(f"{args.name}, {found['formula']}: elastic constants in GPa, order {' '.join(AXES)}")
        print("\n".join(" ".join(f"{value:9.2f}" for value in row) for row in matrix))
        print(f"bulk modulus {found['bulk_modulus']:.2f}, shear modulus {found['shear_modulus']:.2f} GPa (Hill)")
        if not stable:
            print("the matrix is not positive definite: this potential's crystal is not stable")
    return int(not stable)
