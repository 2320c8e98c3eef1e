"""What each function of dl_utils promises."""

import dl_utils
from dl_utils import HISTORY_KEYS, diagnose_training

import math
import random
import sys
import warnings

import pytest
import torch
from torch import nn

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
def test_a_gpu_that_works_is_chosen():
    assert dl_utils.get_device() == "cuda"


# ------------------------------------------------------------------------------
# Loaders
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaders(synthetic_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dl_utils, "DATA_DIR", synthetic_dir)
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


def test_the_split_is_fixed_and_its_parts_do_not_overlap(synthetic, monkeypatch):
    # Number the images by their first four pixels, to recognise them after the split.
    digits = dl_utils.load_raw_digits("synthetic")
    numbered = torch.zeros(60_000, 28, 28, dtype=torch.uint8)
    index = torch.arange(60_000)
    numbered[:, 0, 0], numbered[:, 0, 1] = index // 256, index % 256
    monkeypatch.setattr(
        dl_utils, "load_raw_digits", lambda _: digits._replace(train_images=numbered)
    )

    def numbers(loader):
        pixels = loader.dataset.tensors[0][:, 0, 0, :2]
        pixels = pixels * dl_utils.MNIST_STD + dl_utils.MNIST_MEAN
        return (pixels * 255).round().long() @ torch.tensor([256, 1])

    train_loader, val_loader, _ = dl_utils.load_mnist_data(seed=1)
    train_part, val_part = numbers(train_loader), numbers(val_loader)
    assert torch.equal(torch.cat([train_part, val_part]).sort().values, index)

    train_loader, val_loader, _ = dl_utils.load_mnist_data(seed=2, train_samples=100)
    assert torch.equal(numbers(train_loader), train_part[:100])
    assert torch.equal(numbers(val_loader), val_part)


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
        {"train_samples": 0},
        {"train_samples": 55_001},
        {"dataset": "fashion"},
    ],
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        dl_utils.load_mnist_data(**arguments)


@pytest.mark.real_mnist
def test_real_training_pixels_have_the_documented_mean_and_spread(real_mnist):
    pixels = dl_utils.load_raw_digits("mnist").train_images.float() / 255
    assert round(pixels.mean().item(), 4) == dl_utils.MNIST_MEAN
    assert round(pixels.std().item(), 4) == dl_utils.MNIST_STD


# ------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------


def test_a_seed_repeats_the_random_numbers():
    dl_utils.set_seed(7)
    first = torch.rand(3)
    dl_utils.set_seed(7)
    assert torch.equal(torch.rand(3), first)


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
    ("val_loss", "val_acc", "expected"),
    [
        (0.187, 97.0, "good fit"),
        (0.1875, 97.0, "overfitting"),
        (0.187, 96.0, "overfitting"),
        (0.1875, 96.0, "severe overfitting"),
    ],
)
def test_validation_loss_counts_as_worse_from_1_5_times_its_best(
    val_loss, val_acc, expected
):
    losses = [0.125] * 9 + [val_loss]
    curves = history([0.05] * 9 + [0.025], [99.0] * 10, losses, [val_acc] * 10)
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("train_loss", "expected"), [(0.025, "overfitting"), (0.026, "good fit")]
)
def test_worse_validation_counts_only_if_training_halved_its_loss(train_loss, expected):
    curves = history(
        [0.05] * 9 + [train_loss], [99.0] * 10, [0.1] * 9 + [0.2], [97.0] * 10
    )
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("val_loss", "expected"), [(0.38, "still improving"), (0.381, "underfitting")]
)
def test_still_improving_needs_a_validation_loss_5_percent_lower(val_loss, expected):
    curves = flat(train_acc=90.0, val_acc=90.0, val_loss=0.4, train_loss=0.4)
    curves["val_loss"][-1] = val_loss
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("val_acc", "expected"), [(33.0, "still improving"), (32.9, "underfitting")]
)
def test_still_improving_needs_3_points_where_the_loss_hardly_moves(val_acc, expected):
    curves = flat(train_acc=33.0, val_acc=30.0, val_loss=2.2, train_loss=2.2)
    curves["val_acc"][-1] = val_acc
    curves["train_acc"] = [val_acc] * 10
    assert verdict(curves) == expected


@pytest.mark.parametrize(
    ("train_acc", "expected"), [(97.99, "still improving"), (98.0, "good fit")]
)
def test_still_improving_needs_a_gap_below_1_point(train_acc, expected):
    curves = flat(train_acc=train_acc, val_acc=97.0)
    curves["val_loss"][-1] = 0.05
    assert verdict(curves) == expected


def test_a_run_that_is_not_finished_is_not_called_overfitting():
    # 200 images for 2 epochs: a gap of 11 points, but everything still improves.
    curves = history([2.1, 1.6], [40.0, 68.0], [1.79, 1.46], [50.0, 57.0])
    assert verdict(curves) == "still improving"
    curves["train_acc"][-1] = 95.0
    assert verdict(curves) == "overfitting"


def test_improvement_is_measured_over_the_last_two_epochs():
    curves = flat(train_acc=96.0, val_acc=96.0)
    curves["val_loss"] = [0.2] * 7 + [0.1] * 3
    assert verdict(curves) == "good fit"
    curves["val_loss"] = [0.2] * 8 + [0.1] * 2
    assert verdict(curves) == "still improving"


