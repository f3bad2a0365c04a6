"""The room of Raptors: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Command, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.raptor"

room = Room(
    components=(
        f"{HERE}.training:LinearProbe",
        f"{HERE}.training:RaptorDistillation",
        f"{HERE}.activations:TeacherActivations",
    ),
    evaluators={"raptor_cifar.cifar10": f"{HERE}.evaluate:evaluate_raptor"},
    suites={"raptor": f"{HERE}.bench:SUITES"},
    kernels=dict.fromkeys(("residual_norm", "gated_linear_attention"), f"{HERE}.kernel_cases:CASES"),
    speed={"raptor": f"{HERE}.speed:raptor"},
    commands=(
        Command(
            "raptor study", "evaluation", f"{HERE}.study", "compare students of several sizes with shallow networks"
        ),
        Command("raptor report", "evaluation", f"{HERE}.report", "figures of a teacher, its phases, and a Raptor"),
    ),
)
