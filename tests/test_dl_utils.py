"""What each function of dl_utils promises."""

import math
import os
import random
import warnings
from statistics import mean

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import backstage.data.datasets
import dl_utils
from dl_utils import HISTORY_KEYS, BadSettingError, diagnose_training

# ------------------------------------------------------------------------------
# Devices
# ------------------------------------------------------------------------------


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dl_utils.get_device() == "cpu"
    assert capsys.readouterr().out == ""


def test_a_gpu_that_fails_on_first_use_gives_the_cpu_and_one_line(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fail)
    assert dl_utils.get_device() == "cpu"
    assert capsys.readouterr().out == (
        "A GPU was found but does not work (CUDA error: no kernel image is available). "
        "Using the\nCPU.\n"
    )


def test_a_driver_that_is_too_old_gives_the_cpu_and_the_reason(monkeypatch, capsys):
    def warn():
        warnings.warn("CUDA initialization: The NVIDIA driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    assert dl_utils.get_device() == "cpu"
    output = " ".join(capsys.readouterr().out.split())
    assert (
        "(CUDA initialization: The NVIDIA driver is too old). Using the CPU." in output
    )


@pytest.mark.parametrize(("variable", "threads"), [(None, [1]), ("2", [])])
def test_one_core_is_used_unless_the_user_has_chosen(monkeypatch, variable, threads):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    dl_utils.get_device()
    assert asked == threads


def test_looking_for_a_device_leaves_warning_filters_and_environment_alone():
    filters, environment = list(warnings.filters), dict(os.environ)
    dl_utils.get_device()
    assert warnings.filters == filters
    assert dict(os.environ) == environment


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
def test_a_gpu_that_works_is_chosen():
    assert dl_utils.get_device() == "cuda"


# ------------------------------------------------------------------------------
# Loaders
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaders(synthetic_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backstage.data.datasets, "DATA_DIR", synthetic_dir)
        return dl_utils.load_mnist_data(dataset="synthetic")


def test_the_split_is_55000_5000_10000(loaders):
    assert [len(loader.dataset) for loader in loaders] == [55_000, 5_000, 10_000]


def test_loaders_are_real_dataloaders_and_know_their_data_set(loaders):
    for loader in loaders:
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert loader.dataset.name == "synthetic"


def test_batches_have_the_documented_shapes_and_types(loaders):
    images, labels = next(iter(loaders[0]))
    assert (images.shape, images.dtype) == ((64, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((64,), torch.int64)
    assert labels.min() >= 0 and labels.max() <= 9


def test_every_image_comes_once_per_epoch(loaders):
    for loader in loaders:
        labels = torch.cat([labels for _, labels in loader])
        assert len(labels) == len(loader.dataset)
        expected = loader.dataset.tensors[1].bincount()
        assert torch.equal(labels.bincount(), expected)


def test_training_order_changes_and_evaluation_order_does_not(loaders):
    train_loader, val_loader, _ = loaders
    first_epoch = next(iter(train_loader))[1]
    second_epoch = next(iter(train_loader))[1]
    assert not torch.equal(first_epoch, second_epoch)
    assert torch.equal(next(iter(val_loader))[1], next(iter(val_loader))[1])


def first_labels(**arguments):
    loaders = dl_utils.load_mnist_data(dataset="synthetic", **arguments)
    return next(iter(loaders[0]))[1]


def test_the_seed_alone_decides_the_order(synthetic):
    torch.manual_seed(1)
    expected = first_labels(seed=5)
    torch.manual_seed(2)
    assert torch.equal(first_labels(seed=5), expected)
    assert not torch.equal(first_labels(seed=6), expected)


@pytest.fixture
def few_images(monkeypatch):
    """6,000 images in place of the data set, numbered by their first two pixels."""
    index = torch.arange(6000)
    images = torch.zeros(6000, 28, 28, dtype=torch.uint8)
    images[:, 0, 0], images[:, 0, 1] = index // 256, index % 256
    labels = index % 10
    data = backstage.data.datasets._handwriting(
        "MNIST", (images, labels, images, labels)
    )
    monkeypatch.setattr(dl_utils, "load_raw_data", lambda *_: data)


def numbers(loader):
    """Return the numbers of a loader's images, in the order of the data set."""
    pixels = loader.dataset.tensors[0][:, 0, 0, :2]
    pixels = pixels * dl_utils.MNIST_STD + dl_utils.MNIST_MEAN
    return (pixels * 255).round().long() @ torch.tensor([256, 1])


def test_the_split_is_fixed_and_its_parts_do_not_overlap(few_images):
    train_loader, val_loader, _ = dl_utils.load_mnist_data(seed=1)
    train_part, val_part = numbers(train_loader), numbers(val_loader)
    assert len(val_part) == 5000
    assert torch.equal(
        torch.cat([train_part, val_part]).sort().values, torch.arange(6000)
    )

    train_loader, val_loader, _ = dl_utils.load_mnist_data(seed=2, train_samples=100)
    assert torch.equal(numbers(train_loader), train_part[:100])
    assert torch.equal(numbers(val_loader), val_part)


# ------------------------------------------------------------------------------
# Wrong labels
# ------------------------------------------------------------------------------


def wrong(loader):
    """Return which labels of a loader's images are not those of the data set."""
    return loader.dataset.tensors[1] != numbers(loader) % 10


def test_wrong_labels_are_in_the_training_part_only(few_images):
    train_loader, val_loader, test_loader = dl_utils.load_mnist_data(wrong_labels=1.0)
    # All are replaced by random ones, and one in ten is right by luck.
    assert 0.85 < wrong(train_loader).float().mean() < 0.95
    assert not wrong(val_loader).any() and not wrong(test_loader).any()
    assert train_loader.dataset.tensors[1].unique().tolist() == list(range(10))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 1.0])
def test_the_share_of_replaced_labels_is_exact(few_images, monkeypatch, share):
    # Let no replacement be right by luck: none of the labels is 11.
    def elevens(high, size, generator):
        return torch.full(size, 11)

    monkeypatch.setattr(torch, "randint", elevens)
    train_loader, _, _ = dl_utils.load_mnist_data(wrong_labels=share)
    assert (train_loader.dataset.tensors[1] == 11).sum() == share * 1000


def test_the_seed_alone_decides_which_labels_are_wrong(few_images):
    def labels(seed):
        loader, _, _ = dl_utils.load_mnist_data(seed=seed, wrong_labels=0.2)
        return loader.dataset.tensors[1]

    torch.manual_seed(1)
    expected = labels(seed=5)
    torch.manual_seed(2)
    assert torch.equal(labels(seed=5), expected)
    assert not torch.equal(labels(seed=6), expected)


def test_wrong_labels_leave_other_random_numbers_and_the_order_alone(few_images):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    clean, _, _ = dl_utils.load_mnist_data(seed=5)
    dirty, _, _ = dl_utils.load_mnist_data(seed=5, wrong_labels=0.2)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(next(iter(clean))[0], next(iter(dirty))[0])


def test_wrong_labels_are_not_those_that_come_first(few_images):
    # The same generator for both would put the wrong ones into the first batches.
    train_loader, _, _ = dl_utils.load_mnist_data(
        batch_size=100, seed=42, wrong_labels=0.2
    )
    batches = list(train_loader.batch_sampler)
    shares = [wrong(train_loader)[batch].float().mean().item() for batch in batches]
    assert min(shares) > 0.05 and max(shares) < 0.35
    assert mean(shares) == pytest.approx(0.18, abs=0.03)


# ------------------------------------------------------------------------------
# Pixels
# ------------------------------------------------------------------------------


def test_normalize_maps_grey_values_as_documented():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1)
    black, white = dl_utils.normalize(images.expand(2, 28, 28))
    assert black.shape == (1, 28, 28)
    assert black[0, 0, 0].item() == pytest.approx((0 - 0.1307) / 0.3081)
    assert white[0, 0, 0].item() == pytest.approx((1 - 0.1307) / 0.3081)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"dataset": "fashion"},
        {"wrong_labels": -0.1},
        {"wrong_labels": 1.1},
        {"wrong_labels": math.nan},
    ],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        dl_utils.load_mnist_data(**arguments)


