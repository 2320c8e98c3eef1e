"""A photo or a drawing of one handwritten digit becomes an image like MNIST's.

A network knows only images that were made in one way. MNIST's were made so: light ink
on black, scaled into 20 x 20 pixels, and centred by mass in 28 x 28. A photo may also
show shadows, thin lines or a table around the paper, so the ink must be found first.

All pictures here are float tensors [height, width], unless stated otherwise.
"""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate, max_pool2d, pad

from backstage.terminal import UserError

# A picture is scaled until its longer side has this many pixels: enough for a digit.
# The light on the paper, and which lines belong together, show in cells of 4 x 4.
PICTURE_SIZE, CELL = 560, 4
# The light is seen through a window, in shares of the picture's longer side. It must
# be wider than a stroke, and narrower than a shadow. The second is for thick strokes.
WINDOWS = (1 / 6, 1 / 3)
# Light that changes by a factor of exp(0.35) = 1.4 within 2 % of the picture has a
# sharp edge. The shadow of a hand has soft ones.
SHARP_CHANGE = 0.35
# Ink takes away a share of the paper's light. A picture without 0.2 anywhere is blank.
LEAST_INK = 0.2
# Less than this share of the darkest ink counts as paper: noise, ruled lines.
PAPER_SHARE = 0.35
# A mark that stays below this share of what is left is the rest of a shadow.
WEAK_MARK = 0.4
# Shares of the longest mark: shorter ones are dust; narrower gaps may be within a
# digit; another one at least that long is another digit.
DUST, GAP, OTHER_DIGIT = 0.15, 0.2, 0.7
# The ink's share of the box around it. Of MNIST's training digits other than 1, one in
# 8,000 has more.
MOST_INK = 0.7
# Thinner strokes are widened to this share of the digit's longer side: about half
# of MNIST's are wider.
STROKE = 0.1


def read_own_digit(path: str) -> Tensor:
    """Turn a picture of one digit into an image like MNIST's.

    The ink may be darker or lighter than the paper. Its box is scaled by averaging over
    areas until the longer side has 20 pixels, and its centre of mass is moved to the
    middle of the image. The page of lesson 4 does the same to what is drawn there.

    Args:
        path: any picture that Pillow can read.

    Returns:
        uint8 [28, 28], 0 (paper) to 255 (ink).

    Raises:
        UserError: the file is missing or no picture; or the picture is blank, or shows
            something else than one digit on even paper.
    """
    grey = open_grey(path)
    try:
        return fit_like_mnist(widen(crop_to_digit(find_ink(grey))))
    except UserError as error:
        raise UserError(f"{path} {error}") from None


def open_grey(path: str) -> Tensor:
    """Return a picture's grey values, 0 (black) to 1 (white)."""
    try:
        if not Path(path).exists():
            raise UserError(f"there is no picture {path}")
        if not Path(path).is_file():  # a pipe or a device may have no end
            raise UserError(f"{path} is a folder or a device: name a picture's file")
        with warnings.catch_warnings():
            # Pillow warns of what is odd or very large; it is read all the same.
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file)  # photos may be stored turned
            if not picture.mode.startswith(("I", "F")):
                picture = picture.convert("RGBA")
    except Image.DecompressionBombError:
        raise UserError(f"{path} has too many pixels: save it smaller") from None
    # All else that Pillow raised for 26,000 damaged files of 23 formats.
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} cannot be read ({reason}): "
            "if other programs can open it, save it as PNG or JPEG"
        ) from None

    if picture.mode != "RGBA":  # 16 bits and more per pixel
        values = np.nan_to_num(np.asarray(picture, np.float32), posinf=0).clip(0)
        values = 255 * values / max(1, values.max())
        picture = Image.fromarray(values.astype(np.uint8)).convert("RGBA")
    picture = ImageOps.contain(picture, (PICTURE_SIZE, PICTURE_SIZE))
    # Transparent parts show white paper.
    paper = Image.new("RGBA", picture.size, "white")
    grey = Image.alpha_composite(paper, picture).convert("L")
    return torch.from_numpy(np.asarray(grey, np.float32) / 255)


def find_ink(grey: Tensor) -> Tensor:
    """Return how much ink each pixel has, 0 to 1.

    Raises:
        UserError: the light on the paper has a sharp edge, or there is no ink.
    """
    small = resize(grey, [math.ceil(n / CELL) for n in grey.shape])
    for window in WINDOWS:
        size = round(window * PICTURE_SIZE / CELL)
        if is_light_on_dark(grey, small, size):
            small, grey = 1 - small, 1 - grey
        light = close(small, size)
        if not has_sharp_edge(light):
            break
    else:
        raise UserError(
            "shows a sharp edge between a bright and a dark area, as of paper on a "
            "table or of a blot: let it show only the digit and paper around it"
        )
    light = resize(light, grey.shape)
    ink = (light - grey) / light.clamp(min=0.05)
    # Noise makes pixels darker and brighter than the paper, ink only darker. A few
    # pixels in 10,000 are not looked at: they may be anything.
    brightest, darkest = ink.quantile(torch.tensor([0.0002, 0.9998])).tolist()
    if darkest < max(LEAST_INK, -2 * brightest):
        raise UserError("looks blank: draw one digit, large, dark on light")
    return ((ink / darkest - PAPER_SHARE) / (1 - PAPER_SHARE)).clamp(0, 1)


def resize(image: Tensor, shape: list[int]) -> Tensor:
    """Scale a picture, averaging where it gets smaller."""
    mode = {"mode": "bilinear", "antialias": True}
    return interpolate(image[None, None], shape, **mode)[0, 0]


