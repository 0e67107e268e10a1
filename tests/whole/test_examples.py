"""The scripts the templates ship and the CIFAR-10 example, without a run: what they read, divide, train and send."""

import ast
import contextlib
import copy
import difflib
import importlib.util
import io
import itertools
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import fedsag_cli
from fedsag_cli.job.templates.find import Template
from fedsag_cli.model import FLModel

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "job_templates"
CUSTOM = TEMPLATES / "sag_pt" / "custom"
CIFAR10 = ROOT / "examples" / "cifar10"
ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


def module_at(path):
    """The module in a file, which nobody else will find in sys.modules."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


data = module_at(CUSTOM / "data.py")
division = module_at(ROOT / "examples" / "algorithms" / "code" / "division.py")
download = module_at(CIFAR10 / "data" / "download.py")


class FakeFlare:
    """A Client API that hands out these tasks, one after the other, and keeps what is sent."""

    FLModel = FLModel

    def __init__(self, *tasks):
        self._tasks = list(tasks)
        self.sent = []
        self.state = {}
        self.logged = []

    def init(self): ...

    def SummaryWriter(self):  # noqa: N802
        return self

    def add_scalar(self, tag, scalar, global_step):
        self.logged.append((tag, global_step))

    def get_site_name(self):
        return "site-1"

    def partition(self, labels, how):
        """Of two sites, the first one."""
        return np.arange(len(labels))[::2]

    def is_running(self):
        return bool(self._tasks)

    def receive(self):
        return self._tasks[0][1]

    def send(self, model):
        self._tasks.pop(0)
        self.sent.append(copy.deepcopy(model))  # what is sent stays as it was, whatever the script does next

    def is_evaluate(self):
        return self._tasks[0][0] == "validate"

    def is_submit_model(self):
        return self._tasks[0][0] == "submit_model"


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """Runs a script with these arguments and this Client API, in an empty folder."""

    def run(script, flare, *args):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script.name, *args])
        monkeypatch.setitem(sys.modules, "fedsag_cli.client", flare)
        monkeypatch.setitem(sys.modules, "fedsag_cli.client.tracking", flare)
        monkeypatch.setattr(fedsag_cli, "client", flare, raising=False)
        for name in ("data", "net"):
            if (script.parent / f"{name}.py").exists():
                monkeypatch.setitem(sys.modules, name, module_at(script.parent / f"{name}.py"))
        module_at(script).main()
        return flare.sent

    return run


def make_pictures(folder, *, classes=("cat", "dog"), each=2):
    """A folder of pictures by class, every one of a single colour of its own."""
    for part_num, part in enumerate(("train", "test")):
        for class_num, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for num in range(each):
                colour = (100 * part_num, 100 * class_num, 50 * num)
                Image.new("RGB", (32, 32), colour).save(folder / part / name / f"{num:04}.png")


def test_the_network_has_62006_parameters_in_the_tutorials_five_layers():
    net = module_at(CUSTOM / "net.py").Net()

    assert sum(parameter.numel() for parameter in net.parameters()) == 62_006
    assert list(dict.fromkeys(key.split(".")[0] for key in net.state_dict())) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert net(torch.zeros(4, 3, 32, 32)).shape == (4, 10)


def test_generated_pictures_are_the_same_for_the_same_seed_and_of_ten_classes():
    one, same, other = data.generated(50, seed=1), data.generated(50, seed=1), data.generated(50, seed=2)

    assert np.array_equal(one.images, same.images)
    assert np.array_equal(one.labels, same.labels)
    assert not np.array_equal(one.images, other.images)
    assert set(one.labels) == set(range(10))


@pytest.mark.parametrize("path", ["nowhere", "{CIFAR10_ROOT}"])
def test_a_folder_without_cifar10_falls_back_to_generated_pictures_in_a_note_naming_it(path, capsys):
    trainset, testset = data.load(path)

    printed, said = capsys.readouterr()
    assert (len(trainset), len(testset)) == (1200, 500)
    assert printed == ""
    assert said.startswith("note: ")
    assert said.count("\n") == 1
    assert repr(path) in said


@pytest.mark.slow
def test_on_generated_pictures_accuracy_rises_well_above_half(monkeypatch):
    monkeypatch.setitem(sys.modules, "data", data)
    monkeypatch.setitem(sys.modules, "net", module_at(CUSTOM / "net.py"))
    script = module_at(CIFAR10 / "code" / "dl" / "train.py")
    torch.manual_seed(0)
    net = script.Net()
    trainset, testset = data.load("nowhere")
    before = script.evaluate(net, data.Loader(testset, 500))

    script.train(net, data.Loader(trainset, 4, shuffle=True), 6)

    assert before < 20
    assert script.evaluate(net, data.Loader(testset, 500)) > 60


def test_pictures_by_class_are_read_as_floats_from_minus_one_to_one(tmp_path):
    make_pictures(tmp_path)

    trainset, testset = data.load(tmp_path)
    [(images, labels)] = data.Loader(trainset, 10)

    assert labels.tolist() == [0, 0, 1, 1]
    assert len(testset) == 4
    assert images.dtype == torch.float32
    expected = torch.tensor([0, 100, 50]) / 127.5 - 1  # the second dog
    assert torch.allclose(images[3], expected[:, None, None].expand(3, 32, 32))


@pytest.mark.parametrize("batch_size", [1, 6, 300, 1000])
def test_a_loader_gives_every_picture_once_in_batches_of_the_size_asked_for(batch_size):
    pictures = data.Pictures(np.zeros((700, 3, 32, 32), np.uint8), np.arange(700))
    loader = data.Loader(pictures, batch_size, shuffle=True)

    sizes, labels = zip(*[(len(images), labels.tolist()) for images, labels in loader], strict=True)

    assert len(sizes) == len(loader)
    assert set(sizes[:-1]) <= {batch_size}
    seen = list(itertools.chain(*labels))
    assert seen != list(range(700))
    assert sorted(seen) == list(range(700))


def test_decoded_pictures_are_kept_and_decoded_again_when_a_file_changes(tmp_path, monkeypatch):
    make_pictures(tmp_path)
    first, _ = data.load(tmp_path)
    [kept] = tmp_path.glob("train-*.npy")

    with monkeypatch.context() as nobody_decodes:
        nobody_decodes.delattr(data, "_decoded")
        again, _ = data.load(tmp_path)
    assert np.array_equal(first.images, again.images)

    changed = tmp_path / "train" / "dog" / "0001.png"
    Image.new("RGB", (32, 32), (7, 8, 9)).save(changed)
    os.utime(changed, (1, 1))
    new, _ = data.load(tmp_path)
    assert new.images[3, :, 0, 0].tolist() == [7, 8, 9]
    assert [path.name for path in tmp_path.glob("train-*")] != [kept.name]
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_kept_file_that_is_cut_short_is_made_again(tmp_path):
    make_pictures(tmp_path)
    first, _ = data.load(tmp_path)
    [kept] = tmp_path.glob("train-*.npy")
    images = np.array(first.images)

    for size in (0, 5000):
        os.truncate(kept, size)
        assert np.array_equal(data.load(tmp_path)[0].images, images)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    make_pictures(tmp_path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(data.np, "save", full)

    assert len(data.load(tmp_path)[0]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]


def test_a_picture_of_another_size_is_an_error_naming_it(tmp_path):
    make_pictures(tmp_path)
    Image.new("RGB", (40, 30)).save(tmp_path / "train" / "cat" / "big.png")

    with pytest.raises(ValueError, match=r"big\.png is 40x30"):
        data.load(tmp_path)


def test_the_folder_of_torchvision_is_read_channels_first(tmp_path, monkeypatch):
    (tmp_path / "cifar-10-batches-py").mkdir()
    pixels = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)
    datasets = SimpleNamespace(CIFAR10=lambda root, train: SimpleNamespace(data=pixels, targets=[3, 8]))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=datasets))

    trainset, _ = data.load(tmp_path)

    assert trainset.images[1, 2, 5, 6] == pixels[1, 5, 6, 2]
    assert trainset.labels.tolist() == [3, 8]


def test_torchvision_is_imported_only_for_its_own_format(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it raises
    make_pictures(tmp_path)

    data.load(tmp_path)
    data.load("nowhere")


def test_a_limit_gives_the_same_pictures_every_time():
    one, same = data.load("nowhere", limit=30), data.load("nowhere", limit=30)

    assert [len(each) for each in one] == [30, 30]
    assert np.array_equal(one[0].images, same[0].images)


@pytest.mark.parametrize("split", ["iid", "dirichlet:0.5", "dirichlet:0.001", "dirichlet:100"])
def test_parts_are_disjoint_cover_everything_and_depend_on_the_seed_only(split):
    labels = np.arange(200) % 10

    parts = division.divided(labels, split, num_sites=12)
    again = division.divided(labels, split, num_sites=12)
    other = division.divided(labels, split, num_sites=12, seed=1)

    assert sorted(np.concatenate(parts)) == list(range(200))
    assert all(len(part) for part in parts)
    assert np.array_equal(parts[6], again[6])
    assert not np.array_equal(parts[6], other[6])


def test_a_small_alpha_makes_sites_differ_and_iid_does_not():
    labels = np.arange(1000) % 10

    def largest_share(split):
        return np.mean(
            [max(np.bincount(labels[part])) / len(part) for part in division.divided(labels, split, num_sites=5)]
        )

    assert largest_share("iid") < 0.2 < 0.4 < largest_share("dirichlet:0.1")


@pytest.mark.parametrize(
    ("split", "num_sites"),
    [("half", 2), ("dirichlet", 2), ("dirichlet:much", 2), ("dirichlet:0", 2), ("iid:1", 2), ("iid", 0), ("iid", 21)],
)
def test_a_split_that_cannot_be_made_is_an_error(split, num_sites):
    with pytest.raises(ValueError, match=r"split|divided"):
        division.divided(np.arange(20) % 10, split, num_sites=num_sites)


def test_a_split_is_what_partition_takes():
    assert data.way("iid") == {"how": "iid"}
    assert data.way("dirichlet:0.3") == {"how": "dirichlet", "alpha": 0.3}
    with pytest.raises(ValueError, match="--split must be iid, shards or dirichlet:ALPHA, not 'dirichlet:much'"):
        data.way("dirichlet:much")


def test_a_client_trains_validates_and_submits_its_best_model(run_script, tmp_path, capsys):
    start = module_at(CUSTOM / "net.py").Net().state_dict()
    flare = FakeFlare(
        ("train", FLModel(params=start, current_round=0, total_rounds=1)),
        ("validate", FLModel(params=start, current_round=1, total_rounds=1)),
        ("submit_model", FLModel()),
    )

    args = ["--dataset_path", "nowhere", "--limit", "60", "--local_epochs", "1", "--split", "iid"]

    trained, validated, submitted = run_script(CUSTOM / "train.py", flare, *args)

    assert trained.meta == {"NUM_STEPS_CURRENT_ROUND": 8}  # 30 pictures in batches of 4
    assert list(trained.params) == list(start)
    assert validated.params is None
    assert validated.metrics == trained.metrics, "both are of the received model"
    assert all(torch.equal(submitted.params[key], trained.params[key]) for key in start)
    assert (tmp_path / "cifar_net_site-1.pth").exists()
    said = capsys.readouterr().out
    assert "(site-1) current_round=0, total_rounds=1\n" in said
    assert re.search(r"^\(site-1\) \[1, +8\] loss: \d\.\d{3}$", said, re.MULTILINE)
    assert "(site-1) Finished Training\n" in said
    assert flare.logged == [("local_accuracy", 0)]


@pytest.mark.slow
def test_the_plain_script_runs_alone_with_workers_and_saves_its_model(tmp_path):
    script = CIFAR10 / "code" / "dl" / "train.py"
    args = ["--dataset_path", "nowhere", "--limit", "40", "--num_workers", "2", "--local_epochs", "1"]

    done = subprocess.run([sys.executable, script, *args], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert "Finished Training" in done.stdout
    assert set(torch.load(tmp_path / "cifar_net.pth", weights_only=True)) >= {"conv1.weight", "fc3.bias"}


def test_the_numpy_client_adds_one_and_knows_nothing_of_torch(run_script):
    script = TEMPLATES / "sag_np" / "custom" / "train.py"
    array = np.array([[1, 2], [3, 6]], np.float32)
    flare = FakeFlare(("train", FLModel(params={"numpy_key": array}, current_round=0, total_rounds=1)))

    [sent] = run_script(script, flare)

    assert sent.params["numpy_key"].tolist() == [[2, 3], [4, 7]]
    assert sent.params["numpy_key"].dtype == np.float32
    assert sent.metrics == {"accuracy": 3.0}
    imports = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Import)]
    assert {alias.name for node in imports for alias in node.names} == {"argparse", "numpy", "fedsag_cli.client"}


def test_the_plain_and_the_federated_script_differ_in_few_lines():
    plain, federated = ((CIFAR10 / "code" / kind / "train.py").read_text().splitlines() for kind in ("dl", "fl"))

    changes = list(difflib.ndiff(plain, federated))
    gone = [line for line in changes if line.startswith("- ") and line.strip("- ")]
    new = [line for line in changes if line.startswith("+ ") and line.strip("+ ")]

    assert len(gone) <= 8
    assert len(new) <= 42


def test_every_link_is_relative_and_leads_to_a_file_inside_the_repository():
    links = [path for top in (TEMPLATES, ROOT / "examples") for path in top.rglob("*") if path.is_symlink()]

    assert links
    for link in links:
        assert not link.readlink().is_absolute(), link
        assert link.resolve(strict=True).is_relative_to(ROOT), link
        assert link.is_file(), f"{link}: a folder's link would be packed once only, for all that lead there"


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.iterdir()))
def test_a_template_declares_what_its_files_ask_for_and_each_key_has_a_comment(template):
    folder = TEMPLATES / template
    declared = {(variable.name, variable.file) for variable in Template.read(folder).variables}
    files = [path for path in folder.rglob("*.conf") if path.name != "info.conf"]
    asked = {
        (name, str(path.relative_to(folder))) for path in files for name in re.findall(r"{{ (\w+) }}", path.read_text())
    }

    assert asked - {("name", "meta.conf")} == declared
    for path in files:
        lines = path.read_text().splitlines()
        for above, line in zip(["", *lines], lines, strict=False):
            if re.match(r"\s*[\w-]+ (=|{)", line):
                assert "# " in line or above.strip().startswith("#"), f"{path}: {line}"
    assert list((folder / "custom").glob("*.py"))


def pack(archive, **members):
    with tarfile.open(archive, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_an_archive_is_unpacked_and_nothing_in_it_leads_out(tmp_path):
    archive, folder = tmp_path / "pictures.tar", tmp_path / "cifar10"
    folder.mkdir()
    pack(archive, **{"train/cat/0.jpg": b"a", "test/cat/0.jpg": b"b", "train/../evil.jpg": b"c", "/etc/x/y": b"d"})

    download.unpack(archive, folder)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "cifar10/test/cat/0.jpg",
        "cifar10/train/cat/0.jpg",
        "pictures.tar",
    ]
    with pytest.raises(FileExistsError, match="there already"):
        download.unpack(archive, folder)


def test_an_archive_without_both_parts_leaves_nothing(tmp_path):
    pack(tmp_path / "pictures.tar", **{"train/cat/0.jpg": b"a"})
    (tmp_path / "cifar10").mkdir()

    with pytest.raises(ValueError, match="does not hold"):
        download.unpack(tmp_path / "pictures.tar", tmp_path / "cifar10")

    assert not list((tmp_path / "cifar10").iterdir())


def test_without_a_network_the_download_says_what_to_do(tmp_path, monkeypatch, capsys):
    def unreachable(folder):
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "download", unreachable)
    monkeypatch.setattr(sys, "argv", ["download.py", "--dataset_path", str(tmp_path)])

    assert download.main() == 1
    assert "without a network, pass --archive" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["nothing", "above", "the folder", "a file"])
@pytest.mark.parametrize("archive", [[], ["--archive", "nowhere.tar"]])
def test_a_download_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys, there, archive):
    folder = tmp_path / "above" / "cifar10"
    if there != "nothing":
        (folder.parent if there == "above" else folder).mkdir(parents=True)
    if there == "a file":
        (folder / "mine.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))

    def unreachable(folder):
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "download", unreachable)
    monkeypatch.setattr(sys, "argv", ["download.py", "--dataset_path", str(folder), *archive])

    assert download.main() == 1
    assert "error: no CIFAR-10" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_the_examples_save_is_not_taken_for_a_source():
    command = ["git", "check-ignore", "-q", "--no-index", CIFAR10 / "code" / "dl" / "cifar_net.pth"]

    assert "*.pth" in (CIFAR10 / ".gitignore").read_text().splitlines()
    if (ROOT / ".git").exists():
        assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_the_download_goes_where_the_scripts_look():
    assert download.DATASET_PATH == data.DATASET_PATH


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"the real pictures are not here: {ARCHIVE}")
def test_the_real_pictures_are_unpacked_and_read(tmp_path):
    with contextlib.redirect_stdout(io.StringIO()):
        download.unpack(ARCHIVE, tmp_path)
        trainset, testset = data.load(tmp_path)

    assert np.bincount(trainset.labels).tolist() == [5000] * 10
    assert np.bincount(testset.labels).tolist() == [1000] * 10
    assert 110 < trainset.images.mean() < 130
