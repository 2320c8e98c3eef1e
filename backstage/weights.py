"""Files of weights: what is wrong with one, in one line."""

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator

import torch
from torch import nn

from backstage.files import check_can_read
from backstage.terminal import UserError

AGAIN = "run 03_train_mnist.py again"


@contextlib.contextmanager
def explain_weights(path: str | os.PathLike, model: nn.Module) -> Iterator[None]:
    """Turn what is wrong with a file of weights into one clear line.

        with explain_weights(path, model):
            model.load_state_dict(torch.load(path, weights_only=True))

    What the file cannot be blamed for, such as a misspelt argument, passes through.

    Raises:
        UserError: the file is missing, damaged, holds more than weights, or weights
            that do not fit the model; the message names the first difference.
    """
    _check_archive(path)
    try:
        yield
    except Exception:
        _check_weights(path, model)
        raise
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise UserError(f"{path} holds weights like nan or inf: train again")


def _check_archive(path: str | os.PathLike) -> None:
    """Find out whether torch.save wrote the file, and it is whole."""
    check_can_read(path, "run 03_train_mnist.py first")
    with open(path, "rb") as file:
        start = file.read(2)
    if not start:
        raise UserError(f"{path} is empty: {AGAIN}")
    if start[:1] == b"\x80":  # a bare pickle
        raise UserError(_more_than_weights(path))
    if start != b"PK":
        raise UserError(f"{path} was not written by torch.save: {AGAIN}")
    # torch.save writes a zip archive. It holds checksums, which torch.load ignores.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
            parts = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # zipfile raises many kinds on damaged files
        damaged = True
    if damaged:
        raise UserError(f"{path} is damaged or incomplete: {AGAIN}")
    # constants.pkl: a program for TorchScript, not weights.
    if not {"data.pkl", "version"} <= parts or "constants.pkl" in parts:
        raise UserError(f"{path} was not written by torch.save: {AGAIN}")


def _more_than_weights(path: str | os.PathLike) -> str:
    return (
        f"{path} holds more than weights, such as a whole model. Loading it could run "
        "code, so it is refused: save model.state_dict() instead"
    )


def _check_weights(path: str | os.PathLike, model: nn.Module) -> None:
    """Find out whether what the file holds are weights for this model."""
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_more_than_weights(path)) from error
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):
            raise
        raise UserError(f"{path} was not written by torch.save: {AGAIN}") from error
    if not isinstance(state_dict, dict) or not all(
        isinstance(value, torch.Tensor) for value in state_dict.values()
    ):
        raise UserError(
            f"{path} does not hold weights by name: it must be saved with "
            "torch.save(model.state_dict(), path)"
        )
    for prefix, wrapper in (("_orig_mod", "torch.compile"), ("module", "DataParallel")):
        if state_dict and all(name.startswith(f"{prefix}.") for name in state_dict):
            raise UserError(
                f"{path} holds the weights of a model inside {wrapper}, whose names "
                f"begin with {prefix}: save model.{prefix}.state_dict() instead"
            )
    expected = model.state_dict()
    same_class = f"make the class {type(model).__name__} here equal to that of lesson 3"
    for name in expected:
        if name not in state_dict:
            raise UserError(
                f"{path} has no {name}, which the model needs: {same_class}"
            )
    for name, tensor in state_dict.items():
        if name not in expected:
            raise UserError(f"{path} holds {name}, which the model lacks: {same_class}")
        in_file, in_model = list(tensor.shape), list(expected[name].shape)
        if in_file != in_model:
            cure = same_class
            if name == "fc1.weight" and in_file[1:] == in_model[1:]:
                cure = f"use --hidden-size {in_file[0]}, as in training"
            raise UserError(
                f"{path} holds weights of another size ({name} is {in_file} in the "
                f"file, {in_model} in the model): {cure}"
            )
