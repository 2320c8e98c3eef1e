"""Pictures that several lessons draw."""

import os

import torch
from matplotlib.figure import Figure

from backstage.files import save_figure


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
        rows: tensors [columns, 28, 28]; a row may be shorter than the others.
        captions: for each row, one text per image.
        title: what the picture shows.
        path: the PNG file to write.
        colors: for each row, the colour of each caption; black if None.
        note: what the directions of an image mean, added to the title.
        signed: values below 0 are drawn in blue and above 0 in red; else dark is high.

    Raises:
        UserError: the file cannot be written.
    """
    columns = max(map(len, rows))
    figure = Figure(
        figsize=(max(6, 1.2 * columns), 2 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            if signed:
                limit = image.abs().max().item()
                axes[r, c].imshow(image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
            else:
                axes[r, c].imshow(image.numpy(), cmap="gray_r")
            color = colors[r][c] if colors else "black"
            axes[r, c].set_title(captions[r][c], color=color, fontsize=9)
    figure.suptitle(f"{title}\n{note}".strip())
    save_figure(figure, path)


def plot_confusion_matrix(
    matrix: torch.Tensor, classes: list[str], title: str, path: str | os.PathLike
) -> None:
    """Draw how often each class (row) was taken for each class (column).

    Args:
        matrix: counts, int64 [classes, classes].
        classes: the name of each class.
        title: what the picture shows.
        path: the PNG file to write.

    Raises:
        UserError: the file cannot be written.
    """
    mistakes = matrix - matrix.diag().diag()
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
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), classes)
    ax.set(xlabel="Taken for", ylabel="Really is", title=title)
    save_figure(figure, path)