@pytest.mark.parametrize("train_samples", [-1, 0, 1001])
def test_more_or_fewer_images_than_there_are_is_a_bad_setting(
    few_images, train_samples
):
    with pytest.raises(BadSettingError, match="there are 1,000 training images"):
        dl_utils.load_mnist_data(train_samples=train_samples)


@pytest.mark.real_mnist
def test_real_training_pixels_have_the_documented_mean_and_spread(real_mnist):
    pixels = dl_utils.load_raw_data("mnist").train_images.float() / 255
    assert round(pixels.mean().item(), 4) == dl_utils.MNIST_MEAN
    assert round(pixels.std().item(), 4) == dl_utils.MNIST_STD


# ------------------------------------------------------------------------------
# Evaluation and counting
# ------------------------------------------------------------------------------


def test_only_trainable_parameters_are_counted():
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    assert dl_utils.count_parameters(model) == 101_770
    model[0].bias.requires_grad_(False)
    assert dl_utils.count_parameters(model) == 101_770 - 128


def test_evaluation_is_exact_with_a_smaller_last_batch(tiny_loader):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    images, labels = tiny_loader.dataset.tensors
    with torch.no_grad():
        logits = model(images)
    loss, accuracy = dl_utils.evaluate_model(model, tiny_loader, "cpu")
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert accuracy == 100 * (logits.argmax(1) == labels).sum().item() / 25


