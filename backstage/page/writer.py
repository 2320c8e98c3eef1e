"""The page that lesson 4 writes: it reads what is drawn, says why, and can learn."""

import base64
import hashlib
import json
import os
import re
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from backstage.data.batches import ImageDataset
from backstage.files import atomic_path

FOLDER = Path(__file__).parent

# More neurons than this cannot be told apart on a screen.
MOST_NEURONS = 128

# Examples of each set that the page carries: of the test set, to see what teaching
# costs; of the training set, to rehearse with. They take 200 KB, compressed.
STORED = 500

CREDITS = {
    "MNIST": "The stored digits are from MNIST by Yann LeCun, Corinna Cortes and "
    "Christopher Burges (CC BY-SA 3.0).",
    "synthetic": "The stored digits were drawn by Deep Learning Basics (MIT licence).",
}


def write_network_page(
    path: str | os.PathLike,
    model: nn.Module,
    layers: tuple[nn.Linear, nn.Linear],
    train_set: ImageDataset,
    test_set: ImageDataset,
) -> None:
    """Write a page on which a network reads what is drawn, shows why, and can learn.

    The file needs nothing else: any browser opens it, without internet. Its JavaScript
    computes the forward pass anew from the weights, and compares its logits with those
    of `model`. If they differ, the page says so.

    Args:
        path: the file to write.
        model: a network in evaluation mode that computes fc2(relu(fc1(pixels))).
        layers: its fc1, of 784 inputs, and its fc2, of 10 outputs.
        train_set: what it was trained on.
        test_set: what it is tested on. The lowest value among its images must be
            paper, and the highest full ink.

    Raises:
        UserError: the file cannot be written.
    """
    images, labels = test_set.tensors
    with torch.inference_mode():
        logits = model(images.to(next(model.parameters()).device)).cpu()
    named = logits[:, : len(test_set.classes)].softmax(dim=1)
    confidences, predictions = named.max(dim=1)
    wrong = (predictions != labels).nonzero().flatten()
    surest = wrong[confidences[wrong].argsort(descending=True)[:10]]
    accuracy = 100 * (1 - len(wrong) / len(images))

    # normalize() made values of 0 and 1 into these two.
    paper, ink = images.min().item(), images.max().item()
    tested = torch.cat([_spread(len(images)), surest])
    rehearsed = _spread(len(train_set))
    pixels = torch.cat([images[tested], train_set.tensors[0][rehearsed]])
    greys = (255 * (pixels - paper) / (ink - paper)).round().to(torch.uint8)

    fc1, fc2 = layers
    # Of very many neurons show those that can do most: large weights in and out.
    strengths = fc1.weight.detach().norm(dim=1) * fc2.weight.detach().norm(dim=0)
    shown = strengths.topk(min(MOST_NEURONS, len(strengths))).indices.sort().values
    parameters = sum(
        tensor.numel() for layer in layers for tensor in layer.parameters()
    )
    data = {
        "about": (
            f"784 pixels, {len(strengths):,} neurons, {len(test_set.classes)} digits, "
            f"and {parameters:,} learned numbers. Of {len(images):,} {test_set.name} "
            f"test digits, it reads {accuracy:.2f}% right."
        ),
        "credit": CREDITS.get(test_set.name, ""),
        "classes": test_set.classes,
        "layers": [
            {
                "weight": [_encode(row) for row in layer.weight],
                "bias": _encode(layer.bias),
            }
            for layer in layers
        ],
        "paper": paper,
        "ink": ink,
        "shown": shown.tolist(),
        "examples": {
            "test": len(tested) - len(surest),
            "mistakes": len(surest),
            "images": _base64(zlib.compress(greys.numpy().tobytes(), 9)),
            "labels": [
                *labels[tested].tolist(),
                *train_set.tensors[1][rehearsed].tolist(),
            ],
            "logits": _encode(logits[tested]),
        },
    }
    page = _join_parts(data)
    with atomic_path(path) as temporary_path:
        temporary_path.write_text(page, encoding="utf-8", newline="\n")


def _spread(length: int) -> Tensor:
    """Return up to STORED positions, evenly spread over a data set."""
    number = min(STORED, length)
    return torch.arange(number) * length // number


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _encode(numbers: Tensor) -> str:
    return _base64(numbers.detach().cpu().numpy().astype("<f4").tobytes())


def _join_parts(data: dict[str, object]) -> str:
    """Put parts and data in, and a policy that allows these parts, and no more."""
    allowed = {"script": [], "style": []}

    def put_in(match: re.Match) -> str:
        content = (FOLDER / (match["script"] or match["style"])).read_text("utf-8")
        tag = "script" if match["script"] else "style"
        digest = _base64(hashlib.sha256(content.encode()).digest())
        allowed[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    page = (FOLDER / "page.html").read_text("utf-8")
    page = re.sub(
        r'<script src="(?P<script>[^"]+)"></script>'
        r'|<link rel="stylesheet" href="(?P<style>[^"]+)">',
        put_in,
        page,
    )
    policy = (
        f"default-src 'none'; script-src {' '.join(allowed['script'])}; "
        f"style-src {' '.join(allowed['style'])}; base-uri 'none'; form-action 'none'"
    )
    # No text in the data, such as "</script>", may end the element that holds them.
    text = json.dumps(data).replace("<", "\\u003c")
    return page.replace("@@POLICY@@", policy).replace("@@DATA@@", text)
