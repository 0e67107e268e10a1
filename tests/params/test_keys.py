"""What is said of keys that the model does not have."""

import pytest

from fedsag_cli.params.keys import unknown_keys

KNOWN = ["backbone.weight", "backbone.bias", "model.head.weight", "q.lora_A.weight"]


@pytest.mark.parametrize(
    ("unknown", "near", "wrapper"),
    [
        ("backbone.module.weight", "backbone.weight", "DataParallel and DDP"),
        ("module.backbone.weight", "backbone.weight", "DataParallel and DDP"),
        ("_orig_mod.backbone.weight", "backbone.weight", "torch.compile"),
        ("base_model.model.backbone.weight", "backbone.weight", "PEFT"),
        ("q.lora_A.default.weight", "q.lora_A.weight", "PEFT"),
        ("model.backbone.weight", "backbone.weight", "LightningModule"),
        ("model.model.head.weight", "model.head.weight", "LightningModule"),
        ("_fsdp_wrapped_module.backbone.weight", "backbone.weight", "FSDP"),
    ],
)
def test_a_key_that_a_wrapper_renamed_is_told_with_the_known_one_and_the_wrapper(unknown, near, wrapper):
    error = unknown_keys(["zzz", unknown], KNOWN)

    assert error.message == f"params: {unknown!r} and 1 more were not in the model that was sent, which has {near!r}"
    assert wrapper in error.hint
    assert "send the names of the module inside" in error.hint


def test_several_wrappers_are_all_told():
    error = unknown_keys(["module._orig_mod.backbone.weight"], KNOWN)

    assert "which has 'backbone.weight'" in error.message
    assert "DDP" in error.hint
    assert "torch.compile" in error.hint


def test_a_model_of_the_server_that_is_wrapped_itself_is_told():
    error = unknown_keys(["backbone.weight"], ["module.backbone.weight"])

    assert "which has 'module.backbone.weight'" in error.message
    assert error.hint.startswith("the server's model has wrapped names: DataParallel")


def test_a_misspelt_key_is_told_with_the_nearest_one():
    error = unknown_keys(["bakbone.weight"], KNOWN)

    assert error.message == "params: 'bakbone.weight' was not in the model that was sent, which has 'backbone.weight'"
    assert "allow_unknown_keys" in error.hint


def test_a_key_like_none_is_told_alone():
    assert unknown_keys(["zzz"], KNOWN).message == "params: 'zzz' was not in the model that was sent"
