"""CIFAR-10, or another published data set, as a folder of JPEG files: real pictures for `data=folder` without the internet.

Run it: python examples/picture_folder.py data/cifar10_jpeg       4,500 pictures of 32x32 (a few seconds, and once a download)

FOLDER/train/<class>/ has pictures of the official training part, FOLDER/test/<class>/ of the official test part, as many of each
class. They are drawn by a fixed seed; one version of Pillow always writes the same files.
"""

import argparse
from pathlib import Path

from PIL import Image

from search.data.config import DataConfig
from search.data.images import load_data


def main() -> None:
    """Write the pictures; a folder that is there already is left alone."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path, help="to be made")
    options.add_argument("--data", default="cifar10", help="cifar10, fashion_mnist or digits")
    options.add_argument("--root", default="data", help="where the data set is kept, and fetched to")
    options.add_argument("--train", type=int, default=3500, help="pictures for training and validation")
    options.add_argument("--test", type=int, default=1000, help="pictures for the test")
    given = options.parse_args()
    if given.folder.exists():
        raise SystemExit(f"{given.folder} is there already: remove it, or give another folder")
    config = DataConfig(name=given.data, root=given.root, train_size=given.train, test_size=given.test)
    data = load_data(config, with_test=True)
    assert data.test is not None
    for part, (images, labels) in (("train", data.train), ("test", data.test)):
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            place = given.folder / part / data.info.classes[label].replace("/", "-")
            place.mkdir(parents=True, exist_ok=True)
            pixels = image.permute(1, 2, 0).squeeze(2).numpy()  # (H, W, 3), or (H, W) where it is grey
            Image.fromarray(pixels).save(place / f"{number:05d}.jpg", quality=95)
    print(
        f"{given.train} pictures for training, {given.test} for the test, {len(data.info.classes)} classes: {given.folder}"
    )


if __name__ == "__main__":
    main()
