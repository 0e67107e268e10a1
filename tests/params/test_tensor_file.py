"""Tensor files: what goes in comes out, nobody can change it, and a broken one is an error and no crash."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import struct
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from fakes import open_descriptors
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import KEYS, NUMBERS, PAYLOADS, TORCH_DTYPES, bits, numpy_values, torch_tensors

from fedsag_cli.errors import TensorError
from fedsag_cli.params import layout, tensor_file
from fedsag_cli.params.arithmetic import difference
from fedsag_cli.params.tensor_file import TensorFile


def there_and_back(params):
    with TensorFile.write(params) as file:
        return file.load()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, torch_tensors() | numpy_values() | NUMBERS | PAYLOADS, max_size=6))
def test_whatever_may_travel_comes_back_with_its_kind_dtype_shape_bits_and_place(params):
    back = there_and_back(params)

    assert list(back) == list(params)
    assert {name: bits(value) for name, value in back.items()} == {name: bits(value) for name, value in params.items()}


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_torch_dtype_travels_as_a_scalar_an_empty_one_and_a_row(dtype):
    shapes = {"0d": (), "empty": (0, 3), "row": (5,)}
    params = {name: torch.ones(shape).to(dtype) for name, shape in shapes.items()}

    back = there_and_back(params)

    assert {name: bits(value) for name, value in back.items()} == {name: bits(value) for name, value in params.items()}


def test_the_order_of_the_keys_is_kept_whatever_their_names_and_dtypes():
    params = {"z": torch.zeros(1, dtype=torch.int8), "b": torch.zeros(1), "a": torch.zeros(1).double(), "y": 1}

    assert list(there_and_back(params)) == ["z", "b", "a", "y"]


def test_bytes_and_texts_travel_as_they_are_with_the_zeros_at_their_end():
    params = {"tree": b"\0\xff\0", "none": b"", "about": "né\0", "empty": "", "large": b"x" * 100_000}

    assert there_and_back(params) == params


def test_tied_tensors_stay_tied_and_take_their_room_once():
    weight = torch.arange(10_000.0)

    with TensorFile.write({"first": weight, "other": torch.zeros(2), "again": weight}) as tied:
        loaded = tied.load()
        size = tied.size

    assert loaded["first"].data_ptr() == loaded["again"].data_ptr()
    loaded["first"][0] = 7
    assert loaded["again"][0] == 7
    assert size < 50_000


def test_tied_arrays_stay_tied():
    array = np.arange(3.0)

    loaded = there_and_back({"a": array, "b": array})
    loaded["a"][0] = 7

    assert loaded["b"][0] == 7


def test_equal_tensors_that_are_not_tied_stay_apart():
    loaded = there_and_back({"a": torch.ones(3), "b": torch.ones(3)})
    loaded["a"][0] = 7

    assert loaded["b"].tolist() == [1, 1, 1]


def test_two_views_of_one_memory_are_tied_only_where_they_are_the_same_view():
    base = torch.arange(4.0)

    loaded = there_and_back({"all": base, "half": base[:2], "square": base.reshape(2, 2), "back": base.reshape(2, 2).T})

    assert {name: value.tolist() for name, value in loaded.items()} == {
        "all": [0, 1, 2, 3],
        "half": [0, 1],
        "square": [[0, 1], [2, 3]],
        "back": [[0, 2], [1, 3]],
    }


def test_a_conjugate_is_not_tied_to_what_it_is_a_view_of():
    value = torch.tensor([1 + 2j])

    loaded = there_and_back({"z": value, "conjugate": value.conj()})

    assert loaded["z"].tolist() == [1 + 2j]
    assert loaded["conjugate"].tolist() == [1 - 2j]


def test_one_memory_read_in_two_byte_orders_is_two_arrays():
    little = np.array([1, 256], dtype="<i4")

    loaded = there_and_back({"little": little, "big": little.view(">i4")})

    assert loaded["little"].tolist() == [1, 256]
    assert loaded["big"].tolist() == [1 << 24, 1 << 16]


def test_a_tensor_over_an_arrays_memory_comes_back_a_tensor():
    array = np.arange(3, dtype=np.uint8)

    loaded = there_and_back({"array": array, "tensor": torch.from_numpy(array)})

    assert [type(value) for value in loaded.values()] == [np.ndarray, torch.Tensor]


def test_what_is_not_contiguous_arrives_contiguous():
    loaded = there_and_back({"t": torch.arange(6).reshape(2, 3).T, "a": np.arange(6).reshape(2, 3).T})

    assert loaded["t"].is_contiguous()
    assert loaded["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert loaded["a"].flags.c_contiguous
    assert loaded["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_parameter_that_needs_gradients_travels_without_them():
    loaded = there_and_back({"w": torch.nn.Parameter(torch.ones(2))})

    assert loaded["w"].tolist() == [1, 1]
    assert not loaded["w"].requires_grad


def test_numpys_scalars_and_plain_numbers_come_back_as_what_they_were():
    params = {
        "scalar": np.float32(0.1),
        "flag": np.True_,
        "int": 2**63 - 1,
        "float": 0.1,
        "bool": True,
        "0d": np.array(3),
    }

    loaded = there_and_back(params)

    assert {name: type(value) for name, value in loaded.items()} == {n: type(v) for n, v in params.items()}
    assert loaded == params


def test_what_is_loaded_is_private_to_who_loaded_it():
    with TensorFile.write({"t": torch.zeros(3), "a": np.zeros(3)}) as file:
        mine, theirs = file.load(), file.load()
        mine["t"] += 1
        mine["a"] += 1
        later = file.load()

    for other in (theirs, later):
        assert other["t"].tolist() == [0, 0, 0]
        assert other["a"].tolist() == [0, 0, 0]


def test_what_was_loaded_lives_on_when_its_file_is_closed():
    file = TensorFile.write({"t": torch.arange(3.0)})
    loaded = file.load()
    file.close()

    assert loaded["t"].tolist() == [0, 1, 2]


def test_closing_twice_is_fine():
    file = TensorFile.write({"t": torch.zeros(1)})

    file.close()
    file.close()


def test_no_params_are_a_file_too():
    with TensorFile.write({}) as file:
        assert file.load() == {}
        assert dict(file.entries) == {}


def test_a_written_file_cannot_be_changed_by_whoever_has_its_descriptor():
    with TensorFile.write({"t": torch.zeros(3)}) as file:
        for change in (
            lambda: os.write(file.fileno(), b"x"),
            lambda: os.pwrite(file.fileno(), b"x", 0),
            lambda: os.ftruncate(file.fileno(), 1),
            lambda: os.ftruncate(file.fileno(), 1 << 20),
        ):
            with pytest.raises(PermissionError):
                change()


def test_a_memfd_that_nobody_sealed_is_refused():
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    with TensorFile.write({"w": torch.ones(2)}) as good:
        os.write(fd, os.pread(good.fileno(), good.size, 0))

    with pytest.raises(TensorError, match="sealed"):
        TensorFile(fd)


def test_an_unsealed_file_with_a_name_is_refused_and_closed(tmp_path):
    path = tmp_path / "open.safetensors"
    tensor_file.save(path, {"t": torch.zeros(3)})
    fd = os.open(path, os.O_RDONLY)

    with pytest.raises(TensorError, match="sealed"):
        TensorFile(fd)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("left", [0, 5, 200, -1])
def test_a_file_on_disk_that_shrinks_once_it_was_received_is_an_error(left, tmp_path):
    fd = on_disk(tmp_path, {"w": torch.ones(5000)})

    with TensorFile(fd) as file:
        assert list(file.entries) == ["w"]
        os.ftruncate(fd, left if left >= 0 else file.size - 1)
        with pytest.raises(TensorError, match="are missing"):
            file.load()


def test_what_was_loaded_from_a_received_file_on_disk_stays_whatever_its_sender_does(tmp_path):
    fd = on_disk(tmp_path, {"t": torch.arange(3.0), "n": 5})

    with TensorFile(fd) as file, file.twin() as twin:
        loaded, again = file.load(), twin.load()
        os.pwrite(fd, bytes(file.size), 0)
        os.ftruncate(fd, 0)

    assert loaded["t"].tolist() == again["t"].tolist() == [0, 1, 2]
    assert loaded["n"] == 5


def test_a_received_file_that_shrinks_has_no_copy_on_disk_and_nobody_waits_for_one(tmp_path):
    fd = on_disk(tmp_path, {"w": torch.ones(5000)})

    with TensorFile(fd) as file:
        os.ftruncate(fd, 300)
        assert file.on_disk(tmp_path) is None

    assert list(tmp_path.iterdir()) == []


def test_files_of_ones_own_and_of_who_is_trusted_are_mapped_without_a_copy(tmp_path, monkeypatch):
    tensor_file.save(tmp_path / "named", {"w": torch.ones(3)})
    written = TensorFile.write({"w": torch.ones(3)})
    kept = [
        written,
        written.on_disk(tmp_path),
        written.on_disk(tmp_path).twin(),
        TensorFile.open(tmp_path / "named"),
        TensorFile(on_disk(tmp_path, {"w": torch.ones(3)}), trusted=True),
        TensorFile(os.dup(written.fileno())),
    ]
    mapped, mmap = [], tensor_file.mmap.mmap
    monkeypatch.setattr(tensor_file.mmap, "mmap", lambda fd, *args, **how: mapped.append(fd) or mmap(fd, *args, **how))

    for file in kept:
        assert file.load()["w"].tolist() == [1, 1, 1]

    assert mapped == [file.fileno() for file in kept]
    for file in kept:
        file.close()


def test_a_received_file_on_disk_that_is_larger_than_free_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file.machine, "free_memory", lambda: 1 << 20)

    with pytest.raises(TensorError, match="does not fit into memory"):
        TensorFile(on_disk(tmp_path, {"w": torch.ones(1 << 19)}))


def test_a_memfd_that_cannot_be_sealed_any_more_is_copied():
    fd = os.memfd_create("test", 0)
    with TensorFile.write({"w": torch.ones(2)}) as good:
        os.write(fd, os.pread(good.fileno(), good.size, 0))

    with TensorFile(fd) as file:
        loaded = file.load()
        os.ftruncate(fd, 0)

    assert loaded["w"].tolist() == [1, 1]


def test_a_sealed_file_with_holes_is_refused():
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, file_bytes({"w": entry("U8", [1 << 38], 0, 1 << 38)}, 0))
    os.ftruncate(fd, 1 << 39)
    tensor_file._seal(fd)

    with pytest.raises(TensorError, match="holes"):
        TensorFile(fd)


def opened_otherwise(how):
    """A sealed file by another descriptor, opened while it could be."""
    with TensorFile.write({"w": torch.ones(2)}) as good:
        fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.write(fd, os.pread(good.fileno(), good.size, 0))
    other = os.open(f"/proc/self/fd/{fd}", how)
    tensor_file._seal(fd)
    os.close(fd)
    return other


def folder_that_is_gone():
    folder = tempfile.mkdtemp()
    fd = os.open(folder, os.O_RDONLY)
    Path(folder).rmdir()
    return fd


def fifo_without_a_name():
    folder = tempfile.mkdtemp()
    os.mkfifo(f"{folder}/fifo")
    fd = os.open(f"{folder}/fifo", os.O_RDWR)
    shutil.rmtree(folder)
    return fd


NO_FILES = {
    "a folder that is gone": folder_that_is_gone,
    "a fifo without a name": fifo_without_a_name,
    "a file to write only": lambda: opened_otherwise(os.O_WRONLY),
    "a path alone": lambda: opened_otherwise(os.O_PATH),
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "a pipe": lambda: os.pipe()[0],
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_cannot_be_read_is_an_error(case):
    fd = NO_FILES[case]()

    with pytest.raises(TensorError), TensorFile(fd) as file:
        file.load()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_entries_tell_every_key_its_dtype_and_shape_without_loading():
    weight = torch.zeros(2, 3)
    with TensorFile.write({"b": weight, "a": torch.zeros((), dtype=torch.bfloat16), "tied": weight}) as file:
        told = {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()}

    assert list(told.items()) == [("b", ("F32", (2, 3))), ("a", ("BF16", ())), ("tied", ("F32", (2, 3)))]


def test_a_copy_on_disk_has_the_same_content_and_no_name(tmp_path):
    params = {"b": torch.arange(5.0), "a": np.float16(3), "n": 7}
    file = TensorFile.write(params)
    before = os.pread(file.fileno(), file.size, 0)

    with file, file.on_disk(tmp_path) as moved:
        assert os.pread(moved.fileno(), moved.size, 0) == before
        assert {name: bits(value) for name, value in moved.load().items()} == {n: bits(v) for n, v in params.items()}
        assert os.fstat(moved.fileno()).st_nlink == 0
        assert os.fstat(moved.fileno()).st_dev == tmp_path.stat().st_dev

    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_stopped_is_none_and_leaves_nothing(tmp_path):
    before = open_descriptors()
    with TensorFile.write({"b": torch.arange(5.0)}) as file:
        assert file.on_disk(tmp_path, stop=lambda: True) is None

    assert list(tmp_path.iterdir()) == []
    assert open_descriptors() == before


def test_a_twin_lives_on_when_the_first_is_closed():
    file = TensorFile.write({"b": torch.arange(5.0)})
    with file.twin() as twin:
        file.close()
        assert twin.load()["b"].tolist() == [0, 1, 2, 3, 4]


def test_where_memory_is_short_a_file_is_written_to_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file.machine, "free_memory", lambda: 1 << 20)

    with TensorFile.write({"t": torch.ones((64 << 18) + 1)}, scratch=tmp_path) as file:
        assert os.fstat(file.fileno()).st_dev == tmp_path.stat().st_dev
        assert file.load()["t"].sum() == (64 << 18) + 1

    assert list(tmp_path.iterdir()) == []


def test_a_descriptor_of_a_file_does_not_reach_a_program_that_is_started():
    with TensorFile.write({"t": torch.zeros(1)}) as file:
        assert fcntl.fcntl(file.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


# safetensors' own library


def test_safetensors_own_library_reads_what_we_write(tmp_path):
    path = tmp_path / "ours.safetensors"
    tensor_file.save(path, {"b": torch.arange(3.0), "half": torch.ones(2, dtype=torch.bfloat16), "i": np.int64(5)})

    read = safetensors.torch.load_file(path)

    assert {name: value.tolist() for name, value in read.items()} == {"b": [0, 1, 2], "half": [1, 1], "i": 5}
    assert read["half"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [dtype for dtype in TORCH_DTYPES if dtype != torch.complex128], ids=str)
def test_a_file_of_safetensors_own_library_is_read(tmp_path, dtype):
    path = tmp_path / "theirs.safetensors"
    written = {"z": torch.ones(3).to(dtype), "odd": torch.ones(1, dtype=torch.uint8), "a": torch.zeros(2, 0).to(dtype)}
    safetensors.torch.save_file(written, path, metadata={"format": "pt"})

    with TensorFile.open(path) as file:
        read = file.load()

    assert {name: bits(value) for name, value in read.items()} == {name: bits(value) for name, value in written.items()}


# what cannot travel


class Odd:
    """Nothing a model is made of."""


BAD = {
    "half a letter": ({"w": "\ud800"}, "'w'.*ud800"),
    "bytes that can change": ({"w": bytearray(b"x")}, "'w'.*bytearray"),
    "none": ({"w": None}, "'w'.*NoneType"),
    "a list": ({"ok": 1, "w": [1.0]}, "'w'.*list"),
    "a set": ({"w": {1}}, "'w'.*set"),
    "an object": ({"w": Odd()}, "'w'.*Odd"),
    "an object array": ({"w": np.array([{}], dtype=object)}, "'w'.*object"),
    "texts in an array": ({"w": np.array(["x"])}, "'w'.*<U1"),
    "a numpy text": ({"w": np.str_("x")}, "'w'.*<U1"),
    "times": ({"w": np.array(["2020"], dtype="datetime64[D]")}, "'w'.*datetime64"),
    "long doubles": ({"w": np.zeros(1, np.longdouble)}, "'w'.*(float128|longdouble)"),
    "a complex number": ({"w": 1j}, "'w'.*complex"),
    "a sparse tensor": ({"w": torch.eye(2).to_sparse()}, "'w'.*sparse_coo"),
    "a tensor without data": ({"w": torch.zeros(1, device="meta")}, "'w'.*meta"),
    "an unusual dtype": ({"w": torch.zeros(1).to(torch.float8_e5m2fnuz)}, "'w'.*float8_e5m2fnuz"),
    "a number as a key": ({5: torch.zeros(1)}, "5.*int"),
    "a tuple as a key": ({("a", 1): torch.zeros(1)}, "tuple"),
    "half a letter as a key": ({"\ud800": 1}, "ud800"),
    "an int beyond 64 bits": ({"w": 2**63}, "'w'.*64 bits"),
    "a reserved key": ({"\0w": torch.zeros(1)}, "reserved"),
    "safetensors' own word": ({"__metadata__": torch.zeros(1)}, "__metadata__"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_travel_is_an_error_naming_key_and_type(case, tmp_path):
    params, names = BAD[case]
    before = open_descriptors()

    with pytest.raises(TensorError, match=names):
        TensorFile.write(params)
    with pytest.raises(TensorError, match=names):
        tensor_file.save(tmp_path / "x", params)
    with pytest.raises(TensorError, match=names):
        tensor_file.digest(params)

    assert open_descriptors() == before
    assert list(tmp_path.iterdir()) == []


def test_numpys_lack_of_a_dtype_shows_in_a_file_that_claims_it(tmp_path):
    with pytest.raises(TensorError, match="numpy has no dtype BF16"):
        load_bytes(tmp_path, file_bytes({"w": entry("BF16", [1], 0, 2)}, 2, order=["w"], kinds={"w": "numpy"}))


# broken files


def on_disk(folder, params):
    """The descriptor of a file as a client sends it where memory is short: nobody can seal it."""
    with TensorFile.write(params) as file, file.on_disk(folder) as moved:
        return os.dup(moved.fileno())


def entry(dtype, shape, first, last):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def file_bytes(entries, room, **extra):
    header = dict(entries)
    if extra:
        header["__metadata__"] = {"fedsag": json.dumps(extra)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(room)


def load_bytes(folder, data):
    path = folder / "given"
    path.write_bytes(data)
    with TensorFile.open(path) as file:
        return file.load()


BROKEN = {
    "nothing": b"",
    "five bytes": b"\x05\0\0\0\0",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "a header of 2^63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "a header of no bytes": struct.pack("<Q", 0) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"nope",
    "a list": struct.pack("<Q", 2) + b"[]",
    "no UTF-8": struct.pack("<Q", 6) + b'{"\xff":1}'[:6],
    "a nest without an end": struct.pack("<Q", 200_005) + b'{"a":' + b"[" * 200_000,
    "a nest with an end": struct.pack("<Q", 200_006) + b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an unknown dtype": file_bytes({"w": entry("F4", [1], 0, 1)}, 1),
    "a tensor beyond the end": file_bytes({"w": entry("F32", [2], 0, 8)}, 4),
    "a tensor that ends before it begins": file_bytes({"w": entry("F32", [1], 8, 4)}, 16),
    "a tensor before the beginning": file_bytes({"w": entry("F32", [1], -4, 0)}, 16),
    "too few bytes for the shape": file_bytes({"w": entry("F32", [3], 0, 8)}, 8),
    "a negative shape": file_bytes({"w": entry("F32", [-1, -1], 0, 4)}, 4),
    "a shape of text": file_bytes({"w": entry("F32", ["1"], 0, 4)}, 4),
    "an enormous empty tensor": file_bytes({"w": entry("F32", [0, 1 << 80], 0, 0)}, 4),
    "an enormous empty array": file_bytes(
        {"w": entry("F32", [0, 1 << 80], 0, 0)}, 4, order=["w"], kinds={"w": "numpy"}
    ),
    "an array of 100 axes": file_bytes({"w": entry("F32", [1] * 100, 0, 4)}, 4, order=["w"], kinds={"w": "numpy"}),
    "a number that is a row": file_bytes({"w": entry("F64", [2], 0, 16)}, 16, order=["w"], kinds={"w": "number"}),
    "an unknown kind": file_bytes({"w": entry("F64", [2], 0, 16)}, 16, order=["w"], kinds={"w": "pickle"}),
    "a key without a tensor": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=["w", "v"]),
    "a key twice": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=["w", "w"]),
    "a tie to nothing": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=["w", "v"], ties={"v": "u"}),
    "a tensor without a key": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=[]),
    "ties in a circle": file_bytes(
        {"w": entry("F32", [1], 0, 4), "v": entry("F32", [1], 4, 8)}, 8, order=["w", "v"], ties={"w": "v", "v": "w"}
    ),
    "a tie to a tie": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=["w", "v", "u"], ties={"v": "w", "u": "v"}),
    "tensors over each other": file_bytes({"w": entry("F32", [2], 0, 8), "v": entry("F32", [1], 4, 8)}, 8),
    "one tensor by two entries": file_bytes({"w": entry("F32", [2], 0, 8), "v": entry("F32", [2], 0, 8)}, 8),
    "a complex number": file_bytes({"w": entry("C64", [], 0, 8)}, 8, order=["w"], kinds={"w": "number"}),
    "an unknown kind of one number": file_bytes({"w": entry("F64", [], 0, 8)}, 8, order=["w"], kinds={"w": "pickle"}),
    "bytes of numbers": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=["w"], kinds={"w": "bytes"}),
    "a text in rows": file_bytes({"w": entry("U8", [2, 2], 0, 4)}, 4, order=["w"], kinds={"w": "text"}),
    "a text that is no UTF-8": file_bytes({"w": entry("U8", [1], 0, 1)}, 0, order=["w"], kinds={"w": "text"}) + b"\xff",
    "an order of numbers": file_bytes({"w": entry("F32", [1], 0, 4)}, 4, order=[1]),
    "metadata of numbers": struct.pack("<Q", 24) + b'{"__metadata__":{"a":1}}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error(case, tmp_path):
    with pytest.raises(TensorError):
        load_bytes(tmp_path, BROKEN[case])


def test_a_shape_of_a_million_axes_is_refused_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(TensorError, match="1000000 axes"):
        load_bytes(tmp_path, file_bytes({"w": entry("F32", [99] * 1_000_000, 0, 4)}, 4))

    assert time.monotonic() - began < 5


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_what_is_said_of_a_broken_file_is_short_however_long_its_words_are(size, tmp_path):
    for bad in ({"w" * size: entry("F32", [1], 0, 2)}, {"w": entry("F" * size, [1], 0, 2)}, {"w": "x" * size}):
        with pytest.raises(TensorError) as caught:
            load_bytes(tmp_path, file_bytes(bad, 4))
        assert len(caught.value.message) < 1000


def test_more_names_than_a_header_has_room_for_are_an_error_before_they_travel(monkeypatch):
    monkeypatch.setattr(layout, "_LARGEST_HEADER", 1000)

    with pytest.raises(TensorError, match="names of 50 values"):
        TensorFile.write({f"number {n}": n for n in range(50)})


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize(("dtype", "size"), [("C128", 16), ("F64", 8), ("F32", 4), ("I16", 2)])
def test_data_that_is_not_aligned_is_copied_to_where_it_is(dtype, size, kind, tmp_path):
    entries = {"odd": entry("U8", [1], 0, 1), "w": entry(dtype, [9], 1, 1 + 9 * size)}
    header = file_bytes(entries, 0, order=["odd", "w"], kinds={"w": kind})[8:]
    for padding in range(16):
        text = header + b" " * padding
        value = load_bytes(tmp_path, struct.pack("<Q", len(text)) + text + bytes(1 + 9 * size))["w"]
        address = value.data_ptr() if kind == "torch" else value.__array_interface__["data"][0]
        assert address % size == 0
        assert not value.any()


def test_every_truncation_of_a_file_is_an_error(tmp_path):
    tensor_file.save(tmp_path / "good", {"a": torch.arange(4.0), "b": np.arange(3, dtype=np.int8), "n": 5})
    good = (tmp_path / "good").read_bytes()

    for length in range(len(good)):
        with pytest.raises(TensorError):
            load_bytes(tmp_path, good[:length])


def test_a_mutated_header_is_an_error_or_another_file_but_never_a_crash(tmp_path):
    tied = torch.arange(4.0)
    tensor_file.save(
        tmp_path / "good", {"a": tied, "b": np.arange(3, dtype=np.int8), "n": 5, "z": tied, "e": torch.zeros(0)}
    )
    good = (tmp_path / "good").read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    chance, refused = random.Random(1), 0

    for _ in range(600):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(header)
            data[place] = chance.choice([chance.randrange(256), ord(chance.choice('0123456789[]{}",:-eUFI'))])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_bytes(tmp_path, bytes(data))
        except TensorError:
            refused += 1

    assert refused > 200


# files with a name


def test_a_saved_file_has_its_params_with_their_kinds(tmp_path):
    path = tmp_path / "model.safetensors"
    tensor_file.save(path, {"b": torch.ones(2), "a": 3})

    with TensorFile.open(path) as file:
        assert list(file.load().items())[1] == ("a", 3)


def test_a_failed_save_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    tensor_file.save(path, {"w": torch.zeros(2)})
    before = path.read_bytes()

    def full(fd, data):
        os.truncate(fd, 3)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsag_cli.params.layout._write_all", full)
    with pytest.raises(OSError, match="No space"):
        tensor_file.save(path, {"w": torch.ones(2)})

    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_was_loaded_from_a_file_stays_when_the_file_is_saved_anew(tmp_path):
    path = tmp_path / "model.safetensors"
    tensor_file.save(path, {"w": torch.zeros(2)})
    with TensorFile.open(path) as file:
        loaded = file.load()

    tensor_file.save(path, {"w": torch.ones(2)})

    assert loaded["w"].tolist() == [0, 0]


# the digest


def test_the_digest_depends_on_names_order_dtypes_shapes_and_bytes():
    base = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3], dtype=torch.int32)}
    others = [
        {"A": base["a"], "b": base["b"]},
        {"b": base["b"], "a": base["a"]},
        {"a": base["a"].reshape(2, 1), "b": base["b"]},
        {"a": base["a"], "b": base["b"].view(torch.float32)},
        {"a": torch.tensor([[1.0, 2.0000002]]), "b": base["b"]},
        {"a": torch.tensor([[1.0, 2.0]]).double(), "b": base["b"]},
        {"a": base["a"]},
        {},
    ]

    digests = [tensor_file.digest(base), *map(tensor_file.digest, others)]

    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


def test_the_same_bits_give_the_same_digest_however_they_lie_in_memory():
    square = torch.arange(6.0).reshape(2, 3)

    assert tensor_file.digest({"a": square.T}) == tensor_file.digest({"a": square.T.contiguous()})
    assert tensor_file.digest({"a": square}) == tensor_file.digest({"a": square.numpy()})


def test_the_digest_survives_the_journey():
    params = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.bfloat16), "c": np.arange(4)}

    assert tensor_file.digest(there_and_back(params)) == tensor_file.digest(params)


class FromGpu(torch.Tensor):
    """Counts how often its values are fetched from a device; what is fetched is a plain tensor."""

    fetched = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        made = super().__torch_function__(func, types, args, kwargs or {})
        if getattr(func, "__name__", "") != "cpu":
            return made
        cls.fetched += 1
        return made.as_subclass(torch.Tensor)


@pytest.mark.parametrize("as_difference", [False, True])
def test_an_update_leaves_the_gpu_once(monkeypatch, as_difference):
    monkeypatch.setattr(FromGpu, "fetched", 0)
    params = {name: torch.ones(3).as_subclass(FromGpu) for name in "ab"}

    there_and_back(difference(params, {name: torch.zeros(3) for name in "ab"}) if as_difference else params)

    assert FromGpu.fetched == 2


def test_writing_leaves_no_descriptor_behind():
    before = open_descriptors()

    for _ in range(20):
        there_and_back({"t": torch.zeros(1)})
    with contextlib.suppress(TensorError):
        TensorFile.write({"t": torch.zeros(1), "w": {1}})

    assert open_descriptors() == before


def test_the_same_bits_are_the_same_names_dtypes_shapes_and_bytes():
    one = {
        "w": np.array([1.0, np.nan], np.float32),
        "n": 3,
        "large": np.zeros((1 << 20) + 5, np.uint8),
        "none": np.zeros(0),
    }
    copy = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in one.items()}
    last = {**copy, "large": copy["large"].copy()}
    last["large"][-1] = 1

    assert tensor_file.same_bits(one, copy)
    for other in (
        last,
        {**copy, "n": 4},
        {**copy, "w": copy["w"].reshape(2, 1)},
        {**copy, "w": copy["w"].view(np.int32)},
        dict(reversed(copy.items())),
        {name: value for name, value in copy.items() if name != "n"},
    ):
        assert not tensor_file.same_bits(one, other)
