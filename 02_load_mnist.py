"""Lesson 2: look at the data before you train on it.

Run it:        python 02_load_mnist.py
Change it:     edit a constant below, or: python 02_load_mnist.py --seed 7
It writes:     mnist_samples.png   random images of every digit
               mnist_overview.png  class sizes, pixels, average and ambiguous digits

A network learns whatever is in its data, mistakes included, and never complains. So
look first: what is there, how much of it, and is it clean? (With sound you would
listen first: silent clips, a class with few recordings, one recording twice.)
"""

import torch
from torch import nn

from dl_utils import (
    MNIST_MEAN,
    MNIST_STD,
    Axes,
    Figure,
    RawData,
    load_raw_data,
    normalize,
    parse_settings,
    print_section,
    print_wrapped,
    run_script,
    save_figure,
)

# ------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------

# Handwriting: "auto" (MNIST if possible), "mnist", or "synthetic" (digits drawn by this
# project). Recordings: "spoken" (which digit?), "speakers" (who says it?), "new-voices"
# (which digit, by somebody never heard in training?).
DATASET = "auto"

# The voice that new-voices tests on: george, jackson, lucas, nicolas, theo or yweweler.
STRANGER = "lucas"

# Start of all random numbers. Another seed puts other images into the samples
# picture; no number that is printed depends on it.
SEED = 42

# Images per class in the samples picture: enough to see how much handwriting
# differs, few enough to look at each.
SAMPLES_PER_CLASS = 14

SAMPLES_PATH = "mnist_samples.png"
OVERVIEW_PATH = "mnist_overview.png"


def print_image_values(image: torch.Tensor) -> None:
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


def average_images(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the average image of each class, float32 [classes, 28, 28], 0 to 255."""
    # One class at a time: all 60,000 images as float32 would take 188 MB.
    return torch.stack(
        [images[labels == label].float().mean(dim=0) for label in labels.unique()]
    )


def distances(images: torch.Tensor, averages: torch.Tensor) -> torch.Tensor:
    """Return how far each image is from each average, float32 [N, classes].

    Take the difference at each of the 784 pixels (0 to 1), square it, add up, take the
    root: the distance between two points that have 784 coordinates instead of 2.
    """
    # [N, 28, 28] -> [N, 784] and [10, 28, 28] -> [10, 784]: one point in each row
    return torch.cdist(images.flatten(1).float() / 255, averages.flatten(1) / 255)


def most_ambiguous(
    images: torch.Tensor, labels: torch.Tensor, averages: torch.Tensor
) -> list[tuple[int, int, float]]:
    """Find for each class the image that looks most like another class.

    It is the one that is nearer to another class's average than to its own by the
    largest amount. Return its position, that other class and the amount, per class.
    """
    found = []
    for label in range(len(averages)):
        positions = (labels == label).nonzero().flatten()
        to_others = distances(images[positions], averages)
        to_own = to_others[:, label].clone()
        to_others[:, label] = torch.inf  # so that min() finds another class
        to_nearest, nearest = to_others.min(dim=1)
        amount, worst = (to_own - to_nearest).max(dim=0)
        found.append((positions[worst].item(), nearest[worst].item(), amount.item()))
    return found


def measure_baseline(
    images: torch.Tensor, labels: torch.Tensor, averages: torch.Tensor
) -> tuple[float, list[float]]:
    """Name the class whose average is nearest; return percent right, and per class."""
    correct = 100.0 * (distances(images, averages).argmin(dim=1) == labels)
    per_class = [correct[labels == c].mean().item() for c in range(len(averages))]
    return correct.mean().item(), per_class


def pick_samples(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of random images of each class, int64 [classes, count]."""
    rows = []
    for label in labels.unique():
        positions = (labels == label).nonzero().flatten()
        # The first images of a file may be unlike the rest; a random choice is fair.
        rows.append(positions[torch.randperm(len(positions))[:count]])
    return torch.stack(rows)


def show_grid(ax: Axes, images: torch.Tensor, below=(), beside=()) -> None:
    """Draw images [rows, columns, 28, 28] side by side, dark ink on white paper."""
    rows, columns = images.shape[:2]
    # White frames keep neighbours apart: [.., .., 28, 28] -> [.., .., 32, 32]
    framed = nn.functional.pad(images, (2, 2, 2, 2))
    # One large picture: [rows, columns, 32, 32] -> [rows, 32, columns, 32]
    # -> [rows * 32, columns * 32]
    picture = framed.transpose(1, 2).reshape(rows * 32, columns * 32)
    ax.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=255)
    ax.set_xticks([32 * i + 15.5 for i in range(len(below))], below)
    ax.set_yticks([32 * i + 15.5 for i in range(len(beside))], beside)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_samples(data: RawData, count: int) -> None:
    """Write the samples picture: one row per class."""
    figure = Figure(figsize=(9.6, 7), layout="constrained")
    ax = figure.subplots()
    images = data.train_images[pick_samples(data.train_labels, count)]
    show_grid(ax, images, beside=data.classes)
    ax.tick_params(labelsize=16)
    ax.set_ylabel("Label", size=12)
    ax.set_xlabel(data.axes)
    figure.suptitle(f"No two alike: random {data.title} to train on", size=15)
    save_figure(figure, SAMPLES_PATH)


