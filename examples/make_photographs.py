"""Cut the photographs that ship with qcompress from their public-domain originals.

    python examples/make_photographs.py SKIMAGE_DATA DANDELION OUT [--sheet sheet.png]

SKIMAGE_DATA   the folder `skimage/data` of an installed scikit-image
DANDELION      `seeding_by_Clements_Engelhardt.jpg` of Debian's package lomiri-wallpapers-16.04
OUT            where SCENE_1.png, SCENE_2.png, ... are written, 256x256 pixels each

Authors and licences are listed in qcompress/reference/LICENSES.md. JPEG originals are reduced first, because their block
artefacts would otherwise count as part of the clean picture. The places below were chosen by eye: something to see in each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SIZE = 256


@dataclass(frozen=True)
class Original:
    """One photograph: its file, by how much each side is reduced, and the top left corners (x, y) of its crops."""

    scene: str
    file: str
    reduction: float
    corners: tuple[tuple[int, int], ...]


ORIGINALS = (
    Original("astronaut", "astronaut.png", 1, ((110, 0), (0, 256), (256, 200), (256, 0))),
    Original("brick", "brick.png", 2, ((0, 0),)),
    Original("camera", "camera.png", 1, ((150, 30), (160, 256))),
    Original("chelsea", "chelsea.png", 1, ((0, 20), (195, 40))),
    Original("coffee", "coffee.png", 1, ((60, 60), (316, 110))),
    Original("dandelion", "", 5, ((160, 50), (350, 200), (806, 90), (500, 140))),
    Original("grass", "grass.png", 1, ((0, 0), (256, 256))),
    Original("gravel", "gravel.png", 1, ((0, 0), (256, 256))),
    Original("hubble", "hubble_deep_field.jpg", 2, ((230, 20), (0, 180))),
    Original("retina", "retina.jpg", 2.5, ((20, 170), (276, 100))),
    Original("rocket", "rocket.jpg", 1.6, ((140, 11),)),
)


def cut(original: Original, path: Path) -> list[Image.Image]:
    """The crops of one photograph, in the order of its corners."""
    image: Image.Image = Image.open(path)
    if original.reduction != 1:
        size = (round(image.width / original.reduction), round(image.height / original.reduction))
        image = image.resize(size, Image.Resampling.LANCZOS)
    for x, y in original.corners:
        if x + SIZE > image.width or y + SIZE > image.height:
            raise SystemExit(
                f"{path}: no crop of {SIZE}x{SIZE} at ({x}, {y}), it is {image.width}x{image.height} after reduction"
            )
    return [image.crop((x, y, x + SIZE, y + SIZE)) for x, y in original.corners]


def write_sheet(folder: Path, path: Path, columns: int = 5) -> None:
    """All photographs of `folder` on one page, to look at."""
    files = sorted(folder.glob("*.png"))
    sheet = Image.new("RGB", (columns * SIZE, -(-len(files) // columns) * SIZE))
    for place, file in enumerate(files):
        sheet.paste(Image.open(file), (place % columns * SIZE, place // columns * SIZE))
    sheet.save(path)


def main() -> None:
    """Write every crop, and on request the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skimage_data", type=Path)
    parser.add_argument("dandelion", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for original in ORIGINALS:
        path = arguments.skimage_data / original.file if original.file else arguments.dandelion
        for number, crop in enumerate(cut(original, path), start=1):
            crop.save(arguments.out / f"{original.scene}_{number}.png", optimize=True)
    if arguments.sheet:
        write_sheet(arguments.out, arguments.sheet)


if __name__ == "__main__":
    main()
