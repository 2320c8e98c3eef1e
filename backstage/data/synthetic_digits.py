"""Digits drawn as handwriting: a stand-in for MNIST without download and font.

Every picture is 28 x 28 grey, like MNIST, and is made in these steps:

1. Pick a digit and one of the ways people write it (the table STYLES).
2. Move its control points a little: nobody writes a digit the same way twice.
3. Run a smooth curve (a Catmull-Rom spline) through the control points of each
   stroke, and cut the curves into short pieces.
4. Gently bend the digit as a whole, then widen, slant and turn it.
5. Scale it so that the ink fits a 20 x 20 box and move its centre of mass to the
   middle of the picture, as it was done for MNIST.
6. Put one soft round dot of ink on every piece and add up the dots. The sum tells how
   far a pixel is from the line, and so whether the pen has touched it.

All steps work on many digits at once: n is the number of digits in a chunk.
"""

import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from backstage.files import atomic_path
from backstage.terminal import UserError, print_wrapped

IMAGE_SIZE = 28  # pixels, as in MNIST
BOX_SIZE = 20  # pixels, the longer side of the ink, as in MNIST
PIECES = 64  # per digit; a piece is then about 1 pixel long, and dots leave no gaps
CHUNK = 2000  # digits drawn at once: a balance of memory and speed

# Standard deviations of the variations. The unit is half the height of a digit.
JITTER = 0.1  # of a control point
BEND = 0.09  # of the height of one wave that bends the digit
WAVES = 3  # waves per digit
WAVE_TURN = 1.5  # radians that a wave advances in one unit
WIDEN_MEAN, WIDEN = 0.08, 0.22  # logarithm of the width's factor
SLANT_MEAN, SLANT = 0.15, 0.25  # units to the right per unit up: most people lean right
TURN = 0.12  # radians
# Half the width of the line in pixels: usual value, deviation of its logarithm, limits.
PEN_MEAN, PEN, PEN_MIN, PEN_MAX = 1.22, 0.3, 0.7, 2.3
SOFT_MIN, SOFT_MAX = 0.6, 1.4  # pixels from full ink to none at the edge of the line

# A dot fades like a bell curve, and a straight row of dots has the height 1 along its
# middle. The line ends where the height has fallen to this share. A low share makes
# narrow dots, and neighbouring lines do not run into each other.
EDGE_HEIGHT = 0.2
# The distance from the middle of a line to its edge, in widths of the bell curve.
EDGE = math.sqrt(-2 * math.log(EDGE_HEIGHT))

