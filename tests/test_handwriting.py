"""handwriting.py: photos and drawings of digits, and files that are something else."""

import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

import backstage.own.handwriting
import dl_utils
from backstage.data.mnist import load_mnist
from backstage.own.handwriting import read_own_digit
from backstage.terminal import UserError
from conftest import load_script

# The lines of each digit: x,y in hundredths of its height; " / " lifts the pen.
DIGITS = [
    "50,0 32,8 22,28 20,55 28,84 48,100 66,92 78,68 78,36 68,10 50,0",
    "58,0 54,35 50,70 47,100",
    "22,24 34,6 55,0 72,10 74,28 60,55 40,78 18,97 50,97 86,95",
    "22,12 45,0 66,6 70,22 60,38 40,46 62,52 74,68 70,86 48,99 18,90",
    "30,2 24,30 20,54 50,55 86,52 / 68,20 66,60 62,100",
    "78,2 36,4 29,42 52,37 72,50 76,72 60,94 38,99 16,90",
    "60,0 38,22 24,55 26,84 46,100 68,90 74,70 60,56 40,58 27,74",
    "16,6 48,5 80,3 66,40 56,70 50,100",
    "70,12 50,0 30,10 32,28 52,46 72,66 70,88 50,100 28,90 26,70 46,48 68,30 71,12",
    "70,14 50,2 30,14 30,36 46,46 64,36 71,14 68,50 62,100",
]


def draw(lines, size, pen, box):
    """Return the ink of a drawing, float [height, width], 0 to 1.

    size: width and height of the picture; box: left, top and height of the digit.
    """
    picture = Image.new("L", size)
    pencil = ImageDraw.Draw(picture)
    left, top, height = box
    for line in lines.split(" / "):
        points = [
            (left + float(x) * height / 100, top + float(y) * height / 100)
            for x, y in (point.split(",") for point in line.split())
        ]
        pencil.line(points, fill=255, width=pen, joint="curve")
        if pen > 2:
            for x, y in points:  # round ends and corners
                r = pen / 2
                pencil.ellipse([x - r, y - r, x + r, y + r], fill=255)
    return np.asarray(picture) / 255


def on_paper(ink, paper=0.93, pen=0.15):
    """Return the grey values of ink of some brightness on paper of another."""
    return paper + (pen - paper) * ink


def grey_image(values):
    return Image.fromarray((255 * np.clip(values, 0, 1)).round().astype(np.uint8))


@pytest.fixture
def read(tmp_path):
    """Return a function that saves a picture and reads it as the lesson does."""

    def save_and_read(picture, name="digit.png", **options):
        if isinstance(picture, np.ndarray):
            picture = grey_image(picture)
        picture.save(tmp_path / name, **options)
        return read_own_digit(str(tmp_path / name))

    return save_and_read


@pytest.fixture
def refusal(read):
    """Return a function that gives the line with which a picture is refused."""

    def message(picture, **options):
        with pytest.raises(UserError) as error:
            read(picture, **options)
        assert "\n" not in str(error.value)
        assert "digit.png" in str(error.value)
        return str(error.value)

    return message


# ------------------------------------------------------------------------------
# What is read
# ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reader(trained_model_path):
    """Return a function from images, uint8 [N, 28, 28], to the digits read, [N]."""
    model = load_script("04_load_model").load_model(trained_model_path, 128, "cpu")
    return lambda images: model(dl_utils.normalize(images)).argmax(dim=1)


def noise(values, amount):
    return values + np.random.default_rng(0).normal(0, amount, values.shape)


def marker(digit):
    return on_paper(draw(digit, (500, 500), 24, (130, 120, 260)))


def one_pixel(digit):
    return 1 - draw(digit, (400, 400), 1, (90, 80, 240))


def three_pixels(digit):
    return on_paper(draw(digit, (1152, 648), 3, (400, 150, 360)))


def light_falling_off(digit):
    light = np.linspace(1, 0.5, 600)  # from left to right
    page = on_paper(draw(digit, (600, 450), 8, (200, 90, 260)))
    return noise(page * light, 0.015)


def shadow_of_a_hand(digit):
    shadow = Image.new("L", (600, 450))
    pencil = ImageDraw.Draw(shadow)
    pencil.ellipse([330, 200, 700, 600], fill=255)
    for x in (300, 360, 430):  # fingers
        pencil.line([(500, 400), (x, 130)], fill=255, width=45)
    shadow = np.asarray(shadow.filter(ImageFilter.GaussianBlur(12))) / 255
    page = on_paper(draw(digit, (600, 450), 8, (160, 90, 260)))
    return noise(page * (1 - 0.45 * shadow), 0.01)


