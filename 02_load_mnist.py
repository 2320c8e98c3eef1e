"""Lesson 2: look at the data before you train on it.

Run it:        python 02_load_mnist.py
Change it:     edit a constant below, or: python 02_load_mnist.py --seed 7
It writes:     mnist_samples.png   random images of every digit
               mnist_overview.png  class sizes, pixels, average and ambiguous digits

A network learns whatever is in its data, mistakes included, and never complains. So
look first: what is there, how much of it, and is it clean? (With sound you would
listen first: silent clips, a class with few recordings, one recording twice.)
"""

from dl_utils import (
    MNIST_MEAN,
    MNIST_STD,
    load_raw_digits,
    normalize,
    parse_settings,
    print_section,
    print_wrapped,
    run_script,
    save_figure,
    set_seed,
)

import matplotlib.pyplot as plt
import torch
from torch import nn

# ------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------

# "mnist", "synthetic" (digits drawn by this project), or "auto": MNIST if possible.
DATASET = "auto"

# Start of all random numbers. Another seed puts other images into the samples
# picture; no number that is printed depends on it.
SEED = 42

# Images per digit in the samples picture: enough to see how much handwriting
# differs, few enough to look at each.
SAMPLES_PER_DIGIT = 14

SAMPLES_PATH = "mnist_samples.png"
OVERVIEW_PATH = "mnist_overview.png"


def print_image(image: torch.Tensor) -> None:
    """Print the numbers that make up one image [28, 28], leaving out its margin."""
    rows, columns = image.nonzero(as_tuple=True)  # where there is ink
    for row in image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]:
        # A dot instead of each 0 lets the shape stand out.
        print("".join(f"{value or '.':>4}" for value in row.tolist()))


def imbalance_ratio(counts: torch.Tensor) -> float:
    """Return how many times larger the largest class is than the smallest."""
    return (counts.max() / counts.min()).item()


def pixel_histogram(images: torch.Tensor) -> torch.Tensor:
    """Return how many pixels have each of the 256 grey values, int64 [256]."""
    # In parts, because bincount turns each pixel (1 byte) into an int64 (8 bytes).
    parts = images.split(10_000)
    return sum(torch.bincount(part.flatten(), minlength=256) for part in parts)


