"""The room of images: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Calibration, Int8, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.images"

room = Room(
    components=(
        f"{HERE}.classification:ImageClassification",
        f"{HERE}.folders:ImageFolder",
        f"{HERE}.folders:TorchvisionImages",
        f"{HERE}.tables:ImageTable",
        f"{HERE}.shards:ImageShards",
        f"{HERE}.hub_sets:HuggingFaceImages",
        f"{HERE}.small_sets:CIFAR10",
        f"{HERE}.small_sets:FashionMNIST",
    ),
    evaluators={"CIFAR-10": f"{HERE}.evaluate:evaluate_cifar10"},
    readers={"image/classification": f"{HERE}.predict:predict"},
    calibration_files={"image/classification": f"{HERE}.predict:inputs_of"},
    suites=dict.fromkeys(("nextvit", "nasnet", "emov2", "conv_norm"), f"{HERE}.bench:SUITES"),
    kernels={"separable_conv": f"{HERE}.kernel_cases:CASES"},
    speed={family: f"{HERE}.speed:{family}" for family in ("nextvit", "nasnet", "emov2")},
    int8={"image": Int8()},
    calibration={"CIFAR-10": Calibration(f"{HERE}.small_sets:CIFAR10")},
    metrics={"accuracy": "accuracy", "map": "mean average precision"},
)
