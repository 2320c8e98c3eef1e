"""What each function of dl_utils promises."""

import math
import os
import warnings
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

import dl_utils
from backstage.data.batches import replace_labels
from backstage.data.datasets import _handwriting
from dl_utils import HISTORY_KEYS, BadSettingError, diagnose_training

# ------------------------------------------------------------------------------
# Devices, loaders and evaluation
# ------------------------------------------------------------------------------


NO_KERNEL = "CUDA error: no kernel image is available"
TOO_OLD = "CUDA initialization: The NVIDIA driver is too old"
BROKEN = MagicMock()
BROKEN.__matmul__.side_effect = RuntimeError(f"{NO_KERNEL}\nCompile with ...")
GPUS = {
    "none": (lambda: False, None, "cpu", ""),
    "works": (lambda: True, torch.eye(2), "cuda", ""),
    "fails when used": (lambda: True, BROKEN, "cpu", NO_KERNEL),
    "old driver": (lambda: warnings.warn(TOO_OLD, stacklevel=1), None, "cpu", TOO_OLD),
}


@pytest.mark.parametrize("available, ones, device, reason", GPUS.values(), ids=GPUS)
def test_a_gpu_is_chosen_only_if_it_works(
    available, ones, device, reason, monkeypatch, capsys
):
    filters, environment = list(warnings.filters), dict(os.environ)
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones)
    assert dl_utils.get_device() == device
    line = f"A GPU was found but does not work ({reason}). Using the CPU."
    assert " ".join(capsys.readouterr().out.split()) == (line if reason else "")
    assert (warnings.filters, dict(os.environ)) == (filters, environment)


def test_one_core_is_used_unless_the_user_has_chosen(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    dl_utils.get_device()
    assert asked == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    dl_utils.get_device()
    assert asked == [1]


@pytest.fixture
def numbered(monkeypatch):
    """As many images as MNIST has, of three pixels each, which say its number.

    The label is the last digit of the number; test images begin with 60,000.
    """
    index = torch.arange(70_000)
    pixels = torch.stack([index // 65_536, index // 256 % 256, index % 256], dim=1)
    images, labels = pixels.to(torch.uint8)[:, None], index % 10
    parts = images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]
    data = _handwriting("MNIST", parts)
    monkeypatch.setattr(dl_utils, "load_raw_data", lambda dataset, stranger: data)


def numbers(images):
    """Return the numbers of normalized images, int64 [N]."""
    pixels = images[:, 0, 0] * dl_utils.MNIST_STD + dl_utils.MNIST_MEAN
    return (pixels * 255).round().long() @ torch.tensor([65_536, 256, 1])


def epoch(loader):
    """Return the numbers of the images and the labels of one epoch."""
    images, labels = zip(*loader, strict=True)
    return numbers(torch.cat(images)), torch.cat(labels)


ORDER = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))


def test_each_part_holds_its_images_with_their_labels(numbered):
    loaders = dl_utils.load_mnist_data(seed=1)
    parts = [ORDER[:55_000], ORDER[55_000:], torch.arange(60_000, 70_000)]
    for loader, part in zip(loaders, parts, strict=True):
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert (loader.dataset.name, loader.dataset.title) == ("MNIST", "MNIST digits")
        assert loader.dataset.classes == list("0123456789")
        shown, labels = epoch(loader)
        assert torch.equal(labels, shown % 10) and labels.dtype == torch.int64
        if loader is loaders[0]:  # another order in every epoch
            assert not torch.equal(shown, epoch(loader)[0])
            assert not torch.equal(shown, part)
            shown, part = shown.sort().values, part.sort().values
        assert torch.equal(shown, part)
    images, _ = next(iter(loaders[0]))
    assert (images.shape[:2], images.dtype) == ((64, 1), torch.float32)
    for loader in dl_utils.load_mnist_data(wrong_labels=1.0):  # one in ten by luck
        shown, labels = epoch(loader)
        wrong = 0.9 if len(labels) == 55_000 else 0
        assert abs((labels != shown % 10).float().mean() - wrong) < wrong / 50 + 1e-9


def test_fewer_training_images_are_the_first_and_validation_stays(numbered):
    train_loader, val_loader, _ = dl_utils.load_mnist_data(32, train_samples=100)
    assert numbers(train_loader.dataset.tensors[0]).tolist() == ORDER[:100].tolist()
    assert torch.equal(epoch(val_loader)[0], ORDER[55_000:])
    assert [len(labels) for _, labels in train_loader] == [32, 32, 32, 4]
    for count in (-1, 0, 55_001):
        with pytest.raises(BadSettingError, match="there are 55,000 training images"):
            dl_utils.load_mnist_data(train_samples=count)


