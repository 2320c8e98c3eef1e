"""Drawn digits: a stand-in for MNIST that needs no download and no font.

Every picture is 28 x 28 grey, like MNIST, and is made in these steps:

1. Pick a digit and one of the ways people write it (the table `STYLES`).
2. Move the control points a little, as no hand writes a digit the same way twice.
3. Run a smooth curve (a Catmull-Rom spline) through the control points of each
   stroke and cut all curves into `PIECES` short pieces.
4. Stretch, slant, turn and gently bend the whole digit.
5. Scale it so that the ink fits a 20 x 20 box, and put its centre of mass into the
   middle of the picture: this is how MNIST was made, too.
6. Put one soft round dot of ink on every piece and add the dots up. Where the sum is
   above a threshold there is ink; thickness and softness of the pen vary.
"""

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor

IMAGE_SIZE = 28  # pixels, as in MNIST
BOX_SIZE = 20.0  # pixels, the longer side of the ink, as in MNIST
PIECES = 64  # short pieces per digit: less than 1 pixel each for most digits
CHUNK = 1000  # digits drawn at once: small enough to stay near the CPU cache

# A dot's ink falls off like a bell curve; a single straight line of dots has the
# height 1 in its middle. Ink is what lies above this height.
INK_LEVEL = 0.35
# The distance from the middle of a line to INK_LEVEL, in widths of the bell curve.
EDGE = math.sqrt(2 * math.log(1 / INK_LEVEL))

# Spread of the variations, as standard deviations. Half the digit's height is 1.
JITTER = 0.09  # of the control points
WAVES = 3  # number of waves that bend a digit
WAVE_TURNS = 1.5  # radians a wave advances over half the digit's height
BEND = 0.09  # height of the waves
SLANT_MEAN, SLANT = 0.15, 0.25  # sideways per upwards: people lean to the right
TURN = 0.12  # radians
NARROW_MEAN, NARROW = 0.08, 0.22  # logarithm of the width
# Half the width of a line, in pixels: typical value, spread of its logarithm, limits.
PEN_MEAN, PEN, PEN_MIN, PEN_MAX = 1.25, 0.25, 0.7, 2.3

# How people write digits: (digit, share, strokes). The share weighs the styles of one
# digit against each other. A stroke is a list of x,y control points in hundredths of
# the height (x to the right, y down); " / " lifts the pen; a star marks a corner.
STYLES = [
    # 0: round; starting top right and crossing over; open at the top; leaning
    (0, 3, "50,0 25,14 15,50 27,88 50,100 74,88 85,50 75,14 50,0"),
    (0, 2, "66,8 42,0 20,25 15,62 32,96 58,98 80,72 80,32 62,4 42,6"),
    (0, 1, "45,2 22,22 15,60 32,96 60,96 82,65 78,25 58,6"),
    (0, 3, "62,2 34,20 14,58 22,92 46,98 74,72 88,34 80,6 60,0"),
    # 1: plain; with a flag; with a flag and a foot
    (1, 7, "50,0 50,33 50,67 50,100"),
    (1, 2, "32,20 50,0* 50,50 50,100"),
    (1, 1, "28,22 50,0* 50,50 50,100 / 22,100 50,100 78,99"),
    # 2: with a corner; with a small loop; with a large loop; with a wave for a foot;
    # with a long foot; with a short foot
    (2, 3, "18,24 34,3 62,2 77,24 64,54 40,78 15,98* 50,98 86,96"),
    (2, 3, "18,25 38,2 66,3 76,28 60,62 32,92 12,94 14,78 32,78 55,92 88,96"),
    (2, 3, "22,20 42,1 66,8 70,42 54,80 28,98 8,86 20,68 48,74 70,92 98,86"),
    (2, 2, "20,14 45,0 72,8 74,30 52,65 18,95* 38,86 62,96 88,90"),
    (2, 3, "15,20 34,2 56,10 54,42 14,84* 62,82 112,80"),
    (2, 1, "24,18 44,0 66,12 58,50 30,92* 50,92 76,94"),
    # 3: two bows; with a flat top; with a small loop in the middle; with a long middle
    (3, 4, "20,12 45,0 72,12 67,34 40,46* 70,54 80,77 55,99 16,90"),
    (3, 1, "20,4 74,3* 44,40* 74,52 78,80 50,100 18,92"),
    (3, 2, "22,10 48,0 72,14 62,38 40,48 38,42 52,44 74,60 70,88 44,100 16,92"),
    (3, 2, "14,10 48,0 78,10 62,36 24,50* 66,50 84,72 62,96 8,94"),
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
    # 6: with a bent back; with a straight back; with a large loop
    (6, 4, "60,0 36,24 20,62 28,94 54,99 76,82 66,60 44,58 24,76"),
    (6, 2, "46,0 32,35 24,72 32,96 56,98 72,82 60,66 38,72 27,86"),
    (6, 2, "74,6 46,8 22,40 20,78 42,100 72,92 84,68 64,48 34,54 22,70"),
    # 7: plain; with a bar; with a hook; round
    (7, 4, "15,8 48,6 82,4* 64,48 52,100"),
    (7, 2, "15,8 48,6 82,4* 62,48 50,100 / 36,52 58,50 82,47"),
    (7, 3, "18,32 20,8* 48,8 82,4* 68,45 56,100"),
    (7, 2, "12,16 28,5 56,8 80,6 76,32 60,66 54,100"),
    # 8: from the top right; from the top; two rings; leaning with open ends; starting
    # in the middle
    (8, 4, "74,14 50,0 27,14 36,38 60,54 74,78 50,100 26,82 36,58 62,38 76,12"),
    (8, 2, "52,2 28,10 30,34 60,52 74,78 50,100 26,80 40,54 66,36 70,10 48,1"),
    (8, 1, "50,0 28,22 50,46 72,22 50,0 / 50,46 24,72 50,100 76,72 50,46"),
    (8, 3, "84,10 56,4 30,22 42,44 58,62 56,88 36,100 22,86 38,62 66,38 90,2"),
    (8, 1, "56,46 30,34 32,10 58,0 76,18 60,44 30,66 26,90 50,100 70,84 56,48"),
    # 9: straight tail; curved tail; open at the top; with a flat lid
    (9, 4, "74,14 50,2 26,20 30,44 54,44 74,16* 72,55 66,100"),
    (9, 2, "74,16 50,2 26,20 32,46 56,44 74,16* 76,50 66,90 36,98"),
    (9, 3, "68,8 44,2 24,24 36,46 62,36 72,8 70,35 58,70 48,100"),
    (9, 2, "82,8 48,4 22,24 30,48 58,42 78,10* 72,50 62,100"),
]