def test_evaluation_switches_dropout_off_and_leaves_the_model_as_it_was(tiny_loader):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    results = set()
    for mode in (True, False):
        model.train(mode)
        results.add(dl_utils.evaluate_model(model, tiny_loader, "cpu"))
        assert model.training is mode
    assert len(results) == 1
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[n], v) for n, v in model.state_dict().items())


# ------------------------------------------------------------------------------
# Diagnosis
# ------------------------------------------------------------------------------


def history(train_loss, train_acc, val_loss, val_acc):
    return dict(
        zip(HISTORY_KEYS, (train_loss, train_acc, val_loss, val_acc), strict=True)
    )


def flat(train_loss=0.02, train_acc=99.0, val_loss=0.09, val_acc=97.0, epochs=10):
    """A history in which nothing changes any more."""
    return history(*([x] * epochs for x in (train_loss, train_acc, val_loss, val_acc)))


def verdict(a_history):
    return diagnose_training(a_history).verdict


def test_flat_and_good_is_a_good_fit():
    assert verdict(flat()) == "good fit"


@pytest.mark.parametrize(
    ("train_acc", "expected"), [(95.0, "good fit"), (94.99, "underfitting")]
)
def test_underfitting_begins_below_95_percent(train_acc, expected):
    assert verdict(flat(train_acc=train_acc, val_acc=train_acc - 1)) == expected


@pytest.mark.parametrize(
    ("val_acc", "expected"), [(96.01, "good fit"), (96.0, "overfitting")]
)
def test_overfitting_begins_at_a_gap_of_3_points(val_acc, expected):
    assert verdict(flat(train_acc=99.0, val_acc=val_acc)) == expected


@pytest.mark.parametrize(
    ("val_acc", "expected"), [(88.0, "severe overfitting"), (88.01, "overfitting")]
)
def test_overfitting_is_severe_2_points_below_the_best_validation(val_acc, expected):
    curves = flat(train_acc=99.0, val_acc=val_acc)
    curves["val_acc"][3], curves["train_acc"][3] = 90.0, 98.0
    assert verdict(curves) == expected


def test_overfitting_is_severe_only_if_training_improved_since_the_best_epoch():
    curves = flat(train_acc=99.0, val_acc=88.0)
    curves["val_acc"][3] = 90.0
    assert verdict(curves) == "overfitting"
    curves["train_acc"][3] = 98.99
    assert verdict(curves) == "severe overfitting"


@pytest.mark.parametrize(
    ("last_two", "expected"),
    [
        ([97.25, 97.5], "still improving"),
        ([97.25, 97.49], "good fit"),  # less than half a point
        ([97.0, 97.5], "good fit"),  # a single jump is luck
        ([98.0, 97.5], "still improving"),
    ],
)
def test_still_improving_needs_two_epochs_above_all_earlier_and_half_a_point(
    last_two, expected
):
    curves = flat(val_acc=97.0)
    curves["val_acc"][-2:] = last_two
    assert verdict(curves) == expected


def test_still_improving_is_compared_with_the_best_of_all_earlier_epochs():
    curves = flat(val_acc=96.5)
    curves["val_acc"][-2:] = [97.0, 97.1]
    assert verdict(curves) == "still improving"
    curves["val_acc"][0] = 97.0
    assert verdict(curves) == "good fit"


