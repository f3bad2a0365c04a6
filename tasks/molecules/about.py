"""The room of molecules and crystals: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Command, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.molecules"

room = Room(
    components=(
        f"{HERE}.potential:InteratomicPotential",
        f"{HERE}.tensors:TensorProperty",
        f"{HERE}.structures:XTBMolecules",
        f"{HERE}.files:StructureFiles",
        f"{HERE}.pubchemqcr:PubChemQCR",
        f"{HERE}.qm9:QM9Polarizability",
        f"{HERE}.parity:ParityPlot",
    ),
    evaluators={"GFN2-xTB molecules": f"{HERE}.evaluate:evaluate_molecules"},
    readers={"graph/potential": f"{HERE}.predict:predict"},
    reader_arguments=(f"{HERE}.predict:add_arguments",),
    suites={"equivariant": f"{HERE}.bench:SUITES"},
    kernels=dict.fromkeys(("edge_product", "edge_product_harmonics", "low_rank_product"), f"{HERE}.kernel_cases:CASES"),
    speed={"tdn": f"{HERE}.speed:tdn"},
    exporters={"graph": f"{HERE}.export:write"},
    baselines={"InteratomicPotential": f"{HERE}.baseline:measure"},
    metrics={"force_mae": "mean error of forces, meV/Å"},
    commands=(
        Command("science relax", "science tools", f"{HERE}.batched", "relax the structures of a file, many at once"),
        Command("science eos", "science tools", f"{HERE}.eos", "volume and bulk modulus of a crystal by a potential"),
        Command("science elastic", "science tools", f"{HERE}.elastic", "elastic constants of a crystal by a potential"),
        Command("science phonons", "science tools", f"{HERE}.phonons", "vibrations of a crystal by a potential"),
        Command(
            "science md",
            "science tools",
            f"{HERE}.md",
            "relax a molecule, run dynamics, and measure energy conservation",
        ),
        Command("package xtb", "maintenance", f"{HERE}.xtb", "compute the packaged molecular dynamics by GFN2-xTB"),
    ),
)
