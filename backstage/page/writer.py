"""The page that lesson 4 writes: it reads or listens, says why, and can learn."""

import base64
import hashlib
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backstage.data.batches import ImageDataset
from backstage.data.datasets import RECORDINGS
from backstage.files import atomic_path

FOLDER = Path(__file__).parent

# More neurons than this cannot be told apart on a screen.
MOST_NEURONS = 128

# Examples that the page carries: of the test set, to see what teaching costs; of the
# training set, to rehearse with. Compressed they take 200 KB; recordings, whose images
# have fewer empty pixels, 250 KB.
STORED_DRAWINGS = (500, 500)
STORED_RECORDINGS = (300, 200)
MOST_SAMPLES = 60_000  # of sound, 120 KB; ten recordings have about 36,000

SPOKEN_CREDIT = (
    "The stored recordings are from the Free Spoken Digit Dataset by Zohar Jackson and "
    "the speakers (CC BY-SA 4.0)."
)
CREDITS = {
    **dict.fromkeys(RECORDINGS, SPOKEN_CREDIT),
    "MNIST": "The stored digits are from MNIST by Yann LeCun, Corinna Cortes and "
    "Christopher Burges (CC BY-SA 3.0).",
    "synthetic": "The stored digits were drawn by Deep Learning Basics (MIT licence).",
}

# What the page says of drawings, and of recordings.
DRAWING_WORDS = {
    "file": "my_digits.png",
    "accept": "image/png",
    "part": "sheet.js",
    "given": "drawing",
    "give": "draw",
    "tests": "test digits",
    "reads": "reads",
    "ink": "Ink",
    "blank": "Blank page",
    "start": "a blank page: the biases, and what the lit neurons make of bare paper",
    "nothing": "First draw a digit.",
    "waits": "It answers as soon as there is ink.",
    "right": "Draw on it: what changes?",
    "wrong": "Can you mend it with a stroke?",
    "limits": "It cannot say \u201cno digit\u201d: a heart gets an answer, too. A "
    "1 with a long flag is often taken for a 4, 7 or 9.",
}
SPEECH_WORDS = {
    "file": "my_voice.wav",
    "accept": "audio/*",
    "part": "voice.js",
    "given": "recording",
    "give": "say a digit",
    "tests": "test recordings",
    "reads": "hears",
    "ink": "Sound",
    "blank": "Silence",
    "start": "silence: the biases, and what the lit neurons make of it",
    "nothing": "First record a digit, or open a recording.",
    "waits": "It answers as soon as it hears a word.",
    "right": "Can you hear it, too?",
    "wrong": "Can you hear why?",
    "limits": "It cannot say \u201cnone of these\u201d: a cough gets an answer, too. "
    "It learned from men only, so other voices are often misheard.",
}


