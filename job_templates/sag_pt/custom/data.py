"""CIFAR-10 in memory: where its pictures are found, some of them, and batches of them.

trainset, testset = load("/tmp/fedsag/data/cifar10")
for images, labels in Loader(trainset, batch_size=4, shuffle=True):
    ...
"""

import hashlib
import itertools
import os
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

DATASET_PATH = "/tmp/fedsag/data/cifar10"
SUFFIXES = (".jpg", ".jpeg", ".png")


class Pictures(Dataset):
    """Pictures as bytes, (n, 3, 32, 32), and the class of each. An index may be one number or a list."""

    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Loader:
    """Batches of (images, labels): images as floats from -1 to 1, (batch, 3, 32, 32).

    Many small batches are fetched at once, as bytes: one by one, their way out of a worker would cost more processor
    time than training on them (measured with batches of 6: 2 ms each).
    """

    def __init__(self, pictures, batch_size, *, shuffle=False, num_workers=0):
        self.dataset = pictures
        self.batch_size = batch_size
        self._fetched = DataLoader(
            pictures,
            batch_size=None,  # the sampler gives many indices, and the pictures answer them all at once
            sampler=BatchSampler(
                RandomSampler(pictures) if shuffle else SequentialSampler(pictures),
                batch_size * max(1, 256 // batch_size),
                drop_last=False,
            ),
            num_workers=num_workers,
            collate_fn=_as_it_is,
        )

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        for images, labels in self._fetched:
            images = torch.from_numpy(images).float().div_(127.5).sub_(1.0)
            yield from zip(images.split(self.batch_size), torch.from_numpy(labels).split(self.batch_size), strict=True)


def _as_it_is(batch):
    return batch


def load(dataset_path=DATASET_PATH, *, limit=0):
    """(trainset, testset) from the folder `dataset_path`, which may hold

    - what torchvision.datasets.CIFAR10 downloads: cifar-10-batches-py/,
    - pictures by class: train/<class>/*.jpg and test/<class>/*.jpg,
    - nothing of this kind: then the sets are generated, and a note on standard error says so.

    With a `limit`, only so many of each, the same ones every time.
    """
    root = Path(dataset_path)
    if (root / "cifar-10-batches-py").is_dir():
        sets = _from_torchvision(root, train=True), _from_torchvision(root, train=False)
    elif (root / "train").is_dir() and (root / "test").is_dir():
        sets = _from_folder(root / "train"), _from_folder(root / "test")
    else:
        print(
            f"note: no CIFAR-10 in {str(root)!r}: using a small generated set; the real one: pass --dataset_path DIR "
            "after python -c \"from torchvision.datasets import CIFAR10; CIFAR10('DIR', download=True)\"",
            file=sys.stderr,
        )
        sets = generated(1200, seed=1), generated(500, seed=2)
    if limit:
        sets = tuple(some(each, np.random.default_rng(0).permutation(len(each))[:limit]) for each in sets)
    return sets


def way(split):
    """The arguments of flare.partition for a text such as "iid" or "dirichlet:ALPHA"."""
    how, colon, alpha = split.partition(":")
    try:
        return {"how": how, "alpha": float(alpha)} if colon else {"how": how}
    except ValueError:
        raise ValueError(f"--split must be iid, shards or dirichlet:ALPHA, not {split!r}") from None


def some(pictures, indices):
    """The pictures with these indices."""
    return Pictures(pictures.images[indices], pictures.labels[indices])


def generated(num_pictures, *, seed):
    """Pictures of ten made-up classes: a coarse pattern each, mixed with another's, shifted about, under noise."""
    patterns = np.random.default_rng(0).uniform(0, 255, (10, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_pictures) % 10)
    others = rng.integers(0, 10, num_pictures)
    amounts = rng.uniform(0, 0.6, (num_pictures, 1, 1, 1))  # above a half no one can tell: perfect is out of reach
    images = (1 - amounts) * patterns[labels] + amounts * patterns[others]
    images += rng.normal(0, 30, images.shape)
    for image, shift in zip(images, rng.integers(-6, 7, (num_pictures, 2)), strict=True):
        image[:] = np.roll(image, shift, axis=(1, 2))
    return Pictures(images.clip(0, 255).astype(np.uint8), labels)


def _from_torchvision(root, *, train):
    import torchvision  # costs a second: only where its format is read

    pictures = torchvision.datasets.CIFAR10(root, train=train)
    return Pictures(np.ascontiguousarray(pictures.data.transpose(0, 3, 1, 2)), np.array(pictures.targets))


def _from_folder(folder):
    """Pictures by class, decoded once: the bytes stay beside the folder, in a file named after what it holds."""
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    listings = [_listing(each) for each in classes]
    labels = np.repeat(np.arange(len(classes)), [len(listing) for listing in listings])
    told = hashlib.sha256()
    for entry in itertools.chain(*listings):
        stat = entry.stat()
        told.update(os.fsencode(f"{entry.path.removeprefix(str(folder))}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
    kept = folder.with_name(f"{folder.name}-{told.hexdigest()[:16]}.npy")
    try:
        images = np.asarray(np.load(kept, mmap_mode="c"))  # mapped: all clients share one copy in memory
    except (OSError, ValueError, EOFError):
        images = _decoded(folder, [entry.path for entry in itertools.chain(*listings)])
        _keep(kept, images)
    return Pictures(images, labels)


def _listing(folder):
    with os.scandir(folder) as entries:
        return sorted((each for each in entries if each.name.lower().endswith(SUFFIXES)), key=attrgetter("name"))


def _decoded(folder, paths):
    from PIL import Image

    if not paths:
        raise ValueError(f"{folder} has no pictures: expected {folder.name}/<class>/*.jpg")
    print(f"reading {len(paths):,} pictures in {folder}")
    images = np.empty((len(paths), 3, 32, 32), np.uint8)
    for image, path in zip(images, paths, strict=True):
        with Image.open(path) as picture:
            if picture.size != (32, 32):
                raise ValueError(f"{path} is {picture.size[0]}x{picture.size[1]}, expected 32x32")
            image[:] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return images


def _keep(kept, images):
    """Write whole or not at all; what was kept of an earlier listing goes."""
    new = kept.with_suffix(f".{os.getpid()}.part")
    try:
        with new.open("wb") as file:
            np.save(file, images)
        new.replace(kept)
        for old in kept.parent.glob(f"{kept.name.rpartition('-')[0]}-{'?' * 16}.npy"):
            if old != kept:
                old.unlink(missing_ok=True)
    except OSError:  # a folder that is not ours to write: the next client decodes again
        try:
            new.unlink(missing_ok=True)
        except OSError:
            pass
