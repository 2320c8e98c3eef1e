"""A photo or drawing of one handwritten digit becomes an image like MNIST's.

A network knows only images made in one way. MNIST's digits were scaled into 20 x 20
pixels and centred by mass in 28 x 28, light ink on black; yours must be made likewise.
The drawing field of lesson 4's page does the same in JavaScript.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from backstage.terminal import UserError

# Larger pictures are scaled down to this many pixels: enough for one digit.
PICTURE_SIZE = 560
LIGHT_SIZE = 100
WINDOWS = 1 / 6, 1 / 3
# What misses less of the paper's light than this share of the strongest ink is paper.
PAPER_SHARE = 0.35
# A picture whose ink differs from the paper by less (scale 0 to 1) is blank.
LEAST_CONTRAST = 0.2
# Strokes are widened to this share
STROKE = 0.09
SHARP = 0.35
CELLS = 140


def read_own_digit(path: str) -> Tensor:
    grey = open_grey(path)
    ink, light = find_ink(grey)
    check_light(path, light)
    if not ink.any():
        raise UserError(f"{path} looks blank: draw one digit, large, dark on light")
    digit = crop_to_digit(path, ink)
    return centre(widen(digit))


def open_grey(path):
    try:
        if not Path(path).exists():
            raise UserError(f"there is no picture {path}")
        if not Path(path).is_file():
            raise UserError(
                f"{path} is no file but a folder or a device: name a picture"
            )
        with warnings.catch_warnings(), Image.open(path) as file:
            warnings.simplefilter("ignore")
            picture = ImageOps.exif_transpose(file)  # photos may be stored turned
            if picture.mode.startswith(("I", "F")):  # 16 bits and more per pixel
                values = np.asarray(picture, dtype=np.float32)
                values = 255 * values / max(1, values.max())
                picture = Image.fromarray(values.clip(0).astype(np.uint8))
            picture = picture.convert("RGBA")
            picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): save it as PNG or JPEG"
        ) from None
    paper = Image.new("RGBA", picture.size, "white")
    grey = Image.alpha_composite(paper, picture).convert("L")
    return torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)


def grow(image, size):
    """Let each pixel take the highest value in a square around it."""
    image = image[None, None]
    size = size // 2 * 2 + 1
    image = max_pool2d(image, (size, 1), 1, (size // 2, 0))
    return max_pool2d(image, (1, size), 1, (0, size // 2))[0, 0]


def resize(image, shape):
    mode = dict(mode="bilinear", antialias=True)
    return interpolate(image[None, None], shape, **mode)[0, 0]


def find_ink(grey):
    scale = min(1, LIGHT_SIZE / max(grey.shape))
    small = resize(grey, [max(1, round(scale * n)) for n in grey.shape])
    for window in WINDOWS:
        size = round(window * max(small.shape))
        wide = pad(small[None], [size] * 4, mode="replicate")[0]
        darker = close(wide, size) - wide
        lighter = close(-wide, size) + wide
        clear = max(darker.max(), lighter.max()) / 2
        flip = (grow(lighter, size) > clear).sum() > (grow(darker, size) > clear).sum()
        light = close(1 - small if flip else small, size)
        if not has_sharp_edge(light):
            break
    if flip:
        grey = 1 - grey
    paper = resize(light, grey.shape)
    ink = 1 - grey / paper.clamp(min=0.05)
    strongest = ink.flatten().sort().values[-max(1, ink.numel() // 5000)]
    weakest = ink.flatten().sort().values[max(0, ink.numel() // 5000 - 1)]
    if strongest < max(LEAST_CONTRAST, -2 * weakest):
        return torch.zeros_like(ink), light
    ink = (ink / strongest - PAPER_SHARE) / (1 - PAPER_SHARE)
    return ink.clamp(0, 1), light


def close(image, size):
    return -grow(-grow(image, size), size)


def has_sharp_edge(light):
    light = light.clamp(min=0.05).log()
    jumps = [(light[2:] - light[:-2]).abs(), (light[:, 2:] - light[:, :-2]).abs()]
    return sum((jump > SHARP).sum() for jump in jumps) > max(light.shape) / 2


def check_light(path, light):
    if has_sharp_edge(light):
        raise UserError(f"{path} shows a sharp edge")


def pieces(mask):
    labels = torch.arange(1.0, mask.numel() + 1).view(mask.shape) * mask
    while not labels.equal(spread := grow(labels, 3) * mask):
        labels = spread
    return [labels == label for label in labels.unique() if label]


def box(mask):
    rows, columns = mask.nonzero(as_tuple=True)
    return (
        rows.min().item(),
        rows.max().item() + 1,
        columns.min().item(),
        columns.max().item() + 1,
    )


def height(mask):
    t, b, _, _ = box(mask)
    return b - t


def longer(mask):
    t, b, l, r = box(mask)
    return max(b - t, r - l)


def crop_to_digit(path, ink):
    cell = -(-max(ink.shape) // CELLS)
    strength = max_pool2d(ink[None], cell, ceil_mode=True)[0]
    cells = strength > 0
    if cells.float().mean() > 0.5:
        raise UserError(f"{path} is covered with ink")
    edges = [cells[0], cells[-1], cells[:, 0], cells[:, -1]]
    if all(e.float().mean() > 0.9 for e in edges):
        raise UserError(f"{path} frame")
    parts = pieces(cells)
    parts = [part for part in parts if strength[part].max() > 0.4]
    size = max(map(longer, parts))
    parts = [part for part in parts if longer(part) >= 0.12 * size]
    digit = torch.stack(parts).any(dim=0)
    groups = [g & digit for g in pieces(grow(digit.float(), round(0.1 * height(digit))) > 0)]
    for g in groups:
        t, b, l, r = box(g)
        if len(groups) > 1 and (
            (t == 0 and b == digit.shape[0]) or (l == 0 and r == digit.shape[1])
        ):
            raise UserError(f"{path} edge to edge")
    tall = max(map(height, groups))
    similar = [g for g in groups if height(g) > 0.6 * tall]
    if len(similar) > 1:
        raise UserError(f"{path} shows {len(similar)} several")
    ink = (
        ink
        * digit.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[
            : ink.shape[0], : ink.shape[1]
        ]
    )
    t, b, l, r = box(ink > 0)
    if (ink[t:b, l:r] > 0).float().mean() > 0.7 and 2 * (r - l) > b - t:
        raise UserError(f"{path} solid")
    if r - l > 2 * (b - t):
        raise UserError(f"{path} wide")
    return ink[t:b, l:r]


def widen(digit):
    mask = (digit > 0).float()
    size = max(mask.shape)
    edge = mask.sum() + (grow(-pad(mask, [1] * 4), 3)).sum()
    width = 2 * mask.sum() / edge
    missing = round(STROKE * size - width.item())
    if missing < 1:
        return digit
    return grow(pad(digit, [missing // 2 + 1] * 4), missing + 1)


def centre(digit):
    height, width = (max(1, round(20 * n / max(digit.shape))) for n in digit.shape)
    digit = np.asarray(
        Image.fromarray(digit.numpy()).resize((width, height), Image.Resampling.BOX)
    )
    digit = (digit / digit.max()).clip(0, 1)
    middle_row = (digit.sum(axis=1) * np.arange(height)).sum() / digit.sum()
    middle_column = (digit.sum(axis=0) * np.arange(width)).sum() / digit.sum()
    top = min(max(round(14 - middle_row), 0), 28 - height)
    left = min(max(round(14 - middle_column), 0), 28 - width)
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[top : top + height, left : left + width] = torch.from_numpy(
        np.round(255 * digit).astype(np.uint8)
    )
    return image
