"""The histogram of the intensities of a site's pictures, which stay at the site: its PNG files, or generated ones."""

import argparse
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fedsag_cli.client.statistics import DataType, Feature, Histogram, HistogramType, Statistics, run
from fedsag_cli.client.statistics import get_std_histogram_buckets as bins_of

NUM_GENERATED = 100


class ImageStatistics(Statistics):
    """`data_root`: a folder with a folder of PNG files of each site, such as site-1; empty: generated pictures."""

    def __init__(self, data_root=""):
        super().__init__()
        self.data_root = data_root
        self.pictures = []
        self.failures = 0

    def initialize(self, fl_ctx):
        site = fl_ctx.get_identity_name()
        if self.data_root:
            for path in sorted(Path(self.data_root, site).glob("*.png")):
                try:
                    self.pictures.append(np.asarray(Image.open(path).convert("L")))
                except (OSError, UnidentifiedImageError) as error:
                    self.failures += 1
                    print(f"({site}) {path}: {error}")
        else:
            self.pictures = generated(site)
        print(f"({site}) {len(self.pictures)} pictures")

    def features(self):
        return {"train": [Feature("intensity", DataType.FLOAT)]}

    def count(self, dataset_name, feature_name):
        return len(self.pictures) + self.failures

    def failure_count(self, dataset_name, feature_name):
        return self.failures

    def histogram(self, dataset_name, feature_name, num_of_bins, global_min_value, global_max_value):
        pixels = np.concatenate([picture.ravel() for picture in self.pictures] or [np.empty(0)])
        return Histogram(HistogramType.STANDARD, bins_of(pixels, num_of_bins, (global_min_value, global_max_value)))


def generated(site):
    """Pictures of 28 x 28 pixels. Each site's are brighter than those of the site before."""
    number = int((re.search(r"\d+$", site) or ["1"])[0])
    rng = np.random.default_rng(number)
    brightness = min(60 + 40 * number, 220)
    return list(np.clip(rng.normal(brightness, 30, size=(NUM_GENERATED, 28, 28)), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_root", default="", help="a folder with a folder of PNG files of each site")
    run(ImageStatistics(**vars(parser.parse_args())))
