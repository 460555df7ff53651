"""How many images per second get their random crop and flip, in batches and one by one.

Every image is drawn anew in every epoch, which on a CPU can cost more than a small network. A data
set with torchvision's transforms works image by image, `CropFlip` on a whole batch.
"""

import torch
from _timing import compare, cpu_seconds, parser, report
from torchvision.transforms import v2

from noisyfit.augment import CropFlip

N_IMAGES = 2048


def main():
    options = parser(__doc__, rounds=15).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(256, (N_IMAGES, 3, 32, 32), dtype=torch.uint8)
    rows = []
    for size in (64, 128, 512):
        sides = {
            "noisyfit.CropFlip": lambda size=size: whole_batches(images, size),
            "torchvision v2, per image": lambda size=size: image_by_image(images, size),
        }
        name = f"3x32x32 uint8, batches of {size}"
        rows += compare(name, sides, options.rounds, over="noisyfit.CropFlip")
    report(rows, options, "images per second", lambda seconds: f"{1 / seconds:,.0f}")


def whole_batches(images, size):
    view, generator = CropFlip(padding=4), torch.Generator().manual_seed(0)

    def work():
        for batch in images.split(size):
            view(batch, generator)

    return cpu_seconds(work) / len(images)


def image_by_image(images, size):
    view = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])

    def work():
        for batch in images.split(size):
            torch.stack([view(image) for image in batch])

    return cpu_seconds(work) / len(images)


if __name__ == "__main__":
    main()
