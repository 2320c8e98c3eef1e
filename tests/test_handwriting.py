"""handwriting.py: photos and drawings of digits, and files that are something else."""

import os
import random
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

import dl_utils
from backstage.own import handwriting
from backstage.own.handwriting import find_ink, fit_like_mnist, read_own_digit
from backstage.terminal import UserError

# The lines of each digit: x,y in hundredths of its height; " / " lifts the pen. The 0
# is open, the lines of the 4 do not meet, and the bar of the 5 hovers.
DIGITS = [
    "45,0 15,20 12,50 15,80 45,100 / 55,2 84,20 86,50 84,80 55,98",
    "58,0 54,35 50,70 47,100",
    "22,24 34,6 55,0 72,10 74,28 60,55 40,78 18,97 50,97 86,95",
    "22,12 45,0 66,6 70,22 60,38 40,46 62,52 74,68 70,86 48,99 18,90",
    "26,2 20,30 20,54 45,54 60,54 / 74,10 74,50 74,100",
    "32,14 28,42 56,38 78,60 68,90 40,100 14,90 / 30,2 82,2",
    "60,0 38,22 24,55 26,84 46,100 68,90 74,70 60,56 40,58 27,74",
    "16,6 48,5 80,3 66,40 56,70 50,100",
    "70,12 50,0 30,10 32,28 52,46 72,66 70,88 50,100 28,90 26,70 46,48 68,30 71,12",
    "70,14 50,2 30,14 30,36 46,46 64,36 71,14 68,50 62,100",
]


def draw(lines, pen, size=(600, 450), box=(200, 90, 260)):
    """Return ink, 0 to 1, in a picture (width, height); box: left, top and height."""
    picture = Image.new("L", size)
    pencil = ImageDraw.Draw(picture)
    left, top, height = box
    for line in lines.split(" / "):
        points = np.array([point.split(",") for point in line.split()], float)
        points = [*map(tuple, points * height / 100 + (left, top))]
        pencil.line(points, fill=255, width=pen, joint="curve")
    return np.asarray(picture) / 255


def on_paper(ink, paper=0.93, pen=0.15):
    """Return the grey values of ink of some brightness on paper of another."""
    return paper + (pen - paper) * ink


def noise(values, amount):
    return values + np.random.default_rng(0).normal(0, amount, values.shape)


def grey_image(values):
    return Image.fromarray((255 * np.clip(values, 0, 1)).round().astype(np.uint8))


SEVEN = draw(DIGITS[7], 40, (420, 560), (60, 110, 320))


@pytest.fixture
def read(tmp_path):
    """Return a function that saves a picture and reads it as the lesson does."""

    def save_and_read(picture, name="digit.png", **options):
        if isinstance(picture, np.ndarray):
            picture = grey_image(picture)
        picture.save(tmp_path / name, **options)
        return read_own_digit(str(tmp_path / name))

    return save_and_read