def pencil(digit):
    return noise(on_paper(draw(digit, (600, 450), 4, (200, 90, 260)), 0.88, 0.5), 0.015)


def chalk(digit):
    return noise(on_paper(draw(digit, (600, 450), 9, (200, 90, 260)), 0.2, 0.8), 0.02)


def squared_paper(digit):
    page = np.full((450, 600), 0.93)
    page[::25] = page[:, ::25] = 0.72
    return page * (1 - 0.85 * draw(digit, (600, 450), 7, (200, 90, 260)))


def small_on_a_large_sheet(digit):
    return noise(on_paper(draw(digit, (1200, 900), 7, (150, 600, 110))), 0.02)


@pytest.mark.real_mnist
@pytest.mark.parametrize(
    "style",
    [
        marker,
        one_pixel,
        three_pixels,
        light_falling_off,
        shadow_of_a_hand,
        pencil,
        chalk,
        squared_paper,
        small_on_a_large_sheet,
    ],
)
def test_at_least_nine_of_ten_digits_are_read(style, read, reader):
    images = torch.stack([read(style(digit)) for digit in DIGITS])
    assert (reader(images) == torch.arange(10)).sum() >= 9


@pytest.mark.real_mnist
@pytest.mark.parametrize("form", ["as it is", "enlarged, somewhere on a sheet"])
def test_mnists_digits_are_read_as_in_their_original_form(
    form, read, reader, real_mnist_dir
):
    digits = load_mnist(real_mnist_dir)[2][:20]
    rng = np.random.default_rng(0)
    images = []
    for digit in digits.numpy():
        picture = 1 - digit / 255
        if form != "as it is":
            large = grey_image(picture).resize((280, 280), Image.Resampling.BICUBIC)
            picture = np.ones((700, 900))
            top, left = rng.integers(0, 420), rng.integers(0, 620)
            picture[top : top + 280, left : left + 280] = np.asarray(large) / 255
            picture = noise(0.85 * picture, 0.03)
        images.append(read(picture))
    assert (reader(torch.stack(images)) == reader(digits)).sum() >= 19


# ------------------------------------------------------------------------------
# The image that comes out
# ------------------------------------------------------------------------------

SEVEN = draw(DIGITS[7], (420, 560), 40, (60, 110, 320))


def test_a_picture_becomes_an_image_like_mnists(read):
    image = read(1 - SEVEN)
    assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
    assert image.max() == 255 and image[0].sum() == 0
    rows, columns = image.nonzero(as_tuple=True)
    assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 == 20
    weights = image.float()
    for axis in (0, 1):
        centre = (weights.sum(dim=1 - axis) * torch.arange(28)).sum() / weights.sum()
        assert 13.5 <= centre <= 14.5


@pytest.mark.parametrize("paper", ["white", "black"])
def test_a_clean_drawing_is_only_cut_out_scaled_and_centred(read, paper):
    differences = []
    for digit in DIGITS:
        ink = draw(digit, (280, 280), 20, (40, 40, 200))
        image = read(ink if paper == "black" else 1 - ink).float()

        drawing = grey_image(ink).crop(grey_image(ink).getbbox())
        scale = 20 / max(drawing.size)
        shape = [round(scale * n) for n in drawing.size]
        drawing = np.asarray(drawing.resize(shape, Image.Resampling.BOX))
        centre = [
            round(14 - np.average(np.arange(len(sums)), weights=sums))
            for sums in (drawing.sum(axis=1), drawing.sum(axis=0))
        ]
        expected = torch.zeros(28, 28)
        rows, columns = (
            slice(start, start + n)
            for start, n in zip(centre, drawing.shape, strict=True)
        )
        expected[rows, columns] = torch.tensor(drawing).float()
        differences.append((image - expected).abs().mean())
    # Of 255. A digit that lies one pixel beside its place makes about 20.
    assert np.mean(differences) < 10


def stroke_widths(image):
    """Return the ink of an image, in full pixels per row that has any."""
    image = image.float() / 255
    return image.sum() / (image.sum(dim=1) > 0).sum()


def test_a_thin_line_gets_as_wide_as_a_pen_for_mnist(read):
    line = draw("50,0 50,100", (400, 400), 1, (100, 80, 240))
    assert 1.5 <= stroke_widths(read(1 - line)) <= 2.5


def test_a_dark_spot_does_not_make_the_rest_pale(read):
    ink = 0.8 * SEVEN
    ink[110:142, 200:232] = 1  # where the pen rested
    assert (read(1 - ink) > 250).sum() >= 20


