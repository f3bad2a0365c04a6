"""Declarations of the core for the commands: callbacks for every task."""

from blockzoo.tasks.core.rooms import Command, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.core"

room = Room(
    components=(f"{HERE}.drop_path:ScheduledDropPathProgress", f"{HERE}.run_folder:RunFolder"),
    commands=(
        Command("package series", "maintenance", f"{HERE}.packaged", "turn published series into packaged data"),
    ),
)
