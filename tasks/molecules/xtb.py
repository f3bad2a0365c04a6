"""Molecular dynamics of small molecules with GFN2-xTB: the program that made the packaged set, and can make others.

    blockzoo package xtb --out molecules.safetensors        # pip install 'blockzoo[molecules]'

For every molecule and temperature there are independent trajectories: each starts from the equilibrium geometry with
its own velocities and random forces, runs for half a picosecond without a record, and then gives a frame every 25 fs.
Whole trajectories go to the training, the validation or the test part, so that no test frame is a neighbour in time of
a training frame. A trajectory is written completely or not at all, and a finished one is not computed again.

Sources: "GFN2-xTB: An Accurate and Broadly Parametrized Self-Consistent Tight-Binding Quantum Chemical Method with
Multipole Electrostatics and Density-Dependent Dispersion Contributions" (2019); geometries of the G2 set in ASE.
"""

import argparse
import hashlib
import json
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from blockzoo.checkpoints import cache_root, load_state_dict, save_state_dict
from blockzoo.tasks.core.extras import needs
from blockzoo.tasks.core.output import add_cache_dir, add_out
from blockzoo.tasks.molecules.options import check_not_negative, check_positive

__all__ = ["PARTS", "XTBSettings", "generate", "add_arguments", "run", "set_thermal_momenta"]

MOLECULES = ("CH3CH2OH", "CH3COCH3", "C6H6", "CH3CONH2", "CH3COOH", "C4H4O")
"""Ethanol, acetone, benzene, acetamide, acetic acid and furan, by their names in ASE's G2 set."""

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class XTBSettings:
    """Settings of a generated set.

    Attributes:
        molecules: Names in ASE's G2 set.
        temperatures: Of the thermostat, in K.
        train: Trajectories and frames in each, of every molecule at every temperature.
        val: Trajectories and frames for validation.
        test: Trajectories and frames for the test.
        timestep: Of the dynamics, in fs.
        interval: Steps between frames.
        equilibration: Steps before the first frame.
        friction: Of the Langevin thermostat, in 1/fs.
        seed: Of all random numbers.
    """

    molecules: tuple[str, ...] = MOLECULES
    temperatures: tuple[float, ...] = (300.0, 600.0, 900.0)
    train: tuple[int, int] = (2, 80)
    val: tuple[int, int] = (1, 20)
    test: tuple[int, int] = (1, 40)
    timestep: float = 0.5
    interval: int = 50
    equilibration: int = 1000
    friction: float = 0.02
    seed: int = 0

    @property
    def name(self) -> str:
        """A short name of exactly these settings."""
        text = json.dumps({**asdict(self), "version": 1}, sort_keys=True)
        return f"gfn2_{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def trajectories(self) -> Iterator[tuple[str, float, str, int, int]]:
        """Molecule, temperature, part, number within it, and frames of every trajectory."""
        for molecule in self.molecules:
            for temperature in self.temperatures:
                for part in PARTS:
                    count, frames = getattr(self, part)
                    for number in range(count):
                        yield molecule, temperature, part, number, frames


def _calculator() -> Any:
    needs("ase", "molecules", "GFN2-xTB")
    return needs("tblite.ase", "molecules", "GFN2-xTB").TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def set_thermal_momenta(atoms: Any, temperature: float, rng: np.random.Generator) -> None:
    """Draw momenta of ASE's `Atoms` from the Maxwell-Boltzmann distribution at a temperature in K; the centre rests."""
    from ase import units
    from ase.md.velocitydistribution import Stationary

    spread = np.sqrt(atoms.get_masses() * (temperature * units.kB))
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    Stationary(atoms)


def _run(settings: XTBSettings, molecule: str, temperature: float, part: str, number: int, frames: int) -> Any:
    """One trajectory's positions (F, n, 3), energies (F,) and forces (F, n, 3), and its atomic numbers (n,)."""
    from ase import units
    from ase.build import molecule as build
    from ase.md.langevin import Langevin

    key = f"{settings.seed}/{molecule}/{temperature:g}/{part}/{number}"
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    atoms = build(molecule)
    atoms.calc = _calculator()
    set_thermal_momenta(atoms, temperature, rng)
    with warnings.catch_warnings():
        # The packaged set was made with the centre of mass at rest; ASE 3.28 says that this samples not quite exactly.
        warnings.filterwarnings("ignore", ".*fixcm.*", FutureWarning)
        dynamics = Langevin(
            atoms,
            timestep=settings.timestep * units.fs,
            temperature_K=temperature,
            friction=settings.friction / units.fs,
            rng=rng,
            fixcm=True,
        )
    dynamics.run(settings.equilibration)
    label = atoms.copy()
    label.calc = _calculator()
    positions, energies, forces = [], [], []
    for _ in range(frames):
        dynamics.run(settings.interval)
        # What is stored in single precision is what the labels belong to.
        stored = (atoms.positions - atoms.positions.mean(0)).astype(np.float32)
        label.positions = stored
        positions.append(stored)
        energies.append(label.get_potential_energy())
        forces.append(label.get_forces().astype(np.float32))
    if not np.isfinite(forces).all():
        raise FloatingPointError(f"the forces of trajectory {key} are not finite; use a smaller timestep")
    return np.stack(positions), np.array(energies), np.stack(forces), atoms.numbers