def mean_and_std(histogram: torch.Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels, on the scale 0 to 1."""
    # 47 million pixels, but only 256 different values: weighing each value by its
    # share is exact, and needs next to no memory.
    share = histogram.double() / histogram.sum()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * values).sum()
    # The standard deviation: how far the values typically lie from their mean.
    std = (share * (values - mean) ** 2).sum().sqrt()
    return mean.item(), std.item()


def mean_pixels(images: torch.Tensor) -> torch.Tensor:
    """Return the mean grey value of each image: 0 is blank paper, 255 all ink."""
    # NumPy, because PyTorch would first copy all pixels into larger numbers: 376 MB.
    return torch.from_numpy(images.numpy().mean(axis=(1, 2)))  # [N, 28, 28] -> [N]


def find_duplicates(images: torch.Tensor) -> list[tuple[int, int]]:
    """Return (first, copy) for every image that is identical to an earlier one."""
    # To compare each image with each other takes 1.8 billion comparisons. A dict
    # finds an image by its bytes at once, so 60,000 look-ups will do.
    first_seen = {}
    duplicates = []
    for position, image in enumerate(images.numpy()):
        first = first_seen.setdefault(image.tobytes(), position)
        if first != position:
            duplicates.append((first, position))
    return duplicates


def find_overlap(train_images: torch.Tensor, test_images: torch.Tensor) -> list[int]:
    """Return the positions of the test images that are training images as well."""
    known = {image.tobytes() for image in train_images.numpy()}
    return [
        i for i, image in enumerate(test_images.numpy()) if image.tobytes() in known
    ]


def average_digits(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the average image of each digit, float32 [10, 28, 28], 0 to 255."""
    # One digit at a time: all 60,000 images as float32 would take 188 MB.
    return torch.stack(
        [images[labels == digit].float().mean(dim=0) for digit in range(10)]
    )


def distances(images: torch.Tensor, averages: torch.Tensor) -> torch.Tensor:
    """Return how far each image is from each average digit, float32 [N, 10].

    Take the difference at each of the 784 pixels (0 to 1), square it, add up, take the
    root: the distance between two points that have 784 coordinates instead of 2.
    """
    # [N, 28, 28] -> [N, 784] and [10, 28, 28] -> [10, 784]: one point in each row
    return torch.cdist(images.flatten(1).float() / 255, averages.flatten(1) / 255)


def most_ambiguous(
    images: torch.Tensor, labels: torch.Tensor, averages: torch.Tensor
) -> list[tuple[int, int, float]]:
    """Find for each digit the image that looks most like another digit.

    It is the one that is nearer to another digit's average than to its own by the
    largest amount. Return its position, that other digit and the amount, per digit.
    """
    found = []
    for digit in range(10):
        positions = (labels == digit).nonzero().flatten()
        to_others = distances(images[positions], averages)
        to_own = to_others[:, digit].clone()
        to_others[:, digit] = torch.inf  # so that min() finds another digit
        to_nearest, nearest = to_others.min(dim=1)
        amount, worst = (to_own - to_nearest).max(dim=0)
        found.append((positions[worst].item(), nearest[worst].item(), amount.item()))
    return found


def measure_baseline(
    images: torch.Tensor, labels: torch.Tensor, averages: torch.Tensor
) -> tuple[float, list[float]]:
    """Name the digit whose average is nearest; return percent right, and per digit."""
    correct = 100.0 * (distances(images, averages).argmin(dim=1) == labels)
    per_digit = [correct[labels == digit].mean().item() for digit in range(10)]
    return correct.mean().item(), per_digit


def pick_samples(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of random images of each digit, int64 [10, count]."""
    rows = []
    for digit in range(10):
        positions = (labels == digit).nonzero().flatten()
        # The first images of a file may be unlike the rest; a random choice is fair.
        rows.append(positions[torch.randperm(len(positions))[:count]])
    return torch.stack(rows)


def show_grid(axis: plt.Axes, images: torch.Tensor, below=(), beside=()) -> None:
    """Draw images [rows, columns, 28, 28] side by side, dark ink on white paper."""
    rows, columns = images.shape[:2]
    # White frames keep neighbours apart: [.., .., 28, 28] -> [.., .., 32, 32]
    framed = nn.functional.pad(images, (2, 2, 2, 2))
    # One large picture: [rows, columns, 32, 32] -> [rows, 32, columns, 32]
    # -> [rows * 32, columns * 32]
    picture = framed.transpose(1, 2).reshape(rows * 32, columns * 32)
    axis.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=255)
    axis.set_xticks([32 * i + 15.5 for i in range(len(below))], below)
    axis.set_yticks([32 * i + 15.5 for i in range(len(beside))], beside)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def draw_samples(name: str, images: torch.Tensor) -> None:
    """Write the samples picture: one row per digit."""
    figure, axis = plt.subplots(figsize=(9.6, 7), layout="constrained")
    show_grid(axis, images, beside=range(10))
    axis.tick_params(labelsize=16)
    axis.set_ylabel("Label", size=12)
    figure.suptitle(f"No two alike: random {name} training images", size=15)
    save_figure(figure, SAMPLES_PATH)


def draw_overview(
    name, images, counts, histogram, averages, accuracy, per_digit, ambiguous
) -> None:
    """Write the overview picture from what main has found out."""
    figure = plt.figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplot_mosaic(
        [["classes", "pixels"], ["averages"] * 2, ["ambiguous"] * 2],
        height_ratios=[2.4, 1, 1],
    )
    figure.suptitle(
        f"{len(images):,} {name} digits: what to know before training", size=15
    )

    axis = panels["classes"]
    bars = axis.bar(range(10), counts.tolist(), color="tab:blue")
    axis.bar_label(bars, [f"{count:,}" for count in counts.tolist()], size=8)
    axis.set_title(f"Largest class: {imbalance_ratio(counts):.2f} times the smallest")
    axis.set(xlabel="Digit", ylabel="Training images", xticks=range(10))

    # 16 bars of 16 grey values each. On a logarithmic scale, every line is ten times
    # the one below: it shows the rare values beside the many zeros.
    axis = panels["pixels"]
    percent = 100 * histogram.reshape(16, 16).sum(dim=1) / histogram.sum()
    axis.bar(range(8, 256, 16), percent.tolist(), width=14, color="tab:orange")
    axis.set_title(f"{100 * histogram[0] / histogram.sum():.0f}% of all pixels are 0")
    axis.set(xlabel="Grey value (0 paper, 255 ink)", ylabel="Pixels (%), logarithmic")
    axis.set_yscale("log")
    axis.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axis.grid(axis="y", alpha=0.3)

    below = [f"{digit}: {percent:.0f}%" for digit, percent in enumerate(per_digit)]
    show_grid(panels["averages"], averages.unsqueeze(0), below)
    panels["averages"].set_title(
        f"Average digits: the nearest one is right for {accuracy:.2f}% of the test set"
    )

    below = [f"{digit}, or {other}?" for digit, (_, other, _) in enumerate(ambiguous)]
    positions = [position for position, _, _ in ambiguous]
    show_grid(panels["ambiguous"], images[positions].unsqueeze(0), below)
    panels["ambiguous"].set_title(
        "Hard to read: nearer to the average of another digit"
    )
    save_figure(figure, OVERVIEW_PATH)


def main() -> None:
    settings = parse_settings(
        __doc__, seed=SEED, samples_per_digit=SAMPLES_PER_DIGIT, dataset=DATASET
    )
    set_seed(settings.seed)

    print_section("Data")
    name, images, labels, test_images, test_labels = load_raw_digits(settings.dataset)
    print(f"Data set         {name} digits")
    print(f"Training images  {len(images):,}, to learn from")
    print(
        f"Test images      {len(test_images):,}, to check at the end what was learned"
    )
    print(f"One image        {list(images[0].shape)}, {images[0].numel()} pixels")
    print(f"One pixel        {images.dtype}, {images.min()} paper, {images.max()} ink")
    # The classes are the possible answers; a label is the right answer to one image.
    print(f"One label        {labels.dtype}, {labels.min()} to {labels.max()}")

    print_section("An image is a table of numbers")
    print(f"The first training image, a {labels[0]} (a dot is a 0, margin left out):")
    print_image(images[0])

    print_section("Classes: training images per digit")
    # If nine images in ten were a 1, a program that always says 1 would be right in
    # 90 % and know nothing. Accuracy is a fair measure when classes are balanced.
    counts = torch.bincount(labels)
    for digit, count in enumerate(counts.tolist()):
        print(f"{digit}  {count:,}  {'#' * round(50 * count / counts.max().item())}")
    print(f"Largest / smallest class: {imbalance_ratio(counts):.2f} (balanced: 1.00)")

    print_section("Mean and standard deviation of the training pixels, scale 0 to 1")
    histogram = pixel_histogram(images)
    mean, std = mean_and_std(histogram)
    print(f"Computed here    mean {mean:.4f}, standard deviation {std:.4f}")
    print(f"In dl_utils.py   mean {MNIST_MEAN:.4f}, standard deviation {MNIST_STD:.4f}")
    if name != "MNIST":
        print_wrapped(
            f"These digits are {name}, so the numbers differ. Networks get MNIST's in "
            "both cases: one trained on these digits can then read real ones too."
        )
    # Normalization: subtract the mean, divide by the standard deviation. Networks
    # learn fastest from numbers around 0 with a spread of about 1.
    batch = normalize(images[:64])
    print("64 images (a batch) normalized with them, as a network gets them:")
    print(f"{list(batch.shape)}, {batch.dtype}, {batch.min():.2f} to {batch.max():.2f}")

    print_section("Is the data clean?")
    ink = mean_pixels(images)
    print("Each of these should be 0:")
    print(f"Training images without ink   {(ink == 0).sum()}")
    print(f"Copies of training images     {len(find_duplicates(images))}")
    # A leak: a test image seen in training can be known by heart. It makes the test
    # result better than the network will be on new images.
    print(f"Test images also in training  {len(find_overlap(images, test_images))}")
    # Extremes are where a data set's mistakes show first.
    for title, i in (("Faintest", ink.argmin()), ("Boldest", ink.argmax())):
        print(f"{title:<8} image {i:>5}: a {labels[i]}, mean pixel {ink[i]:.0f} of 255")

    print_section("The most ambiguous image of each digit")
    averages = average_digits(images, labels)
    ambiguous = most_ambiguous(images, labels, averages)
    print("It is nearer to the average image of another digit than to that of its own.")
    print("digit  looks like  nearer by  image number")
    for digit, (position, other, amount) in enumerate(ambiguous):
        print(f"{digit:>5}  {other:>10}  {amount:>9.2f}  {position:>12}")

    print_section("A baseline without any network")
    # A baseline is the simplest method that does the job: a network has to beat it to
    # be worth its trouble. This one names the digit whose average image is nearest.
    #
    # Are we allowed to look at the test set so early? Whoever tries ten settings and
    # keeps the best one on the test set has fitted it by hand. But this baseline has
    # no setting to choose, so looking once chooses nothing.
    accuracy, per_digit = measure_baseline(test_images, test_labels, averages)
    largest = counts.argmax()
    share = 100 * (test_labels == largest).double().mean()
    print("Test images that are named correctly")
    print(f"by always saying {largest}, the largest class:  {share:5.2f}%")
    print(f"by saying the nearest average digit:    {accuracy:5.2f}%")
    print("The last one is the number every network here must beat.")

    print_section("Pictures")
    draw_samples(name, images[pick_samples(labels, settings.samples_per_digit)])
    draw_overview(
        name, images, counts, histogram, averages, accuracy, per_digit, ambiguous
    )


if __name__ == "__main__":
    run_script(main)