def test_the_seed_alone_decides_the_order_and_which_labels_are_wrong(numbered):
    def first_epoch(seed, wrong_labels=0.2):
        loader, _, _ = dl_utils.load_mnist_data(64, "", 1000, seed, wrong_labels)
        order = list(loader.sampler)
        images, labels = (tensor[order] for tensor in loader.dataset.tensors)
        shown = numbers(images)
        return shown.tolist(), shown[shown % 10 != labels].tolist()

    state = torch.get_rng_state()
    shown, wrong = first_epoch(5)
    assert torch.equal(torch.get_rng_state(), state)  # others' random numbers
    assert first_epoch(5) == (shown, wrong)
    assert first_epoch(5, 0) == (shown, [])
    other = first_epoch(6)
    assert other[0] != shown and set(other[1]) != set(wrong)
    # The same generator for order and labels would put the wrong ones first.
    assert 20 <= len(set(shown[:200]) & set(wrong)) <= 52


def test_the_share_of_replaced_labels_is_exact():
    for share in (0.0, 0.0006, 0.2, 1.0):
        labels = torch.full((1000,), 7)
        replace_labels(labels, share, number_of_classes=6, seed=0)  # none is 7
        assert (labels != 7).sum() == round(share * 1000)
    assert labels.unique().tolist() == list(range(6))
    for share in (-0.001, 1.001, math.nan):
        with pytest.raises(ValueError, match="must be 0 to 1"):
            replace_labels(labels, share, number_of_classes=6, seed=0)


def test_normalize_maps_grey_values_as_documented():
    stored = torch.arange(256, dtype=torch.uint8).repeat(49).reshape(16, 28, 28)
    before = stored.clone()
    expected = (before[:, None] / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(dl_utils.normalize(stored), expected)
    assert stored.equal(before)


def test_only_trainable_parameters_are_counted():
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    assert dl_utils.count_parameters(model) == 101_770
    model[0].bias.requires_grad_(False)
    assert dl_utils.count_parameters(model) == 101_770 - 128


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_exact_and_leaves_the_model_as_it_was(tiny_loader, training):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    model.train(training)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = tiny_loader.dataset.tensors
    logits = model[2](images.flatten(1)).detach()
    labels[:15] = logits.argmax(1)[:15]
    modes = set()
    model.register_forward_pre_hook(
        lambda *_: modes.add((model.training, torch.is_inference_mode_enabled()))
    )
    loss, accuracy = dl_utils.evaluate_model(model, tiny_loader, "cpu")
    losses = logits.logsumexp(1) - logits[range(25), labels]
    assert loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert accuracy == 4 * (logits.argmax(1) == labels).sum().item()
    assert modes == {(False, True)}
    assert [part.training for part in model.modules()] == 4 * [training]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[n], v) for n, v in model.state_dict().items())


# ------------------------------------------------------------------------------
# Diagnosis, and the picture of a history
# ------------------------------------------------------------------------------


def history(
    train_loss=0.02, train_acc=99.0, val_loss=0.09, val_acc=97.0, epochs=10, **before
):
    """Return a history; by default, nothing changes any more, and that is good."""
    values = (train_loss, train_acc, val_loss, val_acc)
    lists = (v if isinstance(v, list) else epochs * [v] for v in values)
    return dict(zip(HISTORY_KEYS, lists, strict=True)) | before


def first(*values):
    """Return ten epochs: the last of the values is repeated."""
    return [*values[:-1], *(11 - len(values)) * [values[-1]]]


def last(value, *values):
    """Return ten epochs: the first value is repeated."""
    return [*(10 - len(values)) * [value], *values]


def rising(rises, factor, epochs=100):
    """Return losses of which so many are so many times the one before."""
    return [0.5 * factor ** min(epoch, rises) for epoch in range(epochs)]


def rough(val_acc, train_acc=89.0):
    """As with altered images: training stays hard, and its loss goes up and down."""
    return {"train_acc": train_acc, "train_loss": 5 * [0.3, 0.35], "val_acc": val_acc}


def stuck(accuracy=89.0, **changes):
    return {"train_acc": accuracy, "val_acc": accuracy, **changes}


