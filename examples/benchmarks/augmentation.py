"""How many images per second get their random view, in batches and one by one.

Every image is drawn anew in every epoch, which on a CPU can cost more than a small network. A data
set with torchvision's transforms works image by image, the views of `noisyfit.augment` on a whole
batch: crop and flip, the weak view, and the policies of strong views.
"""

import torch
from _timing import compare, cpu_seconds, parser, report
from torchvision.transforms import v2

from noisyfit.augment import AutoAugment, CropFlip, FixMatchRandAugment, RandAugment

N_IMAGES = 2048
WEAK = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
STRONG = {
    AutoAugment("cifar10"): v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128),
    RandAugment(): v2.RandAugment(fill=128),
    FixMatchRandAugment(): None,
}


def main():
    options = parser(__doc__, rounds=15).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(256, (N_IMAGES, 3, 32, 32), dtype=torch.uint8)
    cases = [(CropFlip(padding=4), WEAK, size) for size in (64, 128, 512)]
    cases += [(view, other, 128) for view, other in STRONG.items()]
    rows = []
    for view, other, size in cases:
        ours = f"noisyfit.{type(view).__name__}"
        sides = {ours: lambda view=view, size=size: whole_batches(view, images, size)}
        if other is not None:
            sides["torchvision v2, per image"] = lambda other=other: image_by_image(other, images)
        name = f"3x32x32 uint8, batches of {size}"
        rows += compare(name, sides, options.rounds, over=ours)
    report(rows, options, "images per second", lambda seconds: f"{1 / seconds:,.0f}")


def whole_batches(view, images, size):
    generator = torch.Generator().manual_seed(0)

    def work():
        for batch in images.split(size):
            view(batch, generator)

    return cpu_seconds(work) / len(images)


def image_by_image(view, images):
    return cpu_seconds(lambda: torch.stack([view(image) for image in images])) / len(images)


if __name__ == "__main__":
    main()
