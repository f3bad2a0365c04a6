"""The room of video: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Calibration, Command, Int8, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.video"

room = Room(
    components=(
        f"{HERE}.classification:VideoClassification",
        f"{HERE}.camera_moves:CameraMoves",
        f"{HERE}.files:VideoFolder",
        f"{HERE}.files:VideoList",
    ),
    evaluators={"CameraMoves": f"{HERE}.evaluate:evaluate_camera_moves"},
    readers={"video/classification": f"{HERE}.predict:predict"},
    calibration_files={"video/classification": f"{HERE}.predict:inputs_of"},
    suites={"p3d": f"{HERE}.bench:SUITES"},
    speed={"p3d": f"{HERE}.speed:p3d"},
    int8={"video": Int8()},
    calibration={"CameraMoves": Calibration(f"{HERE}.camera_moves:CameraMoves")},
    commands=(
        Command(
            "package camera-moves",
            "maintenance",
            f"{HERE}.camera_moves",
            "cut the packaged clips of camera moves from films",
        ),
    ),
)
