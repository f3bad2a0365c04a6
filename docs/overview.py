"""Make `docs/overview.png`, the README's picture, from figures of shipped checkpoints: `python docs/overview.py`."""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
FIGURES = ("timesnet_forecast.m3_monthly.0", "tfno2d.darcy.0", "timesnet_anomaly.internal_bleeding.0", "tdn.gfn2.0")
WIDTH, HEIGHT, GAP = 1200, 720, 16


def main() -> None:
    """Place the figures in two rows of two, each as large as its cell allows."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    width, height = (WIDTH - 3 * GAP) // 2, (HEIGHT - 3 * GAP) // 2
    for i, name in enumerate(FIGURES):
        figure = Image.open(ROOT / "checkpoints" / f"{name}.png").convert("RGB")
        figure.thumbnail((width, height), Image.Resampling.LANCZOS)
        column, row = i % 2, i // 2
        left = GAP + column * (width + GAP) + (width - figure.width) // 2
        page.paste(figure, (left, GAP + row * (height + GAP) + (height - figure.height) // 2))
    page.save(ROOT / "docs" / "overview.png", optimize=True)


if __name__ == "__main__":
    main()
