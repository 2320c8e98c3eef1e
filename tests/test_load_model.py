"""04_load_model.py: loading, mismatches, and reading your own handwriting."""

import dl_utils
from dl_utils import UserError

import ast
import io
import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_fits_the_console, load_script, run_python
from PIL import Image

SCRIPT = ROOT / "04_load_model.py"


@pytest.fixture(scope="module")
def script():
    return load_script("04_load_model")


def saved(content, **options):
    """Return what torch.save writes, as bytes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def test_the_network_is_that_of_lesson_3():
    def definition(name):
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        (node,) = (n for n in tree.body if getattr(n, "name", "") == "SimpleNN")
        del node.body[0]  # the docstring
        return ast.unparse(node)

    assert definition("04_load_model") == definition("03_train_mnist")


# ------------------------------------------------------------------------------
# A run from the terminal
# ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lessons(tmp_path_factory, synthetic_dir):
    """Lessons 3 (short) and 4 one after the other: the folder and both outputs."""
    folder = tmp_path_factory.mktemp("lessons")
    outputs = []
    for name, *flags in (("03_train_mnist", "--epochs", 1), ("04_load_model",)):
        process = run_python(
            ROOT / f"{name}.py", "--dataset", "synthetic", *flags,
            cwd=folder, data_dir=synthetic_dir, PYTHONIOENCODING="ascii",
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        outputs.append(process.stdout)
    return folder, *outputs


def test_accuracy_is_that_of_lesson_3_to_the_digit(lessons):
    _, training, loading = lessons

    def test_accuracies(output):
        lines = output.splitlines()
        return [line.split()[2] for line in lines if line.startswith("Test Accuracy: ")]

    assert len(test_accuracies(training)) == 1
    assert test_accuracies(training) == test_accuracies(loading)
    assert "\nLoaded model from mnist_model.pth\n" in loading


def test_it_writes_two_pictures(lessons):
    folder, training, _ = lessons
    before = {line[7:] for line in training.splitlines() if line.startswith("Saved: ")}
    pictures = {path.name for path in folder.iterdir()} - before
    assert pictures == {"predictions.png", "confusion_matrix.png"}
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_output_is_ascii_and_fits_the_screen(lessons):
    output = lessons[2]
    assert_fits_the_console(output)


def test_the_size_mismatch_is_pytorchs_own_message(lessons, script):
    with pytest.raises(RuntimeError) as error:
        script.SimpleNN(256).load_state_dict(script.SimpleNN(128).state_dict())
    printed = " ".join(lessons[2].split())
    assert " ".join(str(error.value).split()) in printed


def test_dropout_and_gradients_are_two_things(lessons):
    rows = [line for line in lessons[2].splitlines() if "gradients recorded" in line]
    drops = ["0" in row and "2" in row for row in rows]
    recorded = [row.endswith("yes") for row in rows]
    assert drops == [True, True, False, False]
    assert recorded == [True, False, True, False]


def test_the_example_pickle_runs_code_and_the_safe_way_refuses_it(script, capsys):
    pickle.loads(pickle.dumps(script.Surprise()))
    assert "printed by the file itself" in capsys.readouterr().out
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(saved(script.Surprise())), weights_only=True)
    assert capsys.readouterr().out == ""


def final_figure(output, label):
    """Return the percentage at the end of the line that begins with a label."""
    (line,) = (x for x in output.splitlines() if x.startswith(label))
    return float(line.split()[-1].removesuffix("%"))


@pytest.mark.real_mnist
def test_figures_on_real_digits(lessons_on_mnist):
    output = lessons_on_mnist.outputs[SCRIPT.name]
    right = final_figure(output, "everything as in training")
    assert right >= 97.0
    assert 60 <= final_figure(output, "Tanh instead of ReLU") <= 85
    assert 1 <= right - final_figure(output, "images not normalized") <= 6


# ------------------------------------------------------------------------------
# Model files that are something else
# ------------------------------------------------------------------------------


class Attack:
    """Its pickle creates a file when it is loaded in an unsafe way."""

    path = None

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def bad_model(script, tmp_path):
    """Return a function that tries to load a file; it must say why it cannot."""
    path = tmp_path / "model.pth"

    def load(content):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            script.load_model(path, 128, "cpu")
        message = str(error.value)
        assert "\n" not in message
        assert str(path) in message
        return message

    return load


def test_an_empty_file(bad_model):
    assert "is empty" in bad_model(b"")


def test_a_text_file(bad_model):
    assert "was not written by torch.save" in bad_model(b"Dear diary,\n")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file(bad_model, script, zipped):
    weights = script.SimpleNN().state_dict()
    content = saved(weights, _use_new_zipfile_serialization=zipped)
    for size in (10, 1000, len(content) // 2, len(content) - 1):
        assert "is damaged or incomplete" in bad_model(content[:size])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model(bad_model, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(784, 10))
    content = saved(model, _use_new_zipfile_serialization=zipped)
    assert "holds more than weights" in bad_model(content)


@pytest.mark.parametrize("pack", [saved, pickle.dumps], ids=["torch.save", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(bad_model, tmp_path, pack):
    Attack.path = tmp_path / "attacked"
    content = pack(Attack())
    assert "holds more than weights" in bad_model(content)
    assert not Attack.path.exists()
    # The attack is real: loaded in the unsafe way, it runs.
    with torch.serialization.warnings.catch_warnings(record=True):
        if pack is saved:
            torch.load(io.BytesIO(content), weights_only=False).close()
        else:
            pickle.loads(content).close()
    assert Attack.path.exists()


def test_a_dict_around_the_weights(bad_model, script):
    weights = script.SimpleNN().state_dict()
    message = bad_model(saved({"model": weights, "epoch": 3}))
    assert "a dict around them" in message


@pytest.mark.parametrize("content", [5, [1, 2], {}, "weights", {"fc1.weight": "text"}])
def test_something_that_is_no_weights(bad_model, content):
    assert "does not hold this model's weights" in bad_model(saved(content))


def test_weights_of_another_size(bad_model, script):
    message = bad_model(saved(script.SimpleNN(64).state_dict()))
    assert "fc1.weight is [64, 784] in the file, [128, 784] in the model" in message
    assert "--hidden-size" in message


def test_a_missing_file_and_a_folder(script, tmp_path):
    with pytest.raises(UserError, match=r"run 03_train_mnist\.py first"):
        script.load_model(tmp_path / "model.pth", 128, "cpu")
    with pytest.raises(UserError, match="cannot be read"):
        script.load_model(tmp_path, 128, "cpu")


def test_random_damage_is_explained_or_harmless(script, tmp_path):
    rng = random.Random(0)
    path = tmp_path / "model.pth"
    good = saved(script.SimpleNN().state_dict())
    explained = 0
    for _ in range(400):
        content = bytearray(good)
        # Most of the file is numbers; the ends hold its structure.
        position = rng.choice([rng.randrange(len(good)), rng.randrange(2000)])
        if rng.random() < 0.5:
            position = len(good) - 1 - position
        damage = rng.choice(["truncated", "bit flipped", "bit flipped", "garbage"])
        if damage == "truncated":
            del content[position:]
        elif damage == "bit flipped":
            content[position] ^= 1 << rng.randrange(8)
        else:  # with or without a beginning that looks right
            content = content[: rng.choice([0, 4, 100])] + rng.randbytes(1000)
        path.write_bytes(content)
        try:
            script.load_model(path, 128, "cpu")
        except UserError:
            explained += 1
    assert explained > 100


def test_the_script_ends_with_one_line_and_code_1(tmp_path, synthetic_dir):
    (tmp_path / "mnist_model.pth").write_bytes(b"not a model")
    process = run_python(SCRIPT, cwd=tmp_path, data_dir=synthetic_dir)
    assert process.returncode == 1
    assert process.stderr.startswith("Error: mnist_model.pth was not written by")
    assert process.stderr.count("\n") == 1


# ------------------------------------------------------------------------------
# Your own handwriting
# ------------------------------------------------------------------------------


def sheet_with_digit(digit, rng, paper=0.85, noise=0.03):
    """A digit [28, 28], enlarged to 280 pixels, somewhere on a larger sheet."""
    large = Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC)
    sheet = np.full((700, 900), paper)
    top, left = rng.integers(0, 420), rng.integers(0, 620)
    sheet[top : top + 280, left : left + 280] -= paper * np.asarray(large) / 255
    sheet += rng.normal(0, noise, sheet.shape)
    return Image.fromarray((255 * sheet.clip(0, 1)).round().astype(np.uint8))


@pytest.mark.real_mnist
def test_enlarged_digits_are_read_as_in_their_original_form(
    script, lessons_on_mnist, real_mnist, tmp_path
):
    digits = dl_utils.load_raw_digits("mnist").test_images[:100]
    model = script.load_model(lessons_on_mnist.folder / "mnist_model.pth", 128, "cpu")
    rng = np.random.default_rng(0)
    images = []
    for digit in digits.numpy():
        sheet_with_digit(digit, rng).save(tmp_path / "digit.png")
        images.append(script.read_own_digit(tmp_path / "digit.png"))

    def predictions(images):
        return script.predict(model, dl_utils.normalize(images), "cpu").argmax(dim=1)

    assert (predictions(torch.stack(images)) == predictions(digits)).sum() >= 95


@pytest.fixture
def seven():
    """A large grey picture of a 7, float [560, 420], 0 (black ink) to 1 (paper)."""
    picture = np.ones((560, 420))
    picture[100:140, 100:300] = 0
    for row in range(140, 460):
        middle = 280 - (row - 140) // 3
        picture[row, middle - 20 : middle + 20] = 0
    return picture


def grey_image(picture):
    return Image.fromarray((255 * picture).astype(np.uint8))


def test_a_picture_becomes_an_image_like_mnists(script, tmp_path, seven):
    grey_image(seven).save(tmp_path / "7.png")
    image = script.read_own_digit(tmp_path / "7.png")
    assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
    assert image.max() == 255 and image[0].sum() == 0
    rows, columns = image.nonzero(as_tuple=True)
    assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 == 20
    weights = image.float()
    for axis in (0, 1):
        centre = (weights.sum(dim=1 - axis) * torch.arange(28)).sum() / weights.sum()
        assert 13 <= centre <= 14.5


def with_transparency(picture):
    ink = (255 * (1 - picture)).astype(np.uint8)
    layers = [np.zeros_like(ink)] * 3 + [ink]  # black ink on nothing
    return Image.fromarray(np.dstack(layers))


FORMS = {
    "white on black": lambda p: grey_image(1 - p),
    "transparent": with_transparency,
    "colour": lambda p: Image.fromarray(
        np.dstack([220 * p, 40 + 200 * p, 90 + 160 * p]).astype(np.uint8)
    ),
    "pale pencil": lambda p: grey_image(0.5 + 0.4 * p),
    "16 bit": lambda p: Image.fromarray((65535 * p).astype(np.uint16)),
    "palette": lambda p: grey_image(p).convert("P"),
    "black and white": lambda p: grey_image(p).convert("1"),
    "tiny": lambda p: grey_image(p).resize((21, 28)),
    "huge": lambda p: grey_image(p).resize((6000, 8000), Image.Resampling.NEAREST),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_kinds_of_pictures_give_nearly_the_same_image(
    script, tmp_path, seven, form
):
    grey_image(seven).save(tmp_path / "7.png")
    expected = script.read_own_digit(tmp_path / "7.png").float()
    form(seven).save(tmp_path / "other.png")
    image = script.read_own_digit(tmp_path / "other.png").float()
    similarity = torch.nn.functional.cosine_similarity(
        image.flatten(), expected.flatten(), dim=0
    )
    assert similarity > 0.85


def test_jpeg_and_turned_photos_are_read(script, tmp_path, seven):
    grey_image(seven).save(tmp_path / "7.png")
    expected = script.read_own_digit(tmp_path / "7.png").float()
    photo = grey_image(seven).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to the right to look at it"
    photo.save(tmp_path / "7.jpg", exif=exif)
    image = script.read_own_digit(tmp_path / "7.jpg").float()
    assert (image - expected).abs().mean() < 5


def test_a_blank_page_is_said_to_be_blank(script, tmp_path):
    rng = np.random.default_rng(0)
    page = 0.85 + rng.normal(0, 0.03, (600, 600))
    for picture in (page, np.ones((30, 30)), np.zeros((1, 1))):
        grey_image(picture.clip(0, 1)).save(tmp_path / "blank.png")
        with pytest.raises(UserError, match="looks blank"):
            script.read_own_digit(tmp_path / "blank.png")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\nbroken"])
def test_a_file_that_is_no_picture(script, tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="save it as PNG or JPEG"):
        script.read_own_digit(path)
    with pytest.raises(UserError, match="there is no picture"):
        script.read_own_digit(tmp_path / "missing.png")


def test_the_script_reads_a_picture(lessons, tmp_path, seven):
    folder, _, _ = lessons
    shutil.copy(folder / "mnist_model.pth", tmp_path)
    grey_image(seven).save(tmp_path / "my digit.png")
    process = run_python(
        SCRIPT, "--image", "my digit.png", cwd=tmp_path, data_dir=tmp_path / "none"
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert any(line.startswith("Prediction: 7 (") for line in lines)
    assert any(line.startswith("Top 3: 7 (") for line in lines)
    assert sum("@@" in line for line in lines) >= 10  # the picture in characters
    assert len(list(tmp_path.iterdir())) == 2  # no files written, no data needed