def with_transparency(values):
    ink = (255 * (1 - values)).astype(np.uint8)
    return Image.fromarray(np.dstack([np.zeros_like(ink)] * 3 + [ink]))


FORMS = {
    "white on black": lambda p: grey_image(1 - p),
    "transparent": with_transparency,
    "colour": lambda p: Image.fromarray(
        np.dstack([220 * p, 40 + 200 * p, 90 + 160 * p]).astype(np.uint8)
    ),
    "pale": lambda p: grey_image(0.5 + 0.4 * p),
    "16 bit": lambda p: Image.fromarray((65535 * p).astype(np.uint16)),
    "palette": lambda p: grey_image(p).convert("P"),
    "black and white": lambda p: grey_image(p).convert("1"),
    "tiny": lambda p: grey_image(p).resize((21, 28)),
    "huge": lambda p: grey_image(p).resize((3000, 4000), Image.Resampling.NEAREST),
    "filling the picture": lambda p: grey_image(p).crop(grey_image(1 - p).getbbox()),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_kinds_of_pictures_give_nearly_the_same_image(read, form):
    expected, image = read(1 - SEVEN).float(), read(form(1 - SEVEN)).float()
    similarity = torch.cosine_similarity(image.flatten(), expected.flatten(), dim=0)
    assert similarity > 0.85


def test_turned_photos_are_turned_back(read):
    expected = read(1 - SEVEN).float()
    photo = grey_image(1 - SEVEN).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to the right to look at it"
    assert (read(photo, "7.jpg", exif=exif) - expected).abs().mean() < 5


# ------------------------------------------------------------------------------
# One digit, several digits
# ------------------------------------------------------------------------------

IN_PIECES = {
    "a 5 whose bar begins beside it": (
        "32,8 28,42 56,38 78,60 68,90 40,100 14,90 / 42,2 60,2 90,0"
    ),
    "a 5 whose bar hovers": "32,14 28,42 56,38 78,60 68,90 40,100 14,90 / 30,2 82,2",
    "a 4 whose lines do not meet": "26,2 20,30 20,54 45,54 60,54 / 74,10 74,50 74,100",
    "a 7 whose bar does not reach it": "15,8 48,6 82,4 62,48 50,100 / 26,52 44,52",
    "an 8 in two rings": (
        "50,0 28,22 50,45 72,22 50,0 / 50,53 24,76 50,100 76,76 50,53"
    ),
    "a 0 open at both ends": (
        "45,0 15,20 12,50 15,80 45,100 / 55,2 84,20 86,50 84,80 55,98"
    ),
}


@pytest.mark.parametrize("pen", [3, 14])
@pytest.mark.parametrize("lines", IN_PIECES.values(), ids=IN_PIECES)
def test_a_digit_in_pieces_is_read_whole(read, lines, pen):
    image = read(1 - draw(lines, (400, 400), pen, (100, 90, 220)))
    # No piece is lost: the image's box has the shape of the box around all lines.
    whole = draw(lines, (400, 400), 14, (100, 90, 220))
    height, width = (np.ptp(positions) + 1 for positions in whole.nonzero())
    rows, columns = (np.ptp(positions) + 1 for positions in image.numpy().nonzero())
    assert rows == pytest.approx(20 * height / max(height, width), abs=1.5)
    assert columns == pytest.approx(20 * width / max(height, width), abs=1.5)


def test_dust_is_left_out(read):
    page = 1 - SEVEN
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, (557, 417), (60, 2)):
        page[row : row + 3, column : column + 3] = 0
    # Dust that lies on the digit's edge may stay there.
    assert (read(page).float() - read(1 - SEVEN).float()).abs().mean() < 5


@pytest.mark.parametrize("pen", [1, 14])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("direction", ["side by side", "one below the other"])
def test_several_digits_are_refused(refusal, count, direction, pen):
    rng = random.Random(0)
    for _ in range(2):
        ink = np.zeros((600, 600))
        for i, digit in enumerate(rng.sample(DIGITS, count)):
            left, top = 40 + 190 * i, 200
            if direction == "one below the other":
                left, top = top, left
            ink = np.maximum(ink, draw(digit, (600, 600), pen, (left, top, 130)))
        assert "draw only one digit" in refusal(1 - ink)


# ------------------------------------------------------------------------------
# More than a digit on paper, or less
# ------------------------------------------------------------------------------

PAGE = on_paper(draw(DIGITS[2], (600, 600), 14, (180, 180, 240)))


