"""Pictures that several lessons draw."""

import os

import torch
from matplotlib.figure import Figure

from backstage.data.batches import ImageDataset
from backstage.files import save_figure

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

    Raises:
        UserError: the file cannot be written.
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

    Raises:
        UserError: the file cannot be written.
    """
    images, labels = test_set.tensors
    confidences, predictions = probabilities.max(dim=1)
    rows = [range(min(10, len(images))), worst[:10].tolist()]

    def caption(i: int) -> str:
        text = f"{test_set.classes[predictions[i]]}\n{100 * confidences[i]:.1f}%"
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


def plot_confusion_matrix(
    test_set: ImageDataset, predictions: torch.Tensor, path: str | os.PathLike
) -> None:
    """Draw how often each class (row) was taken for each class (column).

    Args:
        test_set: images and labels.
        predictions: the network's answer to each image, int64 [N].
        path: the PNG file to write.

    Raises:
        UserError: the file cannot be written.
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
