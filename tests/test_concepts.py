"""What the concept page states and its examples do not show: errors, and figures."""

import re

import pytest
import torch
from torch import nn

import drawings
from conftest import SCRIPTS, load_script
from documents import CONCEPTS, blocks, section, stated

# For each row of the table, what PyTorch says, in one wording or more.
ROWS = re.findall(r"^\| (`.+?) \| ", section(CONCEPTS, "Error messages"), re.M)
SAID = [re.findall(r"`([^`]+)`", row) for row in ROWS]
IMAGES = torch.zeros(64, 1, 28, 28)
LABELS = torch.zeros(64, dtype=torch.int64)
CONVOLUTION = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
# Where there is no GPU, a device that has no memory stands for it.
OTHER_DEVICE = "cuda" if torch.cuda.is_available() else "meta"


def linear(images):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))(images)


def loss(labels):
    weights = torch.zeros(64, 10, requires_grad=True)
    return nn.CrossEntropyLoss()(weights, labels)


def two_backwards():
    weight = torch.tensor(1.0, requires_grad=True)
    loss = (weight * 3 - 2) ** 2
    loss.backward()
    loss.backward()


class NoRegister(nn.Module):
    def __init__(self):
        self.fc1 = nn.Linear(784, 128)


def load_into(model):
    model.load_state_dict(load_script("03_train_mnist").SimpleNN().state_dict())


# A part of what is said -> how a beginner brings it about.
MISTAKES = {
    "1792x28": lambda: nn.Linear(784, 128)(IMAGES),
    "28x28 and 784x10": lambda: linear(IMAGES[0, 0]),
    "64x5408": lambda: nn.Linear(8 * 28 * 28, 10)(CONVOLUTION(IMAGES)),
    "expected input[1, 64": lambda: CONVOLUTION(IMAGES[:, 0]),
    "size of tensor a": lambda: torch.zeros(3) + torch.zeros(4),
    "batch_size": lambda: loss(LABELS[1:]),
    "Target 10": lambda: loss(LABELS + 10),
    "Long": lambda: loss(LABELS.float()),
    "Byte and Float": lambda: linear(IMAGES.to(torch.uint8)),
    "Double and Float": lambda: linear(IMAGES.double()),
    "on the same device": lambda: linear(IMAGES.to(OTHER_DEVICE)),
    "can't convert cuda:0": lambda: IMAGES.to(OTHER_DEVICE).numpy(),
    "Can't call numpy()": lambda: linear(IMAGES).numpy(),
    "a second time": two_backwards,
    "element 0 of tensors": lambda: loss(LABELS).detach().backward(),
    "size mismatch": lambda: load_into(load_script("03_train_mnist").SimpleNN(256)),
    "Missing key(s)": lambda: load_into(nn.ModuleDict({"layer1": nn.Linear(784, 128)})),
    "Module.__init__()": NoRegister,
}


@pytest.mark.parametrize("part", MISTAKES)
def test_pytorch_says_what_the_table_says(part):
    (wordings,) = [row for row in SAID if part in str(row)]
    assert SAID.index(wordings) == list(MISTAKES).index(part)  # every row has its own
    assert len(SAID) == len(MISTAKES)
    with pytest.raises(Exception) as caught:
        MISTAKES[part]()
    message = str(caught.value).replace("convert meta", "convert cuda:0")
    assert any(wording in message for wording in wordings), message


def test_the_overfitting_example_is_the_picture():
    bars = drawings.three_fits().axes[3].texts
    pictured = [text.get_text() for text in bars]
    (example,) = blocks(section(CONCEPTS, "Overfitting & Underfitting"), "python")
    assert re.findall(r"(?:training|new) (\d\.\d\d)", example) == pictured


def test_the_bend_does_what_the_picture_s_description_says():
    titles = [ax.get_title() for ax in drawings.what_the_bend_does().axes]
    measured = [float(re.search(r"(\d+)% right", title)[1]) for title in titles]
    template = "one straight line, and {}% are right; with ReLU it is a hexagon"
    ((straight,),) = stated(CONCEPTS, template)
    assert measured == [pytest.approx(straight, abs=4), pytest.approx(100, abs=1)]
    assert "inner points, and 100% are right" in CONCEPTS


# Words of the concept page; the lesson; what it prints before the figure; by how much
# the figure may differ. (What a mismatch costs differs from network to network.)
CLAIMS = [
    ("lesson 3 gets about {}% of the test images right", 3, "Test Accuracy: ", 1),
    ("but only about {}% if they are not normalized", 4, "images not normalized +", 3),
    ("only about {}% of the test images are right", 4, "Tanh instead .*weights +", 8),
    ("the nearest average, gets {}% of", 2, r"(?=[\d.]+% .*nearest)", 0.005),
    ("ends at about {}% in training", 3, "Epoch 10/10: Train Acc: ", 1),
    ("in training and about {}% in validation", 3, "Epoch 10/10: .*Val Acc: ", 1),
    ("training (about {}%) lies below", 3, "Epoch 1/10: Train Acc: ", 1),
    ("lies below validation (about {}%)", 3, "Epoch 1/10: .*Val Acc: ", 1),
]


@pytest.mark.real_mnist
@pytest.mark.parametrize(("template", "lesson", "before", "allowed"), CLAIMS)
def test_figures_that_the_lessons_print(
    template, lesson, before, allowed, lessons_on_mnist
):
    output = lessons_on_mnist.outputs[SCRIPTS[lesson - 1]]
    measured = float(re.search(before + r"([\d.]+)", output)[1])
    assert stated(CONCEPTS, template) == [[pytest.approx(measured, abs=allowed)]]