def with_table(left, top, right, bottom, table=0.35):
    """Return a page with margins of some widths in pixels that show a dark table."""
    page = np.full_like(PAGE, table)
    inside = slice(top, 600 - bottom), slice(left, 600 - right)
    page[inside] = PAGE[inside]
    return noise(page, 0.02)


@pytest.mark.parametrize("table", [0.1, 0.25, 0.4])
@pytest.mark.parametrize(
    "margins",
    [
        (90, 90, 90, 90),
        (150, 60, 120, 70),
        (150, 0, 0, 0),
        (0, 0, 0, 100),
        (20, 0, 0, 0),
    ],
)
def test_a_table_around_the_paper_is_noticed(refusal, margins, table):
    assert "let it show only" in refusal(with_table(*margins, table=table))


def test_a_corner_of_the_table_is_left_out(read):
    picture = grey_image(PAGE)
    ImageDraw.Draw(picture).polygon([(0, 0), (110, 0), (0, 90)], fill=80)
    assert (read(picture).float() - read(PAGE).float()).abs().mean() < 5


@pytest.mark.parametrize("margin", [5, 20, 60])
@pytest.mark.parametrize("pen", [0.0, 0.3])
def test_ink_that_covers_the_picture_is_noticed(refusal, margin, pen):
    page = np.ones((400, 400))
    page[margin:-margin, margin:-margin] = pen
    assert "let it show only" in refusal(page)


def test_a_scribble_that_covers_the_picture_is_noticed(refusal):
    picture = Image.new("L", (400, 400), 255)
    points = np.random.default_rng(0).uniform(20, 380, (90, 2))
    ImageDraw.Draw(picture).line([tuple(point) for point in points], fill=20, width=22)
    assert "let it show only" in refusal(picture)


def test_a_blank_page_is_said_to_be_blank(refusal):
    page = np.full((450, 600), 0.85)
    light = np.linspace(1, 0.5, 600)
    blank = (
        noise(page, 0.03),
        noise(page * light, 0.02),
        np.ones((30, 30)),
        np.zeros((1, 1)),
        np.zeros((1, 300)),
    )
    for picture in blank:
        assert "looks blank" in refusal(picture)


# ------------------------------------------------------------------------------
# Files that are something else
# ------------------------------------------------------------------------------


def complaint(path):
    with pytest.raises(UserError) as error:
        read_own_digit(str(path))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_missing_file(tmp_path):
    assert "there is no picture" in complaint(tmp_path / "missing.png")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_file_that_is_no_picture(tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert "save it as PNG or JPEG" in complaint(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_damaged_pictures_are_explained_or_read(read, tmp_path, ending):
    read(1 - SEVEN, f"good.{ending}")
    good = (tmp_path / f"good.{ending}").read_bytes()
    rng = random.Random(0)
    path = tmp_path / f"bad.{ending}"
    explained = 0
    for _ in range(15):
        content = bytearray(good)
        position = rng.choice([rng.randrange(len(good)), rng.randrange(60)])
        if rng.random() < 0.5:
            del content[position:]
        else:
            content[position : position + 4] = rng.randbytes(4)
        path.write_bytes(content)
        try:
            read_own_digit(str(path))
        except UserError as error:
            assert str(path) in str(error)
            explained += 1
    assert explained >= 3


def test_a_picture_with_too_many_pixels(tmp_path, monkeypatch, read):
    read(1 - SEVEN)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SEVEN.size // 3)
    assert "too many pixels" in complaint(tmp_path / "digit.png")


def test_a_folder(tmp_path):
    assert "is a folder or a device" in complaint(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        assert "is a folder or a device" in complaint(path)


def test_what_pillow_warns_of_is_read_without_a_word(read, tmp_path, monkeypatch):
    expected = read(1 - SEVEN)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SEVEN.size - 1)
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        image = read_own_digit(str(tmp_path / "digit.png"))
    assert not shown
    assert image.equal(expected)
    assert warnings.filters == filters  # those of everybody else are as before


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError, KeyError])
def test_a_mistake_in_the_code_is_not_blamed_on_the_picture(read, monkeypatch, error):
    def find_ink(grey):
        raise error("a mistake")

    monkeypatch.setattr(backstage.own.handwriting, "find_ink", find_ink)
    with pytest.raises(error, match="a mistake"):
        read(1 - SEVEN)


def test_a_lack_of_memory_is_not_blamed_on_the_picture(read, monkeypatch):
    def convert(*_):
        raise MemoryError

    picture = grey_image(1 - SEVEN)
    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(MemoryError):
        read(picture)