def write_network_page(
    path: str | os.PathLike,
    model: nn.Module,
    layers: tuple[nn.Linear, nn.Linear],
    train_set: ImageDataset,
    test_set: ImageDataset,
) -> None:
    """Write a page on which a network answers, shows why, and can learn.

    It takes what is drawn; or, if the test set was made of recordings, what is said.

    The file needs nothing else: any browser opens it, without internet. Its JavaScript
    computes the forward pass anew from the weights, and compares its logits with those
    of `model`, and the images that it makes of ten recordings with those of PyTorch.
    If they differ, the page says so.

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
    hears = test_set.recordings is not None
    tests, old = STORED_RECORDINGS if hears else STORED_DRAWINGS
    first = _spread(len(images), tests)
    if hears:
        # The first ten, which are shown, are the ten digits.
        digits = torch.tensor([recording.digit for recording in test_set.recordings])
        ten = torch.cat([(digits == digit).nonzero()[digit] for digit in range(10)])
        first = torch.cat([ten, first[~torch.isin(first, ten)]])
    tested = torch.cat([first, surest])
    rehearsed = _spread(len(train_set), old)
    pixels = torch.cat([images[tested], train_set.tensors[0][rehearsed]])
    greys = (255 * (pixels - paper) / (ink - paper)).round().to(torch.uint8)

    fc1, fc2 = layers
    # Of very many neurons show those that can do most: large weights in and out.
    strengths = fc1.weight.detach().norm(dim=1) * fc2.weight.detach().norm(dim=0)
    shown = strengths.topk(min(MOST_NEURONS, len(strengths))).indices.sort().values
    parameters = sum(
        tensor.numel() for layer in layers for tensor in layer.parameters()
    )
    kind = "digits" if len(test_set.classes) == 10 else "voices"
    if hears:
        tested_on = f"test {test_set.title}, it hears"
    else:
        tested_on = f"{test_set.name} test digits, it reads"
    data = {
        "about": (
            f"784 pixels, {len(strengths):,} neurons, {len(test_set.classes)} {kind}, "
            f"and {parameters:,} learned numbers. Of {len(images):,} {tested_on} "
            f"{accuracy:.2f}% right."
        ),
        "credit": CREDITS.get(test_set.name, ""),
        "classes": test_set.classes,
        "words": SPEECH_WORDS if hears else DRAWING_WORDS,
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
            "test": len(first),
            "mistakes": len(surest),
            "heard": 10 if hears else 0,
            "images": _compress(greys.numpy()),
            "labels": [
                *labels[tested].tolist(),
                *train_set.tensors[1][rehearsed].tolist(),
            ],
            "logits": _encode(logits[tested]),
        },
    }
    places, sounds = [], []
    if hears:
        # Those that can be chosen can be heard, too: the ten, and the mistakes, as far
        # as there is room.
        places = [*range(10), *range(len(first), len(tested))]
        sounds = [test_set.recordings[tested[place]].samples for place in places]
        while len(sounds) > 10 and sum(map(len, sounds)) > MOST_SAMPLES:
            sounds.pop()
    numbers = (torch.cat([torch.zeros(0), *sounds]) * 2**15).round()
    data["examples"]["sounds"] = {
        "places": places[: len(sounds)],
        "lengths": [len(sound) for sound in sounds],
        "samples": _compress(numbers.clamp(-(2**15), 2**15 - 1).numpy().astype("<i2")),
    }
    page = _join_parts(data, hears)
    with atomic_path(path) as temporary_path:
        temporary_path.write_text(page, encoding="utf-8", newline="\n")


def _spread(length: int, most: int) -> Tensor:
    """Return up to so many positions, evenly spread over a data set."""
    number = min(most, length)
    return torch.arange(number) * length // number


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _compress(numbers: np.ndarray) -> str:
    return _base64(zlib.compress(numbers.tobytes(), 9))


def _encode(numbers: Tensor) -> str:
    return _base64(numbers.detach().cpu().numpy().astype("<f4").tobytes())


def _join_parts(data: dict[str, object], hears: bool) -> str:
    """Put parts and data in, and a policy that allows these parts, and no more.

    What is between <!--reads--> and <!--hears--> in page.html is for networks that take
    drawings; from there to <!--end-->, for those that take recordings.
    """
    allowed = {"script": [], "style": []}

    def put_in(match: re.Match) -> str:
        content = (FOLDER / (match["script"] or match["style"])).read_text("utf-8")
        tag = "script" if match["script"] else "style"
        digest = _base64(hashlib.sha256(content.encode()).digest())
        allowed[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    page = (FOLDER / "page.html").read_text("utf-8")
    for_kind = r"<!--reads-->(.*?)<!--hears-->(.*?)<!--end-->"
    page = re.sub(for_kind, r"\2" if hears else r"\1", page, flags=re.DOTALL)
    for name, word in data["words"].items():
        page = page.replace(f"@@{name}@@", word)
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
    if hears:
        policy += "; media-src blob:"  # to play what the page itself has made
    # No text in the data, such as "</script>", may end the element that holds them.
    text = json.dumps(data).replace("<", "\\u003c")
    return page.replace("@@POLICY@@", policy).replace("@@DATA@@", text)