def refused(path, words):
    """Check that a picture is refused in one line, which names it."""
    with pytest.raises(UserError, match=words) as error:
        read_own_digit(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def shadow_of_a_hand(digit):
    fingers = draw("67,29 111,89 80,29 / 96,29 111,89", 45, box=(0, 0, 450))
    palm = draw("114,60 114,100", 370, box=(0, 0, 450))
    shadow = grey_image(fingers + palm).filter(ImageFilter.GaussianBlur(12))
    page = on_paper(draw(digit, 8, box=(160, 90, 260)))
    return noise(page * (1 - 0.45 * np.asarray(shadow) / 255), 0.01)


LIGHT = np.linspace(1, 0.5, 600)  # falls off from left to right
SQUARES = np.full((450, 600), 0.93)
SQUARES[::25] = SQUARES[:, ::25] = 0.72
STYLES = {
    "marker": lambda d: on_paper(draw(d, 24)),
    "one pixel": lambda d: 1 - draw(d, 1),
    "three pixels": lambda d: on_paper(draw(d, 3, (1152, 648), (400, 150, 360))),
    "light falling off": lambda d: noise(on_paper(draw(d, 8)) * LIGHT, 0.015),
    "shadow of a hand": shadow_of_a_hand,
    "pencil": lambda d: noise(on_paper(draw(d, 4), 0.88, 0.5), 0.015),
    "chalk": lambda d: noise(on_paper(draw(d, 9), 0.2, 0.8), 0.02),
    "squared paper": lambda d: SQUARES * (1 - 0.85 * draw(d, 7)),
    "small on a large sheet": lambda d: noise(
        on_paper(draw(d, 7, (1200, 900), (150, 600, 110))), 0.02
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_at_least_nine_of_ten_digits_are_read(style, read, synthetic_network):
    images = torch.stack([read(STYLES[style](digit)) for digit in DIGITS])
    answers = synthetic_network(dl_utils.normalize(images)).argmax(dim=1)
    assert (answers == torch.arange(10)).sum() >= 9


def test_a_clean_drawing_is_only_cut_out_scaled_and_centred(read):
    differences = []
    for digit in DIGITS:
        ink = draw(digit, 20, (280, 280), (40, 40, 200))
        image = read(1 - ink)
        assert (image.dtype, image.max()) == (torch.uint8, 255)

        drawing = grey_image(ink).crop(grey_image(ink).getbbox())
        shape = [round(20 * n / max(drawing.size)) for n in drawing.size]
        drawing = np.asarray(drawing.resize(shape, Image.Resampling.BOX))
        place = []
        for axis, n in enumerate(drawing.shape):
            centre = np.average(np.arange(n), weights=drawing.sum(axis=1 - axis))
            place.append(slice(round(14 - centre), round(14 - centre) + n))
        expected = torch.zeros(28, 28)
        expected[tuple(place)] = torch.tensor(drawing).float()
        differences.append((image - expected).abs().mean())
    # Of 255. A digit that lies one pixel beside its place makes about 20.
    assert np.mean(differences) < 10


def turned(values):
    photo = grey_image(values).transpose(Image.Transpose.ROTATE_90)
    photo.getexif()[0x0112] = 6  # "turn it to the right to look at it"
    return photo


FORMS = {
    "white on black": lambda p: grey_image(1 - p),
    "transparent": lambda p: Image.merge("LA", (grey_image(0 * p), grey_image(1 - p))),
    "colour": lambda p: Image.merge("RGB", [*map(grey_image, (0.9 * p, p, 1 - p / 3))]),
    "pale": lambda p: grey_image(0.5 + 0.4 * p),
    "16 bit": lambda p: Image.fromarray((65535 * p).astype(np.uint16)),
    "palette": lambda p: grey_image(p).convert("P"),
    "black and white": lambda p: grey_image(p).convert("1"),
    "tiny": lambda p: grey_image(p).resize((21, 28)),
    "huge": lambda p: grey_image(p).resize((3000, 4000), Image.Resampling.NEAREST),
    "turned": turned,
    "filling the picture": lambda p: grey_image(p).crop(grey_image(1 - p).getbbox()),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_kinds_of_pictures_give_nearly_the_same_image(read, form, tmp_path):
    picture = FORMS[form](1 - SEVEN)
    images = read(1 - SEVEN), read(picture, exif=picture.getexif())
    assert torch.cosine_similarity(*(i.float().view(1, -1) for i in images)) > 0.85
    assert max(handwriting.open_grey(str(tmp_path / "digit.png")).shape) == 560


def test_a_dark_spot_does_not_make_the_rest_pale(read):
    ink = 0.8 * SEVEN
    ink[110:142, 200:232] = 1  # where the pen rested
    assert (read(1 - ink) > 250).sum() >= 20
    # White is what the darkest twentieth has: here, two rows of twenty.
    image = fit_like_mnist(torch.linspace(0.01, 1, 200)[:, None].repeat(1, 200))
    assert (image.amax(dim=1) >= 253).sum() == 2


def test_thin_strokes_get_a_tenth_as_wide_as_the_digit_is_high():
    shapes = [handwriting.widen(torch.ones(200, pen)).shape for pen in (8, 18, 24)]
    assert shapes == [(212, 20), (204, 22), (200, 24)]


def test_a_digit_stays_in_the_image_wherever_its_mass_is():
    digit = torch.zeros(200, 200)
    digit[:, :20] = digit[180:] = 1
    for turns in range(4):
        ink = fit_like_mnist(digit.rot90(turns)) > 0
        assert (ink.any(dim=0).sum(), ink.any(dim=1).sum()) == (20, 20)


@pytest.mark.parametrize(
    ("strokes", "expected"),
    [
        ({(200, 230): 0.22}, {215: 1}),  # the least share of the light that ink takes
        ({(200, 230): 0.18}, "looks blank"),
        # What has less than 0.35 of the darkest ink is paper.
        ({(200, 230): 0.9, (400, 430): 0.4 * 0.9}, {215: 1, 415: 0.05 / 0.65}),
        ({(200, 230): 0.9, (400, 430): 0.33 * 0.9}, {215: 1, 415: 0}),
        ({(100, 276): 0.8}, {190: 1}),  # a stroke of nearly a third of the picture
        ({(100, 300): 0.8}, "let it show only"),
    ],
)
def test_which_darkness_is_ink(strokes, expected):
    page = torch.full((560, 560), 0.9)
    for (left, right), ink in strokes.items():
        page[150:400, left:right] *= 1 - ink
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            find_ink(page)
    else:
        found = find_ink(page)[250, list(expected)].tolist()
        assert found == pytest.approx(list(expected.values()), abs=0.03)


def test_a_shadow_is_no_ink_even_if_a_stroke_is_hardly_narrower():
    x = torch.arange(560.0)
    shadow = 0.4 * torch.sigmoid((x - 280) / 8) * torch.sigmoid((410 - x) / 8)
    stroke = torch.zeros(560, 560, dtype=torch.bool)
    stroke[150:400, 100:180] = True
    page = torch.where(stroke, 0.2, 0.9) * (1 - shadow)
    assert torch.equal(find_ink(page) > 0, stroke)


@pytest.mark.parametrize(
    ("factor", "length", "sharp"),
    [(1.38, 140, False), (1.45, 140, True), (2, 20, False), (2, 40, True)],
)
def test_light_that_jumps_by_more_than_1_4_has_an_edge(factor, length, sharp):
    # On a map of 140 x 140 cells; further down, the jump fades.
    height = (1 - (torch.arange(140.0) - length) / 10).clamp(0, 1)
    light = torch.ones(140, 140)
    light[:, 70:] = (-np.log(factor) * height).exp()[:, None]
    assert handwriting.has_sharp_edge(light) == sharp


@pytest.mark.parametrize(
    ("length", "gap", "strength", "step", "becomes"),
    [
        (100, 40, 1, 1, "part"),  # a gap of a fifth of the longest mark
        (100, 48, 1, 1, "left out"),
        (132, 100, 1, 1, "left out"),
        (144, 100, 1, 1, "another digit"),  # 0.7 as long, or more
        (28, 20, 1, 1, "left out"),  # dust is less than 0.15 as long
        (32, 20, 1, 1, "part"),
        (100, 20, 0.38, 1, "left out"),  # a shadow's rest
        (100, 20, 0.42, 1, "part"),
        (100, 20, 1, 4, "part"),  # dots hold together on a map of 4 x 4 pixels
        (100, 20, 1, 6, "left out"),
    ],
)
def test_which_marks_belong_to_the_longest(length, gap, strength, step, becomes):
    ink = torch.zeros(400, 400)
    ink[100:300, 100:112] = 1
    ink[100 : 100 + length : step, 112 + gap : 124 + gap] = strength
    if becomes == "another digit":
        with pytest.raises(UserError, match="draw only one digit"):
            handwriting.crop_to_digit(ink)
    else:
        width = 24 + gap if becomes == "part" else 12
        assert handwriting.crop_to_digit(ink).shape == (200, width)


PAGE = on_paper(draw(DIGITS[2], 14, (600, 600), (180, 180, 240)))


def framed(page, left, top, right, bottom, frame):
    """Return a page that is covered at its sides, such as by a dark table."""
    page = page[top : len(page) - bottom, left : len(page) - right]
    return np.pad(page, ((top, bottom), (left, right)), constant_values=frame)


def several(digits, pen, right, down):
    """Return a page of digits, each further to the right or down."""
    boxes = [(40 + right * i, 40 + down * i, 130) for i in range(len(digits))]
    drawn = zip(digits, boxes, strict=True)
    return 1 - sum(draw(DIGITS[d], pen, (600, 600), box) for d, box in drawn)


POINTS = np.random.default_rng(0).uniform(5, 95, (90, 2))
SCRIBBLE = " ".join(f"{x},{y}" for x, y in POINTS)
SPECKLED = np.full((560, 560), 0.9)
SPECKLED[::80, ::80] = 0
MARGINS = [(90, 90, 90, 90), (150, 60, 120, 70), (150, 0, 0, 0), (20, 0, 0, 0)]
REFUSED = {
    "let it show only": [
        *(noise(framed(PAGE, *sides, 0.1), 0.02) for sides in MARGINS),
        *(noise(framed(PAGE, *sides, 0.4), 0.02) for sides in MARGINS),
        framed(np.zeros((400, 400)), 5, 5, 5, 5, 1.0),
        framed(np.full((400, 400), 0.3), 60, 60, 60, 60, 1.0),
        1 - draw(SCRIBBLE, 22, box=(60, 0, 450)),
    ],
    "draw only one digit": [
        several([3, 7], 1, 190, 0),
        several([6, 9, 4], 14, 190, 0),
        several([2, 8, 5], 1, 0, 190),
        several([9, 3], 14, 0, 190),
    ],
    "looks blank": [
        noise(np.full((450, 600), 0.85), 0.03),
        noise(np.full((450, 600), 0.85) * LIGHT, 0.02),
        SPECKLED,
        np.zeros((1, 1)),
        np.ones((1, 300)),
    ],
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_one_digit_on_paper_is_refused(tmp_path, words):
    for picture in REFUSED[words]:
        grey_image(picture).save(tmp_path / "digit.png")
        refused(tmp_path / "digit.png", words)


@pytest.mark.parametrize("rows, width", [(143, 200), (200, 110)])
def test_only_a_1_may_fill_the_box_around_it(rows, width):
    digit = torch.zeros(200, width)
    digit[: rows - 6] = 1
    fit_like_mnist(digit[:, :96] if rows == 200 else digit)
    digit[:rows] = 1
    with pytest.raises(UserError, match="too much for a digit"):
        fit_like_mnist(digit)


def test_a_corner_of_the_table_is_left_out(read):
    picture = grey_image(PAGE)
    ImageDraw.Draw(picture).polygon([(0, 0), (110, 0), (0, 90)], fill=80)
    assert (read(picture).float() - read(PAGE).float()).abs().mean() < 5


def test_what_is_no_picture_is_explained(tmp_path, monkeypatch):
    grey_image(SEVEN).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SEVEN.size // 3)
    (tmp_path / "diary.png").write_bytes(b"Dear diary")
    refused(tmp_path / "missing.png", "there is no picture")
    refused(tmp_path / "diary.png", "save it as PNG or JPEG")
    refused(tmp_path / "large.png", "too many pixels")
    refused(tmp_path, "is a folder or a device")
    if hasattr(os, "mkfifo"):  # not on Windows; to read a pipe would take for ever
        os.mkfifo(tmp_path / "pipe.png")
        refused(tmp_path / "pipe.png", "is a folder or a device")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_damaged_pictures_are_explained_or_read(read, tmp_path, ending):
    read(1 - SEVEN, f"a.{ending}")
    path, rng, explained = tmp_path / f"a.{ending}", random.Random(0), 0
    good = path.read_bytes()
    for i in range(14):
        position = rng.randrange(len(good) if i % 4 < 2 else 60)
        end = b"" if i % 2 else rng.randbytes(4) + good[position + 4 :]
        path.write_bytes(good[:position] + end)
        try:
            read_own_digit(str(path))
        except UserError as error:
            explained += str(path) in str(error)
    assert explained >= 3


def test_what_pillow_warns_of_is_read_without_a_word(read, monkeypatch):
    expected = read(1 - SEVEN)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SEVEN.size - 1)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        assert read(1 - SEVEN).equal(expected)
        assert warnings.filters == filters  # those of everybody else are as before
    assert not shown


@pytest.mark.parametrize("error", [ValueError, OSError, MemoryError])
def test_a_mistake_in_the_code_is_not_blamed_on_the_picture(read, monkeypatch, error):
    # Of all errors, only a lack of memory is no damage where a picture is opened.
    place = (Image.Image, "convert") if error is MemoryError else (handwriting, "widen")
    monkeypatch.setattr(*place, Mock(side_effect=error("a mistake")))
    with pytest.raises(error, match="a mistake"):
        read(1 - SEVEN)