def generate(
    settings: XTBSettings | None = None, cache_dir: str | Path | None = None, progress: bool = True
) -> dict[str, torch.Tensor]:
    """Make all frames of a set; trajectories in the cache are read from there.

    The same settings give the same numbers on the same kind of machine.

    Args:
        settings: What to make; the packaged set by default.
        cache_dir: Folder of trajectories; by default `xtb` in the user's cache.
        progress: Show a bar over frames.

    Returns:
        "positions" (A, 3) float32, in Å, and "forces" (A, 3) float32, in eV/Å, of all atoms of all frames; "numbers"
        (A,) uint8; "num_atoms" (F,) int64; "energy" (F,) float64, in eV; and by number "molecule" (F,), "temperature"
        (F,) and "part" (F,) of `PARTS`.

    Raises:
        ImportError: tblite or ase is not installed.
    """
    settings = settings or XTBSettings()
    folder = (Path(cache_dir) if cache_dir is not None else cache_root() / "xtb") / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    todo = list(settings.trajectories())
    rows: list[dict[str, torch.Tensor]] = []
    with (
        FileLock(f"{folder}.lock"),
        tqdm(total=sum(entry[-1] for entry in todo), unit="frame", desc="GFN2-xTB", disable=not progress) as bar,
    ):
        for molecule, temperature, part, number, frames in todo:
            path = folder / f"{molecule}_{temperature:g}_{part}_{number}.safetensors"
            if not path.is_file():
                positions, energies, forces, numbers = _run(settings, molecule, temperature, part, number, frames)
                arrays = {"positions": positions, "forces": forces, "energy": energies, "numbers": numbers}
                tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
                save_state_dict(tensors, path, {"settings": json.dumps(asdict(settings))})
            stored = load_state_dict(path)
            rows.append(
                {
                    "positions": stored["positions"].flatten(0, 1),
                    "forces": stored["forces"].flatten(0, 1),
                    "numbers": stored["numbers"].to(torch.uint8).repeat(frames),
                    "num_atoms": torch.full((frames,), len(stored["numbers"])),
                    "energy": stored["energy"],
                    "molecule": torch.full((frames,), settings.molecules.index(molecule), dtype=torch.uint8),
                    "temperature": torch.full((frames,), temperature),
                    "part": torch.full((frames,), PARTS.index(part), dtype=torch.uint8),
                }
            )
            bar.update(frames)
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_out(parser, "the .safetensors file to write", required=True)
    add_cache_dir(parser)
    parser.add_argument("--molecules", nargs="+", default=list(MOLECULES), help="names in ASE's G2 set")
    parser.add_argument(
        "--temperatures", nargs="+", type=float, default=list(XTBSettings.temperatures), help="temperatures in K"
    )
    for part in PARTS:
        help_ = f"trajectories and frames in each of the {part} part"
        parser.add_argument(f"--{part}", nargs=2, type=int, default=list(getattr(XTBSettings, part)), help=help_)
    parser.add_argument("--interval", type=int, default=XTBSettings.interval, help="steps of 0.5 fs between frames")
    parser.add_argument(
        "--equilibration", type=int, default=XTBSettings.equilibration, help="steps before the first frame"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compute a set and write it to one file.

    Raises:
        ImportError: tblite or ase is not installed.
        ValueError: A molecule is unknown, or a number is out of range.
    """
    _calculator()  # which says what is missing
    from ase.build import molecule as build

    for name in args.molecules:
        try:
            build(name)
        except (KeyError, NotImplementedError) as error:
            raise ValueError(f"--molecules {name}: not a molecule of ASE's G2 set") from error
    for temperature in args.temperatures:
        check_positive(temperatures=temperature)
    check_positive(interval=args.interval)
    check_not_negative(equilibration=args.equilibration, seed=args.seed)
    for part in PARTS:
        number, frames = getattr(args, part)
        if number < 0 or frames < 1:
            raise ValueError(f"--{part} {number} {frames} must be trajectories and at least 1 frame in each")
    if not any(getattr(args, part)[0] for part in PARTS):
        raise ValueError("--train, --val and --test ask for no trajectory")
    counts: Any = {part: tuple(getattr(args, part)) for part in PARTS}
    settings = XTBSettings(
        tuple(args.molecules),
        tuple(args.temperatures),
        interval=args.interval,
        equilibration=args.equilibration,
        seed=args.seed,
        **counts,
    )
    frames = generate(settings, cache_root(args.cache_dir) / "xtb")
    metadata = {"method": "GFN2-xTB (tblite)", "settings": json.dumps(asdict(settings))}
    save_state_dict(frames, args.out, metadata)
    print(f"{args.out}: {len(frames['energy'])} frames, {Path(args.out).stat().st_size:,} bytes")
    return 0