def grow(image: Tensor, size: int) -> Tensor:
    """Let each pixel take the highest value in a square of about size x size."""
    margin = size // 2
    image = max_pool2d(image[None], (2 * margin + 1, 1), 1, (margin, 0))
    return max_pool2d(image, (1, 2 * margin + 1), 1, (0, margin))[0]


def close(image: Tensor, size: int) -> Tensor:
    """Fill with their surroundings' brightness all dark parts narrower than size."""
    return -grow(-grow(image, size), size)


def is_light_on_dark(grey: Tensor, small: Tensor, size: int) -> bool:
    """Tell whether the ink is lighter than the paper.

    Ink encloses paper, not the other way round: what surrounds the other is the ink.
    """
    wide = pad(small[None], [size] * 4, mode="replicate")[0]
    reach = []
    for sign in (1, -1):  # ink darker than what is around it, lighter
        light = close(sign * wide, size)[size:-size, size:-size]
        ink = resize(light, grey.shape) - sign * grey
        ink = adaptive_max_pool2d(ink[None], small.shape)[0]
        reach.append(grow(pad(ink, [size] * 4), size))
    clear = torch.stack(reach).max() / 2
    return (reach[1] > clear).sum() > (reach[0] > clear).sum()


def has_sharp_edge(light: Tensor) -> bool:
    """Tell whether the light jumps along a line a quarter as long as the picture."""
    light = light.clamp(min=0.05).log()
    steps = [(light[2:] - light[:-2]).abs(), (light[:, 2:] - light[:, :-2]).abs()]
    return sum((step > SHARP_CHANGE).sum() for step in steps) > max(light.shape) / 2


def crop_to_digit(ink: Tensor) -> Tensor:
    """Cut out the digit, which may be in pieces; leave out dust.

    Raises:
        UserError: the ink is something else than one digit.
    """
    # On a map with cells of several pixels, noisy strokes hold together.
    cells = max_pool2d(ink[None], CELL, ceil_mode=True)[0]
    marks = [mark for mark in connected(cells > 0) if cells[mark].max() > WEAK_MARK]
    longest = max(length(mark) for mark in marks)
    marks = [mark for mark in marks if length(mark) >= DUST * longest]

    # Join what is close together: a 5 may have been written in two strokes.
    pieces = torch.stack(marks).any(dim=0)
    joined = connected(grow(pieces.float(), round(GAP * longest)) > 0)
    marks = [mark & pieces for mark in joined]
    lengths = [length(mark) for mark in marks]
    digit = marks[lengths.index(max(lengths))]
    edge = torch.cat([digit[0], digit[-1], digit[:, 0], digit[:, -1]])
    if edge.float().mean() > 0.9 or (len(marks) > 1 and edge.any()):
        raise UserError(
            "shows something at its edge that is not part of a digit: "
            "let it show only the digit and paper around it"
        )
    if sum(n >= OTHER_DIGIT * max(lengths) for n in lengths) > 1:
        raise UserError("shows several marks of similar size: draw only one digit")

    digit = digit.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    ink = ink * digit[: ink.shape[0], : ink.shape[1]]
    rows, columns = ink.nonzero(as_tuple=True)
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def connected(mask: Tensor) -> list[Tensor]:
    """Split a mask, bool [height, width], into its connected parts, masks as well."""
    # Give each cell a number of its own; then the highest number spreads in each part.
    # The margin keeps numbers from rolling over to the opposite side.
    mask = pad(mask, [1] * 4)
    labels, spread = None, torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    while labels is None or not labels.equal(spread):
        labels = spread
        for axis in (0, 1):
            sides = torch.maximum(spread.roll(1, axis), spread.roll(-1, axis))
            spread = torch.maximum(spread, sides)
        spread = spread * mask
    return [(labels == label)[1:-1, 1:-1] for label in labels.unique() if label]


def length(mask: Tensor) -> int:
    """Return the longer side of the box around a mask."""
    cells = mask.nonzero()
    return (cells.amax(dim=0) - cells.amin(dim=0) + 1).max().item()


def widen(digit: Tensor) -> Tensor:
    """Widen thin strokes, which would get too pale when the digit is scaled down."""
    # A long line of some width has twice that area for each pixel of its outline.
    # The pale halo of an edge is no stroke.
    ink = (digit > 0.5).float()
    outline = ink + grow(-pad(ink, [1] * 4), 3)[1:-1, 1:-1]
    width = 2 * ink.sum() / outline.sum()
    missing = math.ceil(STROKE * max(digit.shape) - width.item())
    if missing < 2:
        return digit
    return grow(pad(digit, [missing // 2] * 4), missing)


def fit_like_mnist(digit: Tensor) -> Tensor:
    """Scale a digit into 20 x 20 pixels and centre it: uint8 [28, 28].

    Raises:
        UserError: there is too much ink for a digit.
    """
    height, width = (max(1, round(20 * n / max(digit.shape))) for n in digit.shape)
    picture = Image.fromarray(digit.numpy())
    digit = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
    # White is the usual ink, not its darkest spot: lines cross there, or a pen rested.
    digit = np.minimum(digit / np.quantile(digit[digit > 0], 0.95), 1)

    filled = digit.mean()
    if filled > MOST_INK and width > height / 2:
        raise UserError(
            f"shows ink that fills {100 * filled:.0f}% of the box around it, too much "
            "for a digit: let it show only thin lines and paper around them"
        )

    # Move the centre of mass to the middle, as far as the digit stays inside.
    middle_row = (digit.sum(axis=1) * np.arange(height)).sum() / digit.sum()
    middle_column = (digit.sum(axis=0) * np.arange(width)).sum() / digit.sum()
    top = min(max(round(14 - middle_row), 0), 28 - height)
    left = min(max(round(14 - middle_column), 0), 28 - width)
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[top : top + height, left : left + width] = torch.from_numpy(
        np.round(255 * digit).astype(np.uint8)
    )
    return image