# How people write digits: (digit, share, strokes). The share weighs the styles of one
# digit against each other. A stroke is a list of x,y control points in hundredths of
# the height (x to the right, y down); " / " lifts the pen; a star marks a corner.
# The comments name the styles of a digit in the order of the lines.
STYLES = [
    # 0: round; crossing over; open at the top; leaning; starting with a hook
    (0, 3, "50,0 25,14 15,50 27,88 50,100 74,88 85,50 75,14 50,0"),
    (0, 2, "66,8 42,0 20,25 15,62 32,96 58,98 80,72 80,32 62,4 42,6"),
    (0, 1, "45,2 22,22 15,60 32,96 60,96 82,65 78,25 58,6"),
    (0, 3, "62,2 34,20 14,58 22,92 46,98 74,72 88,34 80,6 60,0"),
    (0, 1, "40,26 60,6 36,6 16,40 22,86 50,100 80,76 82,28 62,4 46,8"),
    # 1: straight; leaning; slightly bent; with a flag; with a flag and a foot
    (1, 3, "51,0 48,100"),
    (1, 4, "68,0 32,100"),
    (1, 3, "56,0 50,50 44,100"),
    (1, 2, "36,20 56,0* 46,100"),
    (1, 1, "28,22 50,0* 50,50 50,100 / 22,100 50,100 78,99"),
    # 2: corner; small loop; large loop; wavy foot; long foot; short foot; upright; tall
    (2, 3, "18,24 34,3 62,2 77,24 64,54 40,78 15,98* 50,98 86,96"),
    (2, 3, "18,25 38,2 66,3 76,28 60,62 32,92 12,94 14,78 32,78 55,92 88,96"),
    (2, 3, "22,20 42,1 66,8 70,42 54,80 28,98 8,86 20,68 48,74 70,92 98,86"),
    (2, 2, "20,14 45,0 72,8 74,30 52,65 18,95* 38,86 62,96 88,90"),
    (2, 3, "15,20 34,2 56,10 54,42 14,84* 62,82 112,80"),
    (2, 1, "24,18 44,0 66,12 58,50 30,92* 50,92 76,94"),
    (2, 1, "24,24 42,2 62,12 58,46 38,88 12,98* 50,93 90,92"),
    (2, 2, "18,30 30,4 62,2 74,28 64,70 38,98 14,92 16,70 38,66 62,84 82,98"),
    # 3: two bows; flat top; loop in the middle; long middle; curled end
    (3, 4, "20,12 45,0 72,12 67,34 40,46* 70,54 80,77 55,99 16,90"),
    (3, 1, "20,4 74,3* 44,40* 74,52 78,80 50,100 18,92"),
    (3, 2, "22,10 48,0 72,14 62,38 40,48 38,42 52,44 74,60 70,88 44,100 16,92"),
    (3, 2, "14,10 48,0 78,10 62,36 24,50* 66,50 84,72 62,96 8,94"),
    (3, 3, "32,10 50,0 66,12 58,34 40,46* 64,54 70,80 46,100 20,92 10,78"),
    # 4: open; closed; in one line; with a short stem
    (4, 4, "26,2 20,30 20,50 50,54 84,48 / 74,0 70,50 64,100"),
    (4, 2, "66,0 42,28 15,62* 50,63 88,60 / 66,0 65,50 62,100"),
    (4, 3, "24,4 20,38 42,52 68,38 76,4* 72,52 66,100"),
    (4, 1, "48,0 34,30 14,60* 60,58 100,54 / 66,32 60,64 54,100"),
    # 5: in two strokes; in one stroke; like an S; with a long flag
    (5, 4, "32,4 28,42* 56,38 78,60 68,90 40,100 14,90 / 32,4 56,4 82,0"),
    (5, 3, "80,2 34,5* 28,42* 56,40 76,62 64,92 38,100 14,92"),
    (5, 2, "80,4 48,4 32,20 42,42 66,56 70,82 46,100 16,92"),
    (5, 3, "40,8 34,44* 56,44 66,64 54,90 30,100 6,86 / 40,8 70,7 108,0"),
    # 6: bent back; straight back; large loop; loop on the right
    (6, 4, "60,0 36,24 20,62 28,94 54,99 76,82 66,60 44,58 24,76"),
    (6, 2, "46,0 32,35 24,72 32,96 56,98 72,82 60,66 38,72 27,86"),
    (6, 1, "74,6 46,8 22,40 20,78 42,100 72,92 84,68 64,48 34,54 22,70"),
    (6, 2, "38,0 22,40 18,76 34,99 60,94 78,72 66,58 46,68 36,94"),
    # 7: plain; with a bar; with a hook; round
    (7, 4, "15,8 48,6 82,4* 64,48 52,100"),
    (7, 2, "15,8 48,6 82,4* 62,48 50,100 / 36,52 58,50 82,47"),
    (7, 3, "18,32 20,8* 48,8 82,4* 68,45 56,100"),
    (7, 2, "12,16 28,5 56,8 80,6 76,32 60,66 54,100"),
    # 8: from top right; from top; two rings; leaning; from the middle; top-heavy; wide
    (8, 4, "74,14 50,0 27,14 36,38 60,54 74,78 50,100 26,82 36,58 62,38 76,12"),
    (8, 2, "52,2 28,10 30,34 60,52 74,78 50,100 26,80 40,54 66,36 70,10 48,1"),
    (8, 1, "50,0 28,22 50,46 72,22 50,0 / 50,46 24,72 50,100 76,72 50,46"),
    (8, 3, "84,10 56,4 30,22 42,44 58,62 56,88 36,100 22,86 38,62 66,38 90,2"),
    (8, 1, "56,46 30,34 32,10 58,0 76,18 60,44 30,66 26,90 50,100 70,84 56,48"),
    (8, 2, "76,14 50,0 24,12 24,32 46,50 62,72 58,94 42,100 30,88 42,62 72,38 78,16"),
    (8, 1, "50,45 22,34 28,8 58,0 84,16 72,38 38,50 14,70 50,100 88,80 78,56 50,45"),
    # 9: straight tail; curved tail; open; flat lid; small ring; curled tail; large ring
    (9, 4, "72,14 50,2 28,20 32,44 54,44 72,16* 70,55 64,100"),
    (9, 2, "74,16 50,2 26,20 32,46 56,44 74,16* 76,50 66,90 36,98"),
    (9, 3, "68,8 44,2 24,24 36,46 62,36 72,8 70,35 58,70 48,100"),
    (9, 2, "82,8 48,4 22,24 30,48 58,42 78,10* 72,50 62,100"),
    (9, 3, "66,10 48,0 32,16 34,34 50,36 66,12* 63,55 56,100"),
    (9, 2, "70,12 48,0 28,18 36,42 58,40 70,14* 70,60 54,98 30,94 20,80"),
    (9, 2, "70,16 46,0 22,26 26,52 48,58 70,20* 67,60 60,100"),
]


