"""The file of a pack: the same contents give the same bytes, and a stranger's file does no harm."""

import json
import re
import stat
import zipfile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import UsageError
from fedsag_cli.simulator.packs import PACK, Pack, Settings, zipped

PACKED = Pack(
    job="j",
    folder="j",
    plan="p",
    settings=Settings(clients=["site-1"], seed=1, slots=1, threads=1, launcher="fork"),
    versions={},
    status="finished",
    rounds=1,
)


def written(path, files, *, programs=(), pack=None):
    """A pack with these files by name; `pack`: what its pack.json says instead."""
    with path.open("wb") as opened, zipped.Writer(opened) as writer:
        for name, data in files.items():
            writer.add(name, [data], is_program=name in programs)
        said = msgspec.to_builtins(msgspec.structs.replace(PACKED, files=writer.files)) | (pack or {})
        writer.add(PACK, [json.dumps(said).encode()])
    return path


def refused(path, folder):
    with pytest.raises(UsageError) as error:
        zipped.unpack(path, folder)
    return str(error.value)


def test_the_same_contents_give_the_same_bytes(tmp_path):
    files = {"job/j/train.py": b"print()", "digests.jsonl": b"{}\n" * 1000}

    first = written(tmp_path / "a", files).read_bytes()

    assert written(tmp_path / "b", files).read_bytes() == first
    assert written(tmp_path / "c", {**files, "digests.jsonl": b"{}"}).read_bytes() != first


def test_files_come_out_as_they_went_in_and_a_program_can_still_be_started(tmp_path):
    files = {"job/j/app/custom/run.sh": b"#!/bin/sh\n", "job/j/ä b": b"\0" * 3_000_000, "empty": b""}

    pack = zipped.unpack(written(tmp_path / "p", files, programs=["job/j/app/custom/run.sh"]), tmp_path / "out")

    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    assert pack.files.keys() == files.keys()
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) & 0o111 for name in files}
    assert modes == {"job/j/app/custom/run.sh": 0o111, "job/j/ä b": 0, "empty": 0}


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a//b", "./a", "a\\b", "../a/", "a//"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    path = written(tmp_path / "p", {"good": b""})
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"evil")

    assert f"{name!r} leads out of the folder" in refused(path, tmp_path / "in" / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_a_second_file_of_a_name_and_an_encrypted_file_are_refused(tmp_path):
    link = written(tmp_path / "link", {})
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(link, "a") as opened:
        opened.writestr(entry, "/etc/passwd")
    full = written(tmp_path / "full", {})
    with zipfile.ZipFile(full, "a") as opened:
        opened.writestr("folder/", "with data")
    twice = written(tmp_path / "twice", {"a": b"1"})
    with zipfile.ZipFile(twice, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("a", b"2")
    data = bytearray(written(tmp_path / "p", {"a": b"1"}).read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 8] |= 1
    (tmp_path / "encrypted").write_bytes(data)

    assert "'link' is not a regular file" in refused(link, tmp_path / "out")
    assert "'folder/' is not a regular file" in refused(full, tmp_path / "out")
    assert "'a' is twice in it" in refused(twice, tmp_path / "out")
    assert "'a' is encrypted" in refused(tmp_path / "encrypted", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pack_that_is_larger_than_packs_are_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    path = written(tmp_path / "p", {"a": bytes(20_000), "b": bytes(20_000)})
    monkeypatch.setattr(zipped, "_MOST_OF_PACK", 2_000)
    monkeypatch.setattr(zipped, "MOST_BYTES", 30_000)

    assert "is too large: 3 files" in refused(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="together, with b"):
        written(tmp_path / "q", {"a": bytes(20_000), "b": bytes(20_000)})
    monkeypatch.setattr(zipped, "MOST_FILES", 1)
    with pytest.raises(UsageError, match="more than 1 files"):
        written(tmp_path / "q", {"a": b"", "b": b""})


def test_a_pack_of_a_newer_version_says_so(tmp_path):
    path = written(tmp_path / "p", {}, pack={"format": 2, "settings": "of another form"})

    assert refused(path, tmp_path / "out") == (
        f"{path} is a pack of a newer version of fedsag: its format is 2, this version reads 1 "
        "(verify it with a newer version of fedsag)"
    )


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        ({"files": {"a": "0" * 64}}, "a has changed since it was packed"),
        ({"files": {}}, "pack.json does not name a"),
        ({"files": {"a": "0" * 64, "b": "0" * 64}}, "b is missing"),
        ({"settings": {}}, "pack.json is not what fedsag wrote"),
        ({"format": "one"}, "pack.json is not what fedsag wrote"),
    ],
)
def test_a_pack_that_was_changed_names_the_file(tmp_path, pack, said):
    assert said in refused(written(tmp_path / "p", {"a": b"1"}, pack=pack), tmp_path / "out")


def test_what_is_no_pack_says_so(tmp_path):
    (tmp_path / "text").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip", "w") as opened:
        opened.writestr("a", b"1")
    whole = written(tmp_path / "p", {"a": bytes(range(256)) * 100}).read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])

    for name in ("text", "half"):
        assert re.match(rf".*/{name} is not a pack, or it is broken", refused(tmp_path / name, tmp_path / "out"))
    assert "zip is not a pack: it has no pack.json" in refused(tmp_path / "zip", tmp_path / "out")
    assert [zipped.is_pack(tmp_path / name) for name in ("text", "zip", "p", "nowhere")] == [False, False, True, False]


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_pack_with_any_byte_changed_is_refused_or_has_the_same_files(tmp_path_factory, at, value):
    folder = tmp_path_factory.mktemp("p")
    path = written(folder / "p", {"a": b"1" * 100, "b/c": b"2"})
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)

    try:
        zipped.unpack(path, folder / "out")
    except UsageError:
        return
    assert (folder / "out" / "a").read_bytes() == b"1" * 100
    assert (folder / "out" / "b" / "c").read_bytes() == b"2"