def _spline(knots: int) -> Callable[[Tensor], Tensor]:
    raise NotImplementedError


def _piece_weights(strokes: str) -> Tensor:
    """Return how much each control point counts in the ends of a style's pieces.

    A point on a spline is a weighted sum of control points. These weights turn moved
    control points into moved pieces by one matrix product: [2 ends, PIECES, points].
    """
    points: list[list[float]] = []
    sharp: set[int] = set()  # points where the curve does not run smoothly on
    stretches: list[int] = []  # the curve between point i and point i + 1
    for stroke in strokes.split("/"):
        first = len(points)
        for token in stroke.split():
            if token.endswith("*"):
                sharp.add(len(points))
            points.append([float(number) for number in token.rstrip("*").split(",")])
        sharp |= {first, len(points) - 1}
        stretches += range(first, len(points) - 1)

    # Steps much finer than the pieces, to measure the curve's length.
    fine = 32
    begin = torch.zeros(len(stretches) * fine, len(points))
    end = torch.zeros_like(begin)
    edges = torch.arange(fine + 1) / fine
    # The Catmull-Rom polynomials of the points before, at, at, after a stretch.
    polynomials = [
        (-edges + 2 * edges**2 - edges**3) / 2,
        1 - (5 * edges**2 - 3 * edges**3) / 2,
        (edges + 4 * edges**2 - 3 * edges**3) / 2,
        (edges**3 - edges**2) / 2,
    ]
    for row, i in enumerate(stretches):
        before = i if i in sharp else i - 1
        after = i + 1 if i + 1 in sharp else i + 2
        rows = slice(row * fine, (row + 1) * fine)
        for point, weight in zip((before, i, i + 1, after), polynomials, strict=True):
            begin[rows, point] += weight[:-1]
            end[rows, point] += weight[1:]

    lengths = ((end - begin) @ torch.tensor(points)).norm(dim=1)
    travelled = lengths.cumsum(0)
    piece = travelled[-1] / PIECES
    pick = torch.searchsorted(travelled, (torch.arange(PIECES) + 0.5) * piece)
    middle = (begin + end)[pick] / 2
    half = (end - begin)[pick] * (piece / 2 / lengths[pick])[:, None]
    return torch.stack([middle - half, middle + half])


