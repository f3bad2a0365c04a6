"""The room of fields: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Command, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.fields"

room = Room(
    components=(
        f"{HERE}.learning:OperatorLearning",
        f"{HERE}.darcy:DarcyFlow",
        f"{HERE}.files:FieldFiles",
        f"{HERE}.trajectories:FieldTrajectories",
        f"{HERE}.pairs:NavierStokes",
    ),
    evaluators={
        "Darcy flow": f"{HERE}.evaluate:evaluate_darcy",
        "Navier-Stokes": f"{HERE}.evaluate:evaluate_navier_stokes",
    },
    readers={"field": f"{HERE}.predict:predict"},
    reader_arguments=(f"{HERE}.predict:add_field_arguments",),
    suites=dict.fromkeys(("fno", "multigrid"), f"{HERE}.bench:SUITES"),
    kernels={"spectral_mix": f"{HERE}.kernel_cases:CASES"},
    speed={"fno": f"{HERE}.speed:fno"},
    metrics={"l2": "relative L2 error", "vrmse": "error over the standard deviation (VRMSE)"},
    commands=(
        Command(
            "science navier-stokes",
            "science tools",
            f"{HERE}.solver",
            "solve forced Navier-Stokes flows; can be resumed",
        ),
        Command(
            "science compare-neuralop",
            "science tools",
            f"{HERE}.compare_neuralop",
            "train neuraloperator's own TFNO on the data of darcy/tfno",
        ),
        Command(
            "package darcy", "maintenance", f"{HERE}.darcy", "turn neuraloperator's Darcy files into packaged data"
        ),
    ),
)
