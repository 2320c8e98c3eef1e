"""A GPU that is listed, and whether it works."""

import warnings

import torch

from backstage.terminal import print_wrapped


def gpu_works() -> bool:
    """Tell whether PyTorch can compute on an NVIDIA GPU.

    Where one is found in vain, because the card or its driver is too old for this
    PyTorch, one line says why.
    """
    with warnings.catch_warnings(record=True) as reasons:  # an old driver: a warning
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                ones = torch.ones(2, 2, device="cuda")
                (ones @ ones).sum().item()
                return True
        except RuntimeError as error:
            reasons.append(error)
    if reasons:
        reason = str(getattr(reasons[-1], "message", reasons[-1])).split("\n")[0]
        print_wrapped(f"A GPU was found but does not work ({reason}). Using the CPU.")
    return False