def _read_style(strokes: str) -> tuple[Tensor, Tensor]:
    """Return control points [points, 2] and their weights [points, 2 * PIECES].

    Every point of a spline is a weighted sum of control points. Times these weights,
    control points, moved or not, give the beginnings and then the ends of all pieces.
    """
    numbers: list[list[float]] = []
    breaks: set[int] = set()  # control points where a smooth curve begins or ends
    stretches: list[int] = []  # stretch i runs from control point i to i + 1
    for stroke in strokes.split("/"):
        first = len(numbers)
        for token in stroke.split():
            if token.endswith("*"):
                breaks.add(len(numbers))
            numbers.append([float(number) for number in token.rstrip("*").split(",")])
        last = len(numbers) - 1
        breaks |= {first, last}
        stretches += range(first, last)
    points = torch.tensor(numbers) / 50 - 1  # middle of the digit at 0, edges at 1
    # The 4 control points that shape a stretch; at a break it is its own neighbour.
    shapers = torch.tensor(
        [
            [i if i in breaks else i - 1, i, i + 1, i + 1 if i + 1 in breaks else i + 2]
            for i in stretches
        ]
    )

    # Long stretches get more pieces: walk along the straight lines between the points.
    straight = (points[shapers[:, 2]] - points[shapers[:, 1]]).norm(dim=1)
    walked = straight.cumsum(0)
    step = walked[-1] / PIECES
    place = (torch.arange(PIECES) + 0.5) * step
    stretch = torch.searchsorted(walked, place)
    middle = 1 - (walked[stretch] - place) / straight[stretch]  # 0..1 in its stretch
    half = step / straight[stretch] / 2
    t = torch.cat([middle - half, middle + half])  # [2 * PIECES]
    catmull_rom = [
        -t + 2 * t**2 - t**3,
        2 - 5 * t**2 + 3 * t**3,
        t + 4 * t**2 - 3 * t**3,
        t**3 - t**2,
    ]
    weights = torch.zeros(len(points), 2 * PIECES)
    weights.scatter_add_(0, shapers[stretch.repeat(2)].T, torch.stack(catmull_rom) / 2)
    return points, weights


def _vary(points: Tensor, weights: Tensor, rng: torch.Generator) -> Tensor:
    """Return the pieces of varied digits, beginnings and then ends.

    points [n, points, 2], weights [n, points, 2 * PIECES] -> [n, 2, 2 * PIECES]
    """
    n = len(points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=rng)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=rng)

    care = 0.3 + 1.4 * uniform(1, 1)  # some people write neatly, some do not
    noise = normal(points.shape[1] + 1, 2)
    # Neighbours share half of their noise: wobbly lines would not look like a hand's.
    noise = (noise[:, 1:] + noise[:, :-1]) / math.sqrt(2)
    points = points + JITTER * care * noise
    ends = points.mT @ weights  # [n, 2, points] @ [n, points, 2 * PIECES]

    phase = WAVE_TURN * normal(WAVES, 2) @ ends + 2 * math.pi * uniform(WAVES, 1)
    ends = ends + BEND * normal(2, WAVES) @ phase.sin()  # [n, 2, 2 * PIECES]

    width = (WIDEN_MEAN + WIDEN * normal()).exp()
    slant = SLANT_MEAN + SLANT * normal()
    turn = TURN * normal()
    zero, one = torch.zeros(n), torch.ones(n)
    # y points down, so a slant to the right is negative.
    slanted = torch.stack([width, -slant, zero, one], dim=1).view(n, 2, 2)
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1)
    return turned.view(n, 2, 2) @ slanted @ ends