def test_a_rising_accuracy_is_still_improving_however_large_the_gap():
    curves = history([2.1, 1.6], [40.0, 68.0], [1.79, 1.46], [50.0, 57.0])
    assert verdict(curves) == "still improving"
    curves["train_acc"][-1] = 95.0
    assert verdict(curves) == "still improving"


def test_one_epoch_is_compared_with_guessing():
    assert verdict(history([0.27], [92.0], [0.15], [95.0])) == "still improving"
    enough = dl_utils.IMPROVING_SHARE * 90
    assert verdict(history([2.3], [10], [2.3], [10 + enough])) == "still improving"
    assert verdict(history([2.3], [10], [2.3], [9.99 + enough])) == "underfitting"


@pytest.mark.parametrize("before", [0.0, 40.0, 60.0, 80.0, 90.0])
def test_far_from_the_goal_more_than_half_a_point_must_be_gained(before):
    enough = max(0.5, dl_utils.IMPROVING_SHARE * (100 - max(10.0, before)))
    for gain, expected in ((enough + 0.001, True), (enough - 0.001, False)):
        curves = flat(train_acc=before, val_acc=before)
        curves["val_acc"][-2:] = [max(10.0, before) + gain] * 2
        curves["train_acc"][-2:] = curves["val_acc"][-2:]
        assert (verdict(curves) == "still improving") is expected


@pytest.mark.parametrize(
    ("val_acc", "best", "expected"),
    [
        (95.0, 95.2, "good fit"),
        (90.0, 91.9, "underfitting"),
        (89.9, 90.0, "learning rate too high"),
        (93.0, 95.0, "learning rate too high"),
    ],
)
def test_a_network_that_is_useful_in_the_end_had_no_learning_rate_too_high(
    val_acc, best, expected
):
    # As with altered images: training accuracy stays below 95%, and the loss is rough.
    curves = flat(train_acc=89.0, val_acc=best)
    curves["train_loss"] = [0.3, 0.35] * 5
    curves["val_acc"][-1] = val_acc
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("val_acc", "expected"), [(95.0, "good fit"), (94.99, "underfitting")]
)
def test_what_only_makes_training_harder_is_no_underfitting(val_acc, expected):
    assert verdict(flat(train_acc=80.0, val_acc=val_acc)) == expected


@pytest.mark.parametrize("key", ["train_loss", "val_loss"])
def test_a_loss_below_0_is_a_mistake_in_the_code(key):
    curves = flat()
    curves[key][3] = -0.1
    with pytest.raises(ValueError, match="no cross-entropy"):
        diagnose_training(curves)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["train_loss", "val_loss"])
def test_a_loss_that_is_no_number_means_too_large_steps(key, broken):
    curves = flat()
    curves[key][-1] = broken
    assert verdict(curves) == "learning rate too high"


@pytest.mark.parametrize(
    ("factor", "expected"), [(10, "underfitting"), (10.001, "learning rate too high")]
)
def test_a_training_loss_over_ten_times_that_of_guessing_means_too_large_steps(
    factor, expected
):
    curves = flat(train_loss=factor * math.log(10), train_acc=10, val_acc=10)
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("train_acc", "expected"),
    [(28.0, "learning rate too high"), (28.1, "underfitting")],
)
def test_training_accuracy_2_points_below_its_best_means_too_large_steps(
    train_acc, expected
):
    curves = flat(train_loss=2.3, val_loss=2.3, val_acc=28.0)
    curves["train_acc"] = [30.0] + [train_acc] * 9
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("rises", "factor", "expected"),
    [
        (3, 1.0101, "learning rate too high"),
        (2, 1.0101, "underfitting"),  # no more than a quarter of ten epochs
        (9, 1.0099, "underfitting"),  # less than 1 % each
    ],
)
def test_a_training_loss_that_rises_often_means_too_large_steps(
    rises, factor, expected
):
    losses = [0.5]
    for epoch in range(9):
        losses.append(losses[-1] * (factor if epoch < rises else 1.0))
    curves = history(losses, [89.0] * 10, [0.5] * 10, [89.0] * 10)
    assert verdict(curves) == expected