TOO_HIGH, SEVERE, IMPROVING = list(dl_utils.ADVICE)[:3]
OVERFITTING, UNDERFITTING, GOOD = list(dl_utils.ADVICE)[3:]
GUESSING = math.log(10)  # the loss of guessing
# Where two lines differ a little, a threshold lies between them.
VERDICTS = [
    (GOOD, {}),
    # 1. Learning rate too high: a loss that is no number,
    (TOO_HIGH, {"train_loss": last(0.02, math.nan)}),
    (TOO_HIGH, {"val_loss": last(0.09, math.inf)}),
    # or ten times that of guessing,
    (TOO_HIGH, stuck(10.0, train_loss=first(10.001 * GUESSING, 2.3))),
    (UNDERFITTING, stuck(10.0, train_loss=first(10 * GUESSING, 2.3), val_loss=50.0)),
    # or a training accuracy that fell back by 2 points,
    (TOO_HIGH, {"train_acc": first(30.0, 28.0), "val_acc": 28.0}),
    (UNDERFITTING, {"train_acc": first(30.0, 28.01), "val_acc": 28.01}),
    (UNDERFITTING, {"train_acc": 28.0, "val_acc": first(30.0, 28.0)}),
    # or a training loss that rises by 1 % in more than a quarter of the epochs.
    (TOO_HIGH, stuck(train_loss=rising(26, 1.0101), epochs=100)),
    (UNDERFITTING, stuck(train_loss=rising(25, 1.0101), epochs=100)),
    (UNDERFITTING, stuck(train_loss=rising(99, 1.0099), epochs=100)),
    (UNDERFITTING, stuck(val_loss=rising(99, 1.0101), epochs=100)),
    # Never if it has learned its training images,
    (OVERFITTING, rough(89.99, train_acc=first(99.0, 95.0))),
    (TOO_HIGH, rough(89.99, train_acc=first(99.0, 94.99))),
    # or ends at 90 % and within 2 points of its own best.
    (UNDERFITTING, rough(last(91.99, 90.0))),
    (GOOD, rough(last(95.2, 95.0))),
    (TOO_HIGH, rough(last(90.0, 89.99))),
    (TOO_HIGH, rough(last(95.0, 93.0))),
    # It comes before severe overfitting.
    (TOO_HIGH, {"train_acc": first(10, 30, 28.0), "val_acc": first(89.0, 87.0)}),
    # 2. Severe overfitting: 2 points below the best, while training improved since,
    (SEVERE, {"val_acc": first(90.0, 88.0), "train_acc": first(98.99, 99.0)}),
    (OVERFITTING, {"val_acc": first(90.0, 88.01), "train_acc": first(98.99, 99.0)}),
    (OVERFITTING, {"val_acc": first(90.0, 88.0)}),
    # or below what it was before training.
    (SEVERE, {"val_acc_before": 99.0}),
    (GOOD, {"val_acc_before": 98.99}),
    # It comes before still improving.
    (SEVERE, {"val_acc": last(50.0, 60.0, 57.0), "train_acc": last(60.0, 70.0, 80.0)}),
    # 3. Still improving: two epochs above all earlier ones, and half a point,
    (IMPROVING, {"val_acc": last(97.0, 97.01, 97.5)}),
    (IMPROVING, {"val_acc": last(97.0, 98.0, 97.5)}),
    (GOOD, {"val_acc": last(97.0, 97.01, 97.49)}),
    (GOOD, {"val_acc": last(97.0, 97.0, 97.5)}),  # a single jump is luck
    (IMPROVING, {"val_acc": last(96.5, 97.0, 97.1)}),
    (GOOD, {"val_acc": [97.0, *last(96.5, 97.0, 97.1)[1:]]}),
    # or a twentieth of the mistakes,
    (IMPROVING, stuck(last(80.0, 81.001, 81.001))),
    (UNDERFITTING, stuck(last(80.0, 80.999, 80.999))),
    # compared with guessing or with before training.
    (IMPROVING, stuck([10.0], val_acc=[14.5], epochs=1)),
    (UNDERFITTING, stuck([10.0], val_acc=[14.49], epochs=1)),
    (IMPROVING, {"val_acc": [97.2, 97.5], "val_acc_before": 97.0, "epochs": 2}),
    (GOOD, {"val_acc": [97.2, 97.5], "val_acc_before": 97.1, "epochs": 2}),
    # It comes before overfitting.
    (IMPROVING, {"train_acc": [40.0, 95.0], "val_acc": [50.0, 57.0], "epochs": 2}),
    # 4. Overfitting: training 3 points ahead. It comes before underfitting.
    (OVERFITTING, {"val_acc": 96.0}),
    (GOOD, {"val_acc": 96.01}),
    (OVERFITTING, {"train_acc": 94.0, "val_acc": 90.0}),
    # 5. Underfitting: below 95 % in training, and in validation.
    (UNDERFITTING, {"train_acc": 94.99, "val_acc": 93.99}),
    (GOOD, {"train_acc": 95.0, "val_acc": 94.0}),
    (UNDERFITTING, {"train_acc": 80.0, "val_acc": 94.99}),
    (GOOD, {"train_acc": 80.0, "val_acc": 95.0}),
]


