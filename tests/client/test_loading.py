"""A received model is loaded as torch loads it, and one that does not fit is told with its keys."""

import pytest
import torch

from fedsag_cli.client.loading import fitting, load
from fedsag_cli.errors import ClientError


def test_what_torch_accepts_is_accepted():
    state = dict(torch.nn.BatchNorm1d(2).state_dict())
    del state["num_batches_tracked"]  # torch fills it in for a dict without version
    norm, lazy = torch.nn.BatchNorm1d(2), torch.nn.LazyLinear(3)

    load(norm, {**state, "weight": [2.0, 3.0]}, strict=True)
    load(lazy, torch.nn.Linear(5, 3).state_dict(), strict=True)

    assert norm.weight.tolist() == [2.0, 3.0]
    assert lazy.weight.shape == (3, 5)


def test_a_model_that_does_not_fit_is_told_with_its_keys():
    with pytest.raises(ClientError, match="'weight' has shape \\[1, 5\\] in it and \\[1, 2\\] in Linear"):
        load(torch.nn.Linear(2, 1), torch.nn.Linear(5, 1).state_dict(), strict=True)
    with pytest.raises(ClientError, match="it has no 'weight', 'bias'; it has 'other', which Linear does not have"):
        load(torch.nn.Linear(2, 1), {"other": [1.0]}, strict=False)


def test_of_a_part_only_common_keys_are_taken_without_strict():
    own = {"a": torch.zeros(2), "b": torch.zeros(1)}

    assert fitting("part", own, {"a": [1.0, 2.0], "c": [3.0]}, strict=False).keys() == {"a"}
    with pytest.raises(ClientError, match="it has no 'b'"):
        fitting("part", own, {"a": [1.0, 2.0]}, strict=True)
