"""Pictures that the lessons draw, but do not teach."""

import os

import torch

from backstage.data.batches import ImageDataset
from backstage.plotting import Figure, save_figure

# Images beside each other: a longer row goes on in the next line, so that captions can
# be read on a phone.
COLUMNS = 5


def plot_image_rows(
    rows: list[torch.Tensor],
    captions: list[list[str]],
    title: str,
    path: str | os.PathLike,
    colors: list[list[str]] | None = None,
    signed: bool = False,
    note: str = "",
) -> None:
    """Draw rows of images with a caption above each, and write the picture.

    Args:
        rows: tensors [N, 28, 28]; a long row goes on in the next line.
        captions: for each row, one text per image.
        title: what the picture shows.
        path: the PNG file to write.
        colors: for each row, the colour of each caption; black if None.
        note: what the directions of an image mean, added to the title.
        signed: values below 0 are drawn in blue and above 0 in red; else dark is high.
    """
    colors = colors or [["black"] * len(row) for row in captions]
    lines = []
    for row in zip(rows, captions, colors, strict=True):
        for i in range(0, len(row[0]), COLUMNS):
            lines.append([part[i : i + COLUMNS] for part in row])
    figure = Figure(figsize=(1.4 * COLUMNS, 2 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for line_axes, line in zip(axes, lines, strict=True):
        for ax, image, caption, color in zip(line_axes, *line, strict=False):
            if signed:
                limit = image.abs().max().item()
                ax.imshow(image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            else:
                ax.imshow(image.numpy(), cmap="gray_r")
            ax.set_title(caption, color=color, fontsize=11)
    figure.suptitle(f"{title}\n{note}".strip())
    save_figure(figure, path)


def plot_predictions(
    test_set: ImageDataset,
    probabilities: torch.Tensor,
    worst: torch.Tensor,
    path: str | os.PathLike,
) -> None:
    """Draw the first ten test images, and below them the most confident mistakes.

    Args:
        test_set: images and labels.
        probabilities: what the network says about each image, float32 [N, classes].
        worst: positions of the mistakes, the most confident one first, int64 [M].
        path: the PNG file to write.
    """
    images, labels = test_set.tensors
    confidences, predictions = probabilities.max(dim=1)
    rows = [range(min(10, len(images))), worst[:10].tolist()]

    def caption(i: int) -> str:
        sure = confidences[i].item()
        percent = f"{100 * sure:.1f}%" if sure <= 0.9995 else "over 99.9%"
        text = f"{test_set.classes[predictions[i]]}\n{percent}"
        right = predictions[i] == labels[i]
        return text if right else f"{text}\nis {test_set.classes[labels[i]]}"

    def color(i: int) -> str:
        return "tab:blue" if predictions[i] == labels[i] else "tab:red"

    plot_image_rows(
        [images[list(row), 0] for row in rows],
        [[caption(i) for i in row] for row in rows],
        f"What the network reads ({test_set.title}).\nTop: the first ten test images. "
        "Bottom: its most confident mistakes",
        path,
        [[color(i) for i in row] for row in rows],
        note=test_set.axes,
    )


def plot_neurons(
    trained: torch.Tensor,
    untrained: torch.Tensor,
    numbers: list[int],
    path: str | os.PathLike,
    note: str = "",
) -> None:
    """Draw the weights of some hidden neurons, and below them of untrained ones.

    Args:
        trained, untrained: their weights, float32 [N, 784].
        numbers: what the trained ones are called, counted from 0.
        path: the PNG file to write.
        note: what the directions of an image mean, added to the title.
    """
    plot_image_rows(
        [trained.reshape(-1, 28, 28), untrained.reshape(-1, 28, 28)],
        [[f"neuron {i}" for i in numbers], ["untrained"] * len(untrained)],
        "What the strongest neurons look for: red for, blue against.\nTraining turned "
        "noise (bottom) into strokes and blobs (top);\nfew of them are a shape that we "
        "would name",
        path,
        signed=True,
        note=note,
    )


def plot_confusion_matrix(
    test_set: ImageDataset, predictions: torch.Tensor, path: str | os.PathLike
) -> None:
    """Draw how often each class (row) was taken for each class (column).

    Args:
        test_set: images and labels.
        predictions: the network's answer to each image, int64 [N].
        path: the PNG file to write.
    """
    labels, classes = test_set.tensors[1], test_set.classes
    n = len(classes)
    # Number the pairs of label and prediction, count them: [n * n] -> [n, n].
    matrix = torch.bincount(n * labels + predictions, minlength=n * n).reshape(n, n)
    mistakes = matrix - matrix.diag().diag()
    label, prediction = divmod(mistakes.argmax().item(), n)
    accuracy = 100 * matrix.diag().sum().item() / len(labels)

    figure = Figure(figsize=(7.5, 7), layout="constrained")
    ax = figure.subplots()
    # Colour the mistakes only: the right answers would outshine them.
    ax.imshow(mistakes.numpy(), cmap="Reds")
    for row, counts in enumerate(matrix.tolist()):
        for column, count in enumerate(counts):
            dark = mistakes[row, column] > 0.6 * mistakes.max()
            style = {
                "color": "white" if dark else "black",
                "fontweight": "bold" if row == column else "normal",
            }
            ax.text(column, row, count or "", ha="center", va="center", **style)
    ax.set_xticks(range(n), classes)
    ax.set_yticks(range(n), classes)
    ax.set(xlabel="Taken for", ylabel="Really is")
    ax.set_title(
        f"{accuracy:.2f}% right ({test_set.title}, {len(labels):,} test images).\n"
        f"Most frequent mistake: {classes[label]} taken for {classes[prediction]}, "
        f"{mistakes.max()} times"
    )
    save_figure(figure, path)


def plot_comparison(results: list, title: str, path: str | os.PathLike) -> None:
    """Draw curves with bands, final accuracy with its range, and the cost.

    Args:
        results: lesson 5's, one for each architecture.
        title: what they show.
        path: the PNG file to write.
    """
    width = max(11.5, 2 * len(results))  # inches
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    curves, finals, costs = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    # Colours that colour-blind readers can tell apart (Okabe and Ito), and markers.
    colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
    colors += ["#E69F00", "#56B4E9", "#000000", "#F0E442"]
    names = [result.name for result in results]
    for index, result in enumerate(results):
        color = colors[index % len(colors)]
        marker = "osD^vPX*"[index % 8]
        epochs = range(1, result.val_acc.shape[1] + 1)
        low, high = result.val_acc.min(axis=0), result.val_acc.max(axis=0)
        mean = result.val_acc.mean(axis=0)
        curves.plot(epochs, mean, color=color, marker=marker, label=result.name)
        curves.fill_between(epochs, low, high, color=color, alpha=0.15)
        finals.errorbar(
            index,
            mean[-1],
            yerr=[[mean[-1] - low[-1]], [high[-1] - mean[-1]]],
            color=color,
            marker=marker,
            markersize=9,
            capsize=6,
        )
        bar = costs.bar(index, result.seconds, color=color)
        costs.bar_label(bar, [f"{result.parameters:,}"], fontsize=9)
    curves.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
    curves.set_title("Learning curves (mean, and range of the seeds)", fontsize=11)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend()
    finals.set(ylabel="Validation accuracy (%)", xlim=(-0.5, len(results) - 0.5))
    finals.set_title("At the end: mean and range", fontsize=11)
    costs.set(ylabel="Training time (s)")
    costs.set_title("Cost: time and parameters", fontsize=11)
    costs.margins(y=0.1)  # room for the numbers above the bars
    for ax in (finals, costs):
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    for ax in (curves, finals):
        ax.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
