"""The thread that writes models: when it begins, and that all is written at the end."""

from pathlib import Path

import pytest

from fedsag_cli.model import FLModel
from fedsag_cli.workflows.run import Run
from fedsag_cli.workflows.writer import Writer


@pytest.fixture
def written():
    return []


@pytest.fixture
def save(written):
    def save(model):
        written.append(model.params["w"])
        return Path("/w/model.pt")

    return save


def model(number):
    return FLModel(params={"w": number})


def test_a_model_waits_until_the_clients_are_at_work(save, written):
    with Writer(Run(emit=lambda event: None)) as writer:
        writer.write(save, model(1))
        assert written == []
        writer.start()
        writer.start()

    assert written == [1]


def test_one_that_waits_is_written_before_the_next_and_the_last_one_at_the_end(save, written):
    with Writer(Run(emit=lambda event: None)) as writer:
        for number in range(4):
            writer.write(save, model(number))

    assert written == [0, 1, 2, 3]


def test_what_writing_raises_ends_the_run(written):
    def fails(model):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), Writer(Run(emit=lambda event: None)) as writer:
        writer.write(fails, model(1))
    assert written == []