def test_a_network_that_has_learned_its_images_may_jump_about():
    curves = flat(train_acc=95.0, val_acc=94.0)
    curves["train_loss"] = [0.02, 0.021] * 5
    curves["train_acc"][0] = 99.0
    assert verdict(curves) == "good fit"


@pytest.mark.parametrize(("val_loss", "surer"), [(0.1875, True), (0.187, False)])
def test_a_validation_loss_of_1_5_times_its_best_is_a_remark_and_no_verdict(
    val_loss, surer
):
    curves = flat(val_loss=val_loss)
    curves["val_loss"][2] = 0.125
    diagnosis = diagnose_training(curves)
    assert diagnosis.verdict == "good fit"
    assert ("surer, not better" in diagnosis.evidence) is surer
    assert ("from 0.125 (epoch 3) to 0.188" in diagnosis.evidence) is surer


def test_who_has_not_learned_is_not_surer():
    curves = flat(train_acc=94.0, val_acc=93.0, val_loss=0.6)
    curves["val_loss"][2] = 0.125
    assert "surer" not in diagnose_training(curves).evidence


def test_the_evidence_is_told_in_numbers():
    diagnosis = diagnose_training(flat())
    assert diagnosis.evidence == (
        "Training 99.0% (loss 0.02), validation 97.0% (best: 97.0% in epoch 1)."
    )
    assert str(diagnosis).startswith("GOOD FIT\nTraining 99.0%")


def test_every_history_gets_exactly_one_verdict():
    rng = random.Random(0)
    seen, surer = set(), set()
    for _ in range(5000):
        epochs = rng.randint(1, 6)
        level, gap = rng.uniform(10, 100), rng.choice([0, 0, 2, 20])
        noise = rng.choice([0, 0, 0.1, 3])
        curves = history(
            *(
                [max(0.0, base * rng.uniform(1 - spread, 1)) for _ in range(epochs)]
                for base, spread in (
                    (rng.uniform(0, 3), rng.random() * noise / 3),
                    (level, noise / 100),
                    (rng.uniform(0, 3), rng.random()),
                    (max(0, level - gap), noise / 100),
                )
            )
        )
        diagnosis = diagnose_training(curves)
        assert diagnosis.advice == dl_utils.ADVICE[diagnosis.verdict]
        seen.add(diagnosis.verdict)
        if "surer" in diagnosis.evidence:
            surer.add(diagnosis.verdict)
    assert seen == set(dl_utils.ADVICE)
    assert surer == seen - {
        "severe overfitting",  # a reason to stop
        "learning rate too high",  # nothing was learned
        "underfitting",
    }


@pytest.mark.parametrize(
    "lengths", [(0, 0, 0, 0), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)]
)
def test_a_history_must_be_complete(lengths):
    with pytest.raises(ValueError):
        diagnose_training(history(*([50.0] * length for length in lengths)))


# ------------------------------------------------------------------------------
# The picture of a history
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 10, 300])
def test_the_history_is_drawn_as_a_png_with_the_verdict(tmp_path, epochs, monkeypatch):
    titles = []
    set_title = Figure.suptitle
    monkeypatch.setattr(
        Figure,
        "suptitle",
        lambda figure, text: titles.append(text) or set_title(figure, text),
    )
    path = tmp_path / "history.png"
    dl_utils.plot_training_history(flat(epochs=epochs), path, "synthetic digits")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "synthetic digits" in titles[0]
    assert verdict(flat(epochs=epochs)) in titles[0].lower()
    assert plt.get_fignums() == []


def test_training_is_blue_and_validation_red_and_grey_print_tells_them_apart(
    tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        dl_utils, "save_figure", lambda figure, path: drawn.append(figure)
    )
    dl_utils.plot_training_history(flat(), tmp_path / "history.png")
    for ax in drawn[0].axes:
        training, validation = ax.lines
        assert (training.get_color(), validation.get_color()) == ("tab:blue", "tab:red")
        assert training.get_linestyle() != validation.get_linestyle()
        assert training.get_marker() != validation.get_marker()
        assert ax.get_xlabel() and ax.get_ylabel()


def test_a_history_that_is_not_finite_can_be_drawn(tmp_path):
    curves = flat(train_loss=math.nan, val_loss=math.inf, epochs=1)
    dl_utils.plot_training_history(curves, tmp_path / "history.png")
    assert (tmp_path / "history.png").exists()