def _ink(ends: Tensor, rng: torch.Generator) -> Tensor:
    """Draw the pieces with pens of different width: -> uint8 [n, 28, 28]."""
    n = len(ends)
    radius = PEN_MEAN * (PEN * torch.randn(n, 1, 1, generator=rng)).exp()
    radius = radius.clamp(PEN_MIN, PEN_MAX)
    soft = SOFT_MIN + (SOFT_MAX - SOFT_MIN) * torch.rand(n, 1, 1, generator=rng)

    extent = (ends.amax(2) - ends.amin(2)).amax(1).view(n, 1, 1)
    # 0.8: a line's end is covered less far out than its sides.
    begin, end = (ends * ((BOX_SIZE - 2 * 0.8 * radius) / extent)).chunk(2, dim=2)
    length = (end - begin).norm(dim=1, keepdim=True)  # [n, 1, PIECES]
    middle = (begin + end) / 2  # [n, 2, PIECES]
    centre = (middle * length).sum(2, keepdim=True) / length.sum(2, keepdim=True)
    # MNIST's pictures were moved by whole pixels, which leaves up to half a pixel.
    offset = torch.rand(n, 2, 1, generator=rng) - 0.5
    middle = middle - centre + IMAGE_SIZE / 2 + offset

    # A round bell curve is one across times one down, so a matrix product adds up all
    # dots: [n, 28, PIECES] @ [n, PIECES, 28] -> [n, 28, 28].
    bell = radius / EDGE
    scale = 1 / (bell * math.sqrt(2))
    pixels = torch.arange(IMAGE_SIZE) * scale[..., None]  # [n, 1, 1, 28]
    bells = pixels - (middle * scale)[..., None]  # [n, 2, PIECES, 28]
    across, down = bells.square_().neg_().exp_().unbind(1)
    across *= (length / (bell * math.sqrt(2 * math.pi))).mT
    height = down.mT @ across

    # The bell curve backwards: from the height to the distance from the line.
    distance = height.clamp_(max=1).log_().mul_(-2).sqrt_().mul_(bell)
    covered = (radius - distance) / soft + 0.5
    return covered.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def make_digits(
    count: int, seed: int, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw digits as handwriting. The same seed gives the same digits.

    Args:
        count: How many digits to draw, 0 or more.
        seed: Start of the random numbers; PyTorch's own random state is not touched.
        progress: Called after every chunk with the number of digits just finished.

    Returns:
        The images, uint8 [count, 28, 28], from 0 (paper) to 255 (ink), and their
        labels, int64 [count], from 0 to 9, equally likely and in random order.

    Raises:
        ValueError: If count is negative.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    rng = torch.Generator().manual_seed(seed)
    digits = torch.tensor([digit for digit, _, _ in STYLES])
    shares = torch.tensor([float(share) for _, share, _ in STYLES])
    shares /= torch.zeros(10).index_add_(0, digits, shares)[digits]  # 1 per digit
    styles = [_read_style(strokes) for _, _, strokes in STYLES]
    points = pad_sequence([points for points, _ in styles], batch_first=True)
    weights = pad_sequence([weights for _, weights in styles], batch_first=True)

    images = torch.empty(count, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for start in range(0, count, CHUNK):
        # Always draw a whole chunk, so that a digit does not depend on count.
        style = torch.multinomial(shares, CHUNK, replacement=True, generator=rng)
        drawn = _ink(_vary(points[style], weights[style], rng), rng)
        stop = min(start + CHUNK, count)
        images[start:stop] = drawn[: stop - start]
        labels[start:stop] = digits[style[: stop - start]]
        if progress is not None:
            progress(stop - start)
    return images, labels


def load_synthetic(data_dir: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return synthetic digits in the form of MNIST, drawn once and then kept.

    Returns:
        As load_mnist in mnist.py.
    """
    cache = data_dir / "synthetic_digits.npz"
    # Edited drawing code must not be answered with digits drawn by the old code.
    code = Path(__file__).read_bytes()
    version = hashlib.md5(code, usedforsecurity=False).hexdigest()
    try:
        with np.load(cache) as saved:  # compares the checksums inside the file, too
            fresh = str(saved["version"]) == version
            images, labels = saved["images"], saved["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        fresh = False
    if not fresh:
        print("Drawing 70,000 synthetic digits")
        # disable=None: a progress bar on a terminal, nothing in a file.
        with tqdm(total=70_000, unit=" digits", ascii=True, disable=None) as bar:
            drawn = make_digits(70_000, seed=0, progress=bar.update)
        images, labels = (tensor.numpy() for tensor in drawn)
        try:
            with atomic_path(cache) as path, open(path, "wb") as file:
                np.savez(file, version=version, images=images, labels=labels)
        except UserError as error:
            print_wrapped(f"They will be drawn again next time: {error}.")
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    return images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]