def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return digits, shares, control points and piece weights of all styles, padded."""
    digits = torch.tensor([digit for digit, _, _ in STYLES])
    shares = torch.tensor([float(share) for _, share, _ in STYLES])
    shares /= torch.zeros(10).index_add_(0, digits, shares)[digits]
    weights = [_piece_weights(strokes) for _, _, strokes in STYLES]
    most = max(w.shape[2] for w in weights)
    points = torch.zeros(len(STYLES), most, 2)
    table = torch.zeros(len(STYLES), 2, PIECES, most)
    for i, (_, _, strokes) in enumerate(STYLES):
        numbers = [float(number) for number in re.findall(r"\d+", strokes)]
        found = torch.tensor(numbers).view(-1, 2)
        points[i, : len(found)] = found / 50 - 1
        table[i, :, :, : len(found)] = weights[i]
    return digits, shares, points, table


def _pieces(points: Tensor, weights: Tensor, rng: torch.Generator) -> Tensor:
    """Return the ends of all pieces in digit units, varied: [n, 2 * PIECES, 2]."""
    n = len(points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=rng)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=rng)

    sloppy = JITTER * (0.3 + 1.4 * uniform(1, 1))
    points = points + sloppy * normal(points.shape[1], 2)
    ends = torch.bmm(weights.flatten(1, 2), points)  # [n, 2 * PIECES, 2]

    # A few slow waves across the plane bend the digit as a whole.
    phase = torch.bmm(ends, WAVE_TURNS * normal(2, WAVES)) + 2 * math.pi * uniform(
        1, WAVES
    )
    ends = ends + torch.bmm(phase.sin(), BEND * normal(WAVES, 2))

    slant = SLANT_MEAN + SLANT * normal()
    turn = TURN * normal()
    narrow = torch.exp(NARROW_MEAN + NARROW * normal())
    zero, one = torch.zeros(n), torch.ones(n)
    widen = torch.stack([narrow, zero, -slant, one], dim=1).view(n, 2, 2)
    rotate = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], dim=1)
    return ends @ widen @ rotate.view(n, 2, 2)


def _draw(ends: Tensor, rng: torch.Generator) -> Tensor:
    """Ink the pieces: [n, 2 * PIECES, 2] -> uint8 [n, 28, 28]."""
    n = len(ends)
    radius = PEN_MEAN * torch.exp(PEN * torch.randn(n, 1, 1, generator=rng))
    radius = radius.clamp(PEN_MIN, PEN_MAX)
    soft = 0.6 + 0.8 * torch.rand(n, 1, 1, generator=rng)

    extent = (ends.amax(1) - ends.amin(1)).amax(1).view(n, 1, 1)
    ends = ends * ((BOX_SIZE - 1.6 * radius) / extent)
    begin, end = ends.chunk(2, dim=1)
    middle = (begin + end) / 2  # [n, PIECES, 2]
    length = (end - begin).norm(dim=2, keepdim=True)  # [n, PIECES, 1]
    mass = length.sum(1, keepdim=True)
    middle = middle - (middle * length).sum(1, keepdim=True) / mass
    middle = middle + torch.rand(n, 1, 2, generator=rng) + (IMAGE_SIZE - 1) / 2

    # A round bell curve is one bell curve across times one down, so that the sum over
    # all dots is a matrix product: [n, 28, PIECES] @ [n, PIECES, 28] -> [n, 28, 28].
    bell = radius / EDGE
    scale = (1 / (bell * math.sqrt(2)))[..., None]  # [n, 1, 1, 1]
    pixels = torch.arange(IMAGE_SIZE)
    bells = pixels * scale - middle[..., None] * scale  # [n, PIECES, 2, 28]
    bells = bells.square_().neg_().exp_()
    across, down = bells[:, :, 0], bells[:, :, 1]  # [n, PIECES, 28]
    across *= length / (bell * math.sqrt(2 * math.pi))
    height = torch.bmm(down.mT, across)

    # The height tells how far a pixel is from the middle of a line, and that tells how
    # much of the pixel the pen has covered.
    distance = height.clamp_(1e-4, 1).log_().mul_(-2).sqrt_().mul_(bell)
    ink = (radius - distance) / soft + 0.5
    return ink.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def make_digits(
    count: int, seed: int, progress: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Draw digits as handwriting; the same seed gives the same digits.

    Args:
        count: How many digits to draw, 0 or more.
        seed: Start of the random numbers; PyTorch's own random state is not touched.
        progress: Called after each chunk with the number of digits just drawn.

    Returns:
        Images, uint8 [count, 28, 28], from 0 (paper) to 255 (ink), and their labels,
        int64 [count], from 0 to 9, all equally likely and in random order.

    Raises:
        ValueError: If count is negative.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, not {count}")
    rng = torch.Generator().manual_seed(seed)
    digits, shares, points, weights = _tables()
    images = torch.empty(count, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    for start in range(0, count, CHUNK):
        # Always a whole chunk, so that a digit does not depend on count.
        style = torch.multinomial(shares, CHUNK, replacement=True, generator=rng)
        ends = _pieces(points[style], weights[style], rng)
        used = min(CHUNK, count - start)
        images[start : start + used] = _draw(ends, rng)[:used]
        labels[start : start + used] = digits[style[:used]]
        if progress is not None:
            progress(used)
    return images, labels
