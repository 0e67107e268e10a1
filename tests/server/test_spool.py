"""Where answers wait for their turn."""

import os

import pytest
import torch
from fakes import open_descriptors
from runs import eventually

from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server import spool
from fedsag_cli.server.spool import Spool


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put an answer into a spool for which everything is large; nothing is open when it is closed."""
    monkeypatch.setattr(spool, "LARGE", 1)
    before = open_descriptors()
    kept_in = Spool(tmp_path)
    yield lambda value: kept_in.put(TensorFile.write({"w": torch.tensor([value])}))
    kept_in.close()
    assert open_descriptors() == before
    assert list(tmp_path.iterdir()) == []


def is_on_disk(file, folder):
    return os.fstat(file.fileno()).st_dev == folder.stat().st_dev


def value_of(kept):
    with kept.take() as file:
        return file.load()["w"].item()


def test_what_waits_long_is_on_disk_and_the_same(put, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_DELAY_S", 0.0)
    kept = [put(float(number)) for number in range(5)]

    eventually(lambda: all(is_on_disk(each._file, tmp_path) for each in kept))

    assert [value_of(each) for each in kept] == [0, 1, 2, 3, 4]


def test_what_is_taken_soon_was_never_moved(put, tmp_path):
    kept = put(7.0)

    file = kept.take()

    assert not is_on_disk(file, tmp_path)
    assert value_of(kept) == 7.0


def test_what_nobody_wants_any_more_is_gone(put):
    put(1.0).close()


def test_taken_while_it_is_being_moved_it_is_whole_and_the_copy_is_gone(put, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_DELAY_S", 0.0)
    copy = TensorFile.on_disk
    moving, taken = [], []

    def take_in_the_middle(self, scratch, *, stop):
        moved = copy(self, scratch)
        moving.append(kept)
        while not stop():
            pass
        return moved

    monkeypatch.setattr(TensorFile, "on_disk", take_in_the_middle)
    kept = put(3.0)
    eventually(lambda: moving)

    taken.append(value_of(kept))

    assert taken == [3.0]


def test_with_little_memory_free_it_goes_to_disk_at_once(put, tmp_path, monkeypatch):
    monkeypatch.setattr(spool.machine, "free_memory", lambda: 0)

    first, second = put(4.0), put(5.0)

    assert is_on_disk(second._file, tmp_path)
    assert [value_of(first), value_of(second)] == [4.0, 5.0]


def test_where_the_disk_is_full_it_stays_in_memory(put, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorFile, "on_disk", full)
    monkeypatch.setattr(spool.machine, "free_memory", lambda: 0)

    first, second = put(4.0), put(5.0)

    assert [value_of(first), value_of(second)] == [4.0, 5.0]


def test_what_was_taken_waits_no_more(put, monkeypatch):
    """Otherwise each later answer would look like one that has to wait long."""
    first, second = put(4.0), put(5.0)
    waiting = first._spool.waiting_bytes

    first.close()
    first.close()
    assert first._spool.waiting_bytes == waiting - first.size
    assert value_of(second) == 5.0
    assert first._spool.waiting_bytes == 0


def test_when_many_wait_the_small_ones_share_a_file_and_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_MOST_OPEN", 2)
    monkeypatch.setattr(spool, "_PACK_SIZE", 1000)
    before = open_descriptors()
    kept_in = Spool(tmp_path)
    kept = [kept_in.put(TensorFile.write({"w": torch.tensor([float(number)])})) for number in range(12)]
    num_packs = -(-10 * kept[0].size // 1000)

    assert len(open_descriptors()) <= len(before) + 2 + num_packs
    with kept[7].twin() as file:
        assert file.is_fixed
        assert file.load()["w"].item() == 7.0
    assert [value_of(each) for each in kept] == list(range(12))
    for each in kept:
        each.close()
    assert kept_in.waiting_bytes == 0
    assert open_descriptors() == before
    assert list(tmp_path.iterdir()) == []