@pytest.mark.parametrize(("verdict", "changes"), VERDICTS)
def test_the_first_question_answered_with_yes_gives_the_verdict(verdict, changes):
    diagnosis = diagnose_training(history(**changes))
    assert diagnosis.verdict == verdict
    assert diagnosis.advice == dl_utils.ADVICE[verdict]


def test_each_advice_says_what_to_do():
    assert [text.split(". ")[0] for text in dl_utils.ADVICE.values()] == [
        "Divide the learning rate by 10 and run again",
        "Stop near the epoch of the best validation accuracy, and look for wrong "
        "labels in the training data.",
        "Train for more epochs, or raise the learning rate.",
        "Get more data, or alter the images you have",
        "First test the code: --hidden-size 128 --train-samples 100 --epochs 100 must "
        "end at 100% in training",
        "Change one hyperparameter and see whether validation accuracy rises.",
    ]


def told(best="97.0% in epoch 1", train="99.2", val="97.0", more=""):
    return f"Training {train}% (loss 0.0123), validation {val}% (best: {best}).{more}"


SURER = (
    " The validation loss rose from 0.125 (epoch 3) to 0.188: surer, not better. That "
    "alone is no reason to stop."
)
RISEN = [0.25, 0.2, 0.125, *7 * [0.1875]]  # at the end 1.5 times the lowest
EVIDENCE = [
    ({"val_acc": [*3 * [96.0], *7 * [97.26]]}, told("97.3% in epoch 4", val="97.3")),
    ({"val_acc": last(96.0, 98.0, 97.0)}, told("98.0% in epoch 9")),
    ({"val_acc_before": 98.0}, told("98.0% before training")),
    ({"val_loss": RISEN}, told(more=SURER)),
    ({"val_loss": [*RISEN[:9], 0.187]}, told()),
    # It is said neither where the verdict says to stop, nor of who has not learned.
    ({"val_loss": RISEN, "val_acc_before": 99.0}, told("99.0% before training")),
    ({"val_loss": RISEN, "train_acc": 94.9}, told(train="94.9")),
]


@pytest.mark.parametrize(("changes", "evidence"), EVIDENCE)
def test_the_evidence_is_told_in_numbers(changes, evidence):
    curves = {"train_loss": [0.5, *9 * [0.01234]], "train_acc": [60.0, *9 * [99.2]]}
    assert diagnose_training(history(**curves | changes)).evidence == evidence


@pytest.mark.parametrize("key", HISTORY_KEYS)
def test_what_is_no_history_is_refused(key):
    with pytest.raises(ValueError, match="four lists of the same length"):
        diagnose_training(history(epochs=2, **{key: [50.0]}))
    with pytest.raises(ValueError, match="at least 1"):
        diagnose_training(history(epochs=0))
    if key.endswith("loss"):
        with pytest.raises(ValueError, match="no cross-entropy"):
            diagnose_training(history(**{key: first(-0.1, 0.1)}))


def test_a_long_and_a_short_history_are_drawn(monkeypatch):
    # The transcript of lesson 3 holds the rest of its picture.
    saved = []
    monkeypatch.setattr(dl_utils, "save_figure", lambda *both: saved.append(both))
    val_acc = [*range(40, 68), 64, 62]  # the best is not the last
    curves = history(train_acc=[*range(41, 71)], val_acc=val_acc, epochs=30)
    dl_utils.plot_training_history(curves, "history.png")
    dl_utils.plot_training_history(history(epochs=3), "few.png")
    (figure, path), (few, _) = saved
    title = "Severe overfitting (MNIST digits): training 70.0%, validation 62.0%"
    assert (path, figure.get_suptitle()) == ("history.png", title)
    for line in (line for ax in figure.axes for line in ax.lines):
        assert list(line.get_xdata()) == list(range(1, 31))
        assert line.get_markevery() == 3  # 30 markers would hide the line
    ticks = few.axes[0].xaxis.get_major_locator().tick_values(1, 3)
    assert all(tick == round(tick) for tick in ticks)