def draw_classes(ax: Axes, data: RawData, counts: torch.Tensor) -> None:
    """Draw how many training images each class has."""
    bars = ax.bar(data.classes, counts.tolist(), color="tab:blue")
    ax.bar_label(bars, [f"{count:,}" for count in counts.tolist()], size=8)
    ax.set_title(f"Largest class: {imbalance_ratio(counts):.2f} times the smallest")
    ax.set(xlabel="Class", ylabel=f"Training {data.unit}s")


def draw_histogram(ax: Axes, data: RawData, histogram: torch.Tensor) -> None:
    """Draw how common each grey value is."""
    # 16 bars of 16 grey values each. On a logarithmic scale, every line is ten times
    # the one below: it shows the rare values beside the many zeros.
    percent = 100 * histogram.reshape(16, 16).sum(dim=1) / histogram.sum()
    ax.bar(range(8, 256, 16), percent.tolist(), width=14, color="tab:orange")
    ax.set_title(f"{100 * histogram[0] / histogram.sum():.0f}% of all pixels are 0")
    ax.set(xlabel=f"Pixel value ({data.scale})", ylabel="Pixels (%), logarithmic")
    ax.set_yscale("log")
    ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.grid(axis="y", alpha=0.3)


def main() -> None:
    settings = parse_settings(
        __doc__,
        seed=SEED,
        samples_per_class=SAMPLES_PER_CLASS,
        dataset=DATASET,
        stranger=STRANGER,
    )
    torch.manual_seed(settings.seed)

    print_section("Data")
    data = load_raw_data(settings.dataset, settings.stranger)
    images, labels = data.train_images, data.train_labels
    print(f"Data set         {data.title}")
    print(f"Training set     {len(images):,} {data.unit}s, to learn from")
    print(f"Test set         {len(data.test_images):,}, to judge what was learned")
    print(f"One image        {list(images[0].shape)}, {images[0].numel()} pixels")
    print(f"One pixel        {images.dtype}, {data.scale}")
    # The classes are the possible answers; a label is the right answer to one image.
    print(f"One label        {labels.dtype}, {labels.min()} to {labels.max()}")
    print(f"Classes          {', '.join(data.classes)}")

    print_section("An image is a table of numbers")
    name = data.classes[labels[0]]
    print(f"The first training image, {name} (a dot is a 0, margin left out):")
    print_image_values(images[0])

    print_section(f"Classes: training {data.unit}s per class")
    # If nine images in ten were a 1, a program that always says 1 would be right in
    # 90 % and know nothing. Accuracy is a fair measure when classes are balanced.
    counts = torch.bincount(labels)
    for name, count in zip(data.classes, counts.tolist(), strict=True):
        bar = "#" * round(50 * count / counts.max().item())
        print(f"{name:<9} {count:>5,}  {bar}")
    print(f"Largest / smallest class: {imbalance_ratio(counts):.2f} (balanced: 1.00)")

    print_section("Mean and standard deviation of the training pixels, scale 0 to 1")
    histogram = pixel_histogram(images)
    mean, std = mean_and_std(histogram)
    print(f"Computed here    mean {mean:.4f}, standard deviation {std:.4f}")
    print(f"In dl_utils.py   mean {MNIST_MEAN:.4f}, standard deviation {MNIST_STD:.4f}")
    if data.name != "MNIST":
        print_wrapped(
            f"These are {data.title}, so the numbers differ. All data sets are "
            "normalized with MNIST's: close enough to learn well, and one network can "
            "then be tried on several."
        )
    # Normalization: subtract the mean, divide by the standard deviation. Networks
    # learn fastest from numbers around 0 with a spread of about 1.
    # See ML_CONCEPTS_EXPLAINED.md#normalization
    batch = normalize(images[:64])
    print("64 images (a batch) normalized with them, as a network gets them:")
    print(f"{list(batch.shape)}, {batch.dtype}, {batch.min():.2f} to {batch.max():.2f}")

    print_section("Is the data clean?")
    ink = mean_pixels(images)
    print("Each of these should be 0:")
    print(f"Training images that are blank  {(ink == 0).sum()}")
    print(f"Copies of training images       {len(find_duplicates(images))}")
    # A leak: a test image seen in training can be memorized. It makes the test result
    # better than the network will be on new images.
    overlap = find_overlap(images, data.test_images)
    print(f"Test images also in training    {len(overlap)}")
    # Extremes are where a data set's mistakes show first.
    for title, i in (("Faintest", ink.argmin()), ("Boldest", ink.argmax())):
        name = data.classes[labels[i]]
        print(f"{title:<8} image {i:>5}: {name}, mean pixel {ink[i]:.0f} of 255")

    print_section("The most ambiguous image of each class")
    averages = average_images(images, labels)
    ambiguous = most_ambiguous(images, labels, averages)
    print("It is nearer to the average image of another class than to that of its own.")
    print("class     looks like  nearer by  image number")
    for name, (position, other, amount) in zip(data.classes, ambiguous, strict=True):
        print(f"{name:<9} {data.classes[other]:<10} {amount:>10.2f}  {position:>12}")

    print_section("A baseline without any network")
    # A baseline is the simplest method that does the job: a network has to beat it to
    # be worth its trouble. This one names the class whose average image is nearest.
    #
    # Are we allowed to look at the test set so early? If you try ten settings and keep
    # the best one on the test set, you have fitted it by hand. But this baseline has no
    # setting to choose, so looking once chooses nothing.
    # See ML_CONCEPTS_EXPLAINED.md#accuracy-and-confusion-matrix
    accuracy, per_class = measure_baseline(data.test_images, data.test_labels, averages)
    largest = counts.argmax()
    share = 100 * (data.test_labels == largest).double().mean()
    print(f"Test {data.unit}s that are named correctly")
    print(f"{share:5.2f}%  by always saying {data.classes[largest]}, the largest class")
    print(f"{accuracy:5.2f}%  by naming the class of the nearest average")
    print("The last one is the number every network here must beat.")

    print_section("Pictures")
    draw_samples(data, settings.samples_per_class)

    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplot_mosaic(
        [["classes", "pixels"], ["averages"] * 2, ["ambiguous"] * 2],
        height_ratios=[2.4, 1, 1],
    )
    figure.suptitle(
        f"{len(images):,} {data.title}: what to know before training", size=15
    )
    draw_classes(panels["classes"], data, counts)
    draw_histogram(panels["pixels"], data, histogram)
    below = [
        f"{name}: {percent:.0f}%"
        for name, percent in zip(data.classes, per_class, strict=True)
    ]
    show_grid(panels["averages"], averages.unsqueeze(0), below)
    panels["averages"].set_title(
        f"Average images: the nearest one is right for {accuracy:.2f}% of the test set"
    )
    below = [
        f"{name}, or {data.classes[other]}?"
        for name, (_, other, _) in zip(data.classes, ambiguous, strict=True)
    ]
    positions = [position for position, _, _ in ambiguous]
    show_grid(panels["ambiguous"], images[positions].unsqueeze(0), below)
    panels["ambiguous"].set_title(
        "Hard to read: nearer to the average of another class"
    )
    figure.supxlabel(data.axes, size=10)
    save_figure(figure, OVERVIEW_PATH)


if __name__ == "__main__":
    run_script(main)
