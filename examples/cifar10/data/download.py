"""Get CIFAR-10: from the network, or out of an archive of pictures by class.

python download.py [--dataset_path DIR]
python download.py [--dataset_path DIR] --archive cifar10-jpeg.tar.xz
"""

import argparse
import shutil
import socket
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

DATASET_PATH = "/tmp/fedsag/data/cifar10"


@contextmanager
def made(folder):
    """`folder`, with those above it; where nothing came into them, those that were not there before are gone again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    finally:
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def download(folder):
    """What torchvision.datasets.CIFAR10 downloads; nothing is done where it is there already."""
    import torchvision

    socket.setdefaulttimeout(30)  # a network that swallows everything would be waited for without end
    for train in (True, False):
        torchvision.datasets.CIFAR10(folder, train=train, download=True)


def unpack(archive, folder):
    """The pictures of a tar archive, train/<class>/<name> and test/<class>/<name>: all of them or none.

    Raises ValueError where there are none, FileExistsError where `folder` has train/ or test/ already.
    """
    for name in ("train", "test"):
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} is there already: remove it, or choose another --dataset_path")
    new = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or len(parts) != 3 or parts[0] not in ("train", "test") or ".." in parts:
                    continue  # nothing else is wanted, and no name may lead out of the folder
                picture = new.joinpath(*parts)
                picture.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as packed, picture.open("wb") as file:
                    shutil.copyfileobj(packed, file)
        if not (new / "train").is_dir() or not (new / "test").is_dir():
            raise ValueError(f"{archive} does not hold train/<class>/ and test/<class>/")
        for name in ("train", "test"):
            (new / name).replace(folder / name)
    finally:
        shutil.rmtree(new)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", type=Path, default=DATASET_PATH, help=f"where it goes ({DATASET_PATH})")
    parser.add_argument("--archive", type=Path, help="a tar archive of pictures by class, instead of the network")
    args = parser.parse_args()
    try:
        with made(args.dataset_path) as folder:
            if args.archive:
                unpack(args.archive, folder)
            else:
                download(folder)
    except (OSError, ValueError, RuntimeError, tarfile.TarError) as error:
        print(f"error: no CIFAR-10: {error}", file=sys.stderr)
        if not args.archive:
            print(
                "hint: without a network, pass --archive with pictures by class, or do without: "
                "the scripts then train on a small generated set, and say so",
                file=sys.stderr,
            )
        return 1
    print(f"CIFAR-10 is in {args.dataset_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
