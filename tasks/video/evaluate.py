"""The demo's part on video: which way the camera moves over packaged footage."""

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from blockzoo.tasks.core.pictures import STYLE, bitmap, picture, tiles
from blockzoo.tasks.video.camera_moves import CLASSES, CameraMoves, cut, test_footage

__all__ = ["evaluate_camera_moves"]

SHOWN = 8
FRAMES = (0, 2, 4, 5, 7)


@torch.no_grad()
def _probabilities(model: Any, still: bool) -> torch.Tensor:
    """Class probabilities of all test clips, (N, 4); with `still`, of their middle frames repeated."""
    data = CameraMoves("", still=still, batch_size=50)
    data.setup("test")
    return torch.cat([model(batch["x"]).softmax(-1) for batch in data.test_dataloader()])


def evaluate_camera_moves(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Accuracy on the 400 test clips, and sections (heading, HTML) about it."""
    data = CameraMoves("")
    data.setup("test")
    test: Any = data.datasets["test"]
    table = torch.tensor(test.table)
    labels, speeds = table[:, 4], table[:, 3]
    probabilities = _probabilities(model, still=False)
    right = (probabilities.argmax(1) == labels).double()
    still = (_probabilities(model, still=True).argmax(1) == labels).double().mean().item()
    sections = [
        ("What it sees, and which way it says that the camera moves", _strips(table, probabilities)),
        ("By direction and speed, and what one frame tells", _bars(right, labels, speeds, still)),
    ]
    return right.mean().item(), sections


def _strips(table: torch.Tensor, probabilities: torch.Tensor) -> str:
    """Some clips as strips of frames; every direction, at different places."""
    footage = test_footage()
    step = len(table) // SHOWN
    chosen = [i * step + i % len(CLASSES) for i in range(SHOWN)]
    items = []
    for index in chosen:
        clip = cut(footage, *table[index].tolist())
        label, share = CLASSES[int(table[index, 4])], float(probabilities[index].max())
        guess = CLASSES[int(probabilities[index].argmax())]
        frames = [clip[frame].permute(1, 2, 0).numpy() for frame in FRAMES]
        strip = np.concatenate(frames, 1)
        mark = "right" if guess == label else "wrong"
        shown = bitmap(strip, f"Frames of a clip whose camera moves {label}, in order", enlarge=2)
        moves = f"moves {label}, {int(table[index, 3])} px a frame"
        items.append((shown, f'says <b class="{mark}">{guess}</b> ({share:.0%}); {moves}'))
    return (
        "<p>Frames 1, 3, 5, 6 and 8 of clips from Big Buck Bunny (Blender Foundation, CC BY 3.0), a film that training "
        f"did not see. The picture moves against the camera.</p>{tiles(items, 2, 'strips')}"
    )


def _bars(right: torch.Tensor, labels: torch.Tensor, speeds: torch.Tensor, still: float) -> str:
    groups = {name: right[labels == i] for i, name in enumerate(CLASSES)}
    groups |= {f"{speed} px": right[speeds == speed] for speed in speeds.unique().tolist()}
    shares = {name: float(values.mean()) for name, values in groups.items()} | {"one\nframe": still}
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.8, 2.5))
        axis.bar(list(shares), list(shares.values()), color=["#3b6fb6"] * (len(shares) - 1) + ["#8a94a6"])
        axis.axhline(1 / len(CLASSES), color="#b42318", linewidth=1, linestyle="--")
        axis.set_ylim(0, 1)
        axis.set_ylabel("share that is right")
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()).replace("\n", " ")
    return (
        f"{picture(figure, f'Share of test clips that are right: {told}')}<p>The dashed line is chance. All four "
        "classes have the same frame in the middle of the clip, so whoever sees only that one is right once in four: "
        "the last bar is this model on it; the card names the same network trained on single frames.</p>"
    )
