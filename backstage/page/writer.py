"""The page that lesson 4 writes: it reads what is drawn, and can be looked into."""

import base64
import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from backstage.data.batches import ImageDataset
from backstage.files import atomic_path

TEMPLATE_PATH = Path(__file__).with_name("page.html")

# More neurons than this cannot be told apart on a screen.
MOST_NEURONS = 128


def write_network_page(
    path: str | os.PathLike,
    model: nn.Module,
    layers: tuple[nn.Linear, nn.Linear],
    train_set: ImageDataset,
    test_set: ImageDataset,
) -> None:
    """Write a page on which a SimpleNN reads what is drawn and shows why.

    The file needs nothing else: any browser opens it, without internet. Its JavaScript
    computes the forward pass anew from the weights, and compares its logits with those
    of `model`. If SimpleNN's forward() was changed, the page says that they differ.

    Args:
        path: the file to write.
        model: a SimpleNN in evaluation mode, on any device.
        images: the test images, float32 [N, 1, 28, 28], normalized, at least ten. The
            lowest value among them must be paper, and the highest full ink.
        labels: their digits, int64 [N].
        dataset_name: where they come from, such as "MNIST".

    Raises:
        UserError: the file cannot be written, or the network has other layers.
    """
    (images, labels), dataset_name = test_set.tensors, test_set.name
    weights = {
        f"{name}.{part}": getattr(layer, part).detach().cpu()
        for name, layer in zip(("fc1", "fc2"), layers, strict=True)
        for part in ("weight", "bias")
    }
    hidden_size = len(weights["fc1.bias"])

    with torch.inference_mode():
        logits = model(images.to(next(model.parameters()).device)).cpu()
    confidences, predictions = logits.softmax(dim=1).max(dim=1)
    wrong = (predictions != labels).nonzero().flatten()
    surest = wrong[confidences[wrong].argsort(descending=True)[:10]]
    samples = torch.cat([torch.arange(10), surest])
    accuracy = 100 * (1 - len(wrong) / len(images))
    parameters = sum(tensor.numel() for tensor in weights.values())

    # Of very many neurons show those that can do most: large weights in and out.
    strengths = weights["fc1.weight"].norm(dim=1) * weights["fc2.weight"].norm(dim=0)
    shown = strengths.topk(min(MOST_NEURONS, hidden_size)).indices.sort().values

    # normalize() made values of 0 and 1 into these two.
    paper, ink = images.min().item(), images.max().item()
    pixels = (255 * (images[samples, 0] - paper) / (ink - paper)).round().int()
    data = {
        "about": (
            f"784 pixels, {hidden_size:,} neurons, 10 digits, and {parameters:,} "
            f"learned numbers. Of {len(images):,} {dataset_name} test digits, it reads "
            f"{accuracy:.2f}% right."
        ),
        "layers": [
            {
                "weight": [_encode(row) for row in weights[f"{layer}.weight"]],
                "bias": _encode(weights[f"{layer}.bias"]),
            }
            for layer in ("fc1", "fc2")
        ],
        "paper": paper,
        "ink": ink,
        "shown": shown.tolist(),
        "samples": [
            {"label": label, "image": image, "logits": row}
            for label, image, row in zip(
                labels[samples].tolist(),
                pixels.tolist(),
                logits[samples].tolist(),
                strict=True,
            )
        ],
    }
    page = _fill_template(TEMPLATE_PATH.read_text(encoding="utf-8"), data)
    with atomic_path(path) as temporary_path:
        temporary_path.write_text(page, encoding="utf-8", newline="\n")


def _encode(numbers: Tensor) -> str:
    return base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode()


def _fill_template(template: str, data: dict[str, object]) -> str:
    """Put the data in, and a policy that allows this script and style, and no more."""

    def fingerprint(tag: str) -> str:
        source = template.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = hashlib.sha256(source.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {fingerprint('script')}; "
        f"style-src {fingerprint('style')}; base-uri 'none'; form-action 'none'"
    )
    # No text in the data, such as "</script>", may end the element that holds them.
    text = json.dumps(data).replace("<", "\\u003c")
    return template.replace("@@POLICY@@", policy).replace("@@DATA@@", text)
