"""Where the settings are kept, and what applies where the home folder is missing or somebody else's."""

import os
import pwd

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.job.templates import settings


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A config file that names `shop`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "shop").mkdir()
    settings.set_templates_dir(tmp_path / "shop")
    return settings.config_file()


def test_a_user_whom_the_system_does_not_know_has_the_root_folder_as_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a KeyError, as of a container's user

    assert str(settings.config_file()) == "/.fedsag/config.conf"
    assert settings.templates_dir() is None


def test_a_file_in_the_home_folder_of_somebody_else_does_not_apply(stored, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: stored.stat().st_uid + 1)
    assert settings.templates_dir() == stored.parents[1] / "shop"

    monkeypatch.setattr(os, "access", lambda *_: False)

    assert settings.is_hidden(stored)
    assert settings.templates_dir() is None


def test_a_home_folder_that_nobody_else_may_enter_is_none(stored, monkeypatch):
    stat = type(stored).stat

    def refused(path, **how):
        if path == stored:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(type(stored), "stat", refused)

    assert settings.templates_dir() is None
    with pytest.raises(JobError, match=r"config\.conf belongs to another user and cannot be read"):
        settings.set_templates_dir(stored.parent)


def test_ones_own_file_that_cannot_be_read_is_an_error(stored, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert not settings.is_hidden(stored)


def test_settings_that_cannot_be_written_are_an_error_with_another_way(stored, monkeypatch):
    monkeypatch.setenv("HOME", "/proc")

    with pytest.raises(JobError, match="cannot be written") as caught:
        settings.set_templates_dir(stored.parent)

    assert "-d" in caught.value.hint