def test_one_epoch_is_compared_with_guessing():
    assert verdict(history([0.27], [92.0], [0.15], [95.0])) == "still improving"
    assert verdict(history([2.30], [10.0], [2.30], [10.0])) == "underfitting"


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["train_loss", "val_loss"])
def test_a_loss_that_is_no_number_means_diverged(key, broken):
    curves = flat()
    curves[key][-1] = broken
    assert dl_utils.has_diverged(curves)
    assert verdict(curves) == "learning rate too high"


@pytest.mark.parametrize(("factor", "expected"), [(10, False), (10.001, True)])
def test_a_training_loss_ten_times_that_of_guessing_means_diverged(factor, expected):
    curves = flat(train_loss=factor * math.log(10), train_acc=10, val_acc=10)
    assert dl_utils.has_diverged(curves) is expected


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
    ("rises", "expected"), [(3, "learning rate too high"), (2, "underfitting")]
)
def test_a_training_loss_that_rises_often_means_too_large_steps(rises, expected):
    losses = [0.5]
    for epoch in range(9):
        losses.append(losses[-1] * (1.01 if epoch < rises else 1.0))
    curves = history(losses, [89.0] * 10, [0.5] * 10, [89.0] * 10)
    assert verdict(curves) == expected


def test_a_learned_training_set_may_rise_a_little():
    curves = flat()
    curves["train_loss"] = [0.02, 0.021] * 5
    assert verdict(curves) == "good fit"


def test_every_history_gets_exactly_one_verdict():
    verdicts = {
        "learning rate too high",
        "severe overfitting",
        "overfitting",
        "still improving",
        "underfitting",
        "good fit",
    }
    rng = random.Random(0)
    seen = set()
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
        assert diagnosis.evidence and diagnosis.advice
        seen.add(diagnosis.verdict)
    assert seen == verdicts


def test_a_history_must_be_complete():
    with pytest.raises(ValueError):
        diagnose_training(history([], [], [], []))
    with pytest.raises(ValueError):
        diagnose_training(history([1.0, 0.5], [50.0], [1.0], [50.0]))


# ------------------------------------------------------------------------------
# Results
# ------------------------------------------------------------------------------


def test_an_interrupted_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), dl_utils.atomic_path(path) as temporary_path:
        temporary_path.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "model.pth"
    path.mkdir()
    with (
        pytest.raises(dl_utils.UserError, match=r"model\.pth cannot be written"),
        dl_utils.atomic_path(path) as temporary_path,
    ):
        temporary_path.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("epochs", [1, 10, 300])
def test_the_history_is_drawn_as_a_png_with_the_verdict(tmp_path, epochs, monkeypatch):
    titles = []
    set_title = dl_utils.plt.Figure.suptitle
    monkeypatch.setattr(
        dl_utils.plt.Figure,
        "suptitle",
        lambda figure, text: titles.append(text) or set_title(figure, text),
    )
    path = tmp_path / "history.png"
    dl_utils.plot_training_history(flat(epochs=epochs), path, "synthetic")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "synthetic" in titles[0]
    assert verdict(flat(epochs=epochs)) in titles[0].lower()
    assert dl_utils.plt.get_fignums() == []


def test_a_history_that_is_not_finite_can_be_drawn(tmp_path):
    curves = flat(train_loss=math.nan, val_loss=math.inf, epochs=1)
    dl_utils.plot_training_history(curves, tmp_path / "history.png")
    assert (tmp_path / "history.png").exists()


def test_runs_are_appended_and_the_last_five_printed(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    for number in range(7):
        capsys.readouterr()
        dl_utils.record_run(path, {"epochs": number, "val_acc": f"{90 + number:.2f}"})
    assert path.read_text().splitlines() == [
        "epochs,val_acc",
        *(f"{number},{90 + number:.2f}" for number in range(7)),
    ]
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "         val",
        "epochs   acc",
        *(f"     {number} {90 + number:.2f}" for number in range(2, 7)),
    ]


@pytest.mark.parametrize(
    "content",
    ["name,age\nAda,36\n", "age\n", "epochs\n1,2\n", "9" * 200_000],
    ids=["table", "heading", "more columns", "one huge field"],
)
def test_a_file_with_other_columns_is_left_alone(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_text(content)
    with pytest.raises(dl_utils.UserError, match="other columns"):
        dl_utils.record_run(path, {"epochs": 1})
    assert path.read_text() == content


# ------------------------------------------------------------------------------
# Running a script
# ------------------------------------------------------------------------------


def test_constants_are_the_defaults_and_flags_win():
    settings = dl_utils.parse_settings(
        "", ["--learning-rate", "0.1"], epochs=3, learning_rate=0.001
    )
    assert vars(settings) == {"epochs": 3, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (dl_utils.UserError("the disk is full"), 1, "Error: the disk is full\n"),
        (PermissionError(13, "Permission denied", "a.png"), 1, "a.png: Permission"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "Stopped. Files saved earlier"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "not enough"),
        (dl_utils.UserError("two\nlines"), 1, "Error: two lines\n"),
    ],
)
def test_a_script_ends_with_one_line(error, code, message, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        dl_utils.run_script(main)
    assert stop.value.code == code
    assert message in capsys.readouterr().err


def test_a_programming_error_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(ZeroDivisionError):
        dl_utils.run_script(lambda: 1 / 0)
