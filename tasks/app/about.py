"""Declaration of the commands that belong to no room."""

from blockzoo.tasks.core.rooms import Command, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.app"

room = Room(
    commands=(
        Command("list", "models", f"{HERE}.list", "names of models, pretrained tags and training configs"),
        Command("info", "models", f"{HERE}.info", "inputs, outputs, size and pretrained weights of a model"),
        Command("download", "models", f"{HERE}.download", "fetch and verify pretrained weights"),
        Command("convert", "models", f"{HERE}.convert", "convert weights that you fetched by hand, and cache them"),
        Command(
            "export",
            "models",
            f"{HERE}.export",
            "write a model for another runtime, also in int8, and check the result",
        ),
        Command(
            "predict", "models", f"{HERE}.predict", "apply a model to your own files, or a finished run to its data"
        ),
        Command("seeds", "training", f"{HERE}.seeds", "train a config with several seeds: median and range"),
        Command(
            "learning-curve", "training", f"{HERE}.learning_curve", "train a config on training sets of several sizes"
        ),
        Command("demo", "evaluation", f"{HERE}.demo", "evaluate all shipped checkpoints and write a page"),
        Command("baselines", "evaluation", f"{HERE}.baselines", "measure simple methods on the data of a config"),
        Command("bench", "evaluation", f"{HERE}.bench", "time models and kernels against the originals"),
        Command("publish", "maintenance", f"{HERE}.publish", "turn a finished run into a shipped checkpoint"),
        Command("completion", "maintenance", f"{HERE}.completion", "print a completion script for your shell"),
    ),
)
