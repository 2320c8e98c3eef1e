"""Lesson 4: save a trained network, load it, use it - and how that goes wrong.

Run it:        python 04_load_model.py                      (after 03_train_mnist.py)
Your digit:    python 04_load_model.py --image my_digit.png
It writes:     predictions.png       what the network says about some test digits
               confusion_matrix.png  which digits it takes for which

A file of weights is a heap of numbers. It becomes a network again only together with
the same architecture and the same preparation of the images as in training.
"""

from dl_utils import (
    EVALUATION_BATCH_SIZE,
    MNIST_MEAN,
    MNIST_STD,
    UserError,
    evaluate_model,
    explain_model_errors,
    get_device,
    load_mnist_data,
    normalize,
    parse_settings,
    print_ascii_digit,
    print_section,
    print_table,
    print_wrapped,
    run_script,
    save_figure,
    set_seed,
)

import io
import pickle
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import (  # Pillow comes with matplotlib and torchvision
    Image,
    ImageFilter,
    ImageOps,
    UnidentifiedImageError,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# ------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------

# Neurons in the hidden layer: must be what lesson 3 trained with.
HIDDEN_SIZE = 128

# "mnist", "synthetic" or "auto": the digits to test on, as in lesson 3.
DATASET = "auto"

# The weights that lesson 3 saved.
MODEL_PATH = "mnist_model.pth"

# A picture of one handwritten digit to read instead of the lesson; "" for none.
IMAGE_PATH = ""

PREDICTIONS_PATH = "predictions.png"
CONFUSION_MATRIX_PATH = "confusion_matrix.png"


class SimpleNN(nn.Module):
    """The network of lesson 3, again: a file of weights does not hold it."""

    def __init__(self, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(784, hidden_size)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_size, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.flatten(images)  # [N, 1, 28, 28] -> [N, 784]
        x = self.fc1(x)  # [N, 784] -> [N, 128]
        x = self.relu(x)  # [N, 128] -> [N, 128]
        logits = self.fc2(x)  # [N, 128] -> [N, 10]
        return logits


class TanhNN(SimpleNN):
    """Another network whose layers have the same names and shapes as SimpleNN's."""

    def __init__(self, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__(hidden_size)
        self.relu = nn.Tanh()  # forward() calls it by this name


def load_model(path: str, hidden_size: int, device: str) -> SimpleNN:
    """Build the network and fill it with saved weights.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    # First the architecture, with random weights as before any training.
    model = SimpleNN(hidden_size)
    with explain_model_errors(path):
        # map_location: weights saved on a GPU can be loaded where there is none.
        # weights_only: refuse what could run code; see "Two ways of saving" below. It
        # is the default since PyTorch 2.6, and written out to be seen.
        state_dict = torch.load(path, map_location=device, weights_only=True)
        # Then the weights, each to the layer of its name. A name that is missing or
        # a shape that differs is an error.
        model.load_state_dict(state_dict)
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise UserError(f"{path} holds weights that are no numbers: train again")
    # A new network is in training mode. For use, switch to evaluation mode.
    return model.to(device).eval()


def predict(model: nn.Module, images: torch.Tensor, device: str) -> torch.Tensor:
    """Return the probabilities of the ten digits: float32 [N, 10] on the CPU."""
    with torch.inference_mode():
        logits = model(images.to(device))
    # Softmax turns logits into positive numbers that add up to 1. They are called
    # confidence, but a network can be confidently wrong.
    return logits.softmax(dim=1).cpu()


# ------------------------------------------------------------------------------
# Saving and loading
# ------------------------------------------------------------------------------


class Surprise:
    """An object whose pickle runs a function of the author's choice when loaded."""

    def __reduce__(self) -> tuple:
        return print, ("    *** This line was printed by the file itself. ***",)


def compare_ways_of_saving(model: nn.Module) -> None:
    # BytesIO is a file in memory, so that this lesson leaves no extra files behind.
    weights_file, model_file = io.BytesIO(), io.BytesIO()
    torch.save(model.state_dict(), weights_file)
    torch.save(model, model_file)
    print_table(
        [
            {
                "way": "torch.save(model.state_dict(), ...)",
                "bytes": f"{weights_file.tell():,}",
                "to load it you need": "the class SimpleNN, as code",
            },
            {
                "way": "torch.save(model, ...)",
                "bytes": f"{model_file.tell():,}",
                "to load it you need": "the same file and class name, and trust",
            },
        ]
    )
    print()
    print_wrapped(
        "Why trust? Both are pickles: lists of instructions that Python follows to "
        "build objects. A state_dict needs only tensors. A whole model names classes "
        "and functions to call - any function. Loading a harmless example:"
    )
    pickle.loads(pickle.dumps(Surprise()))
    print_wrapped(
        "It could as well have deleted your files. With weights_only=True, torch.load "
        "accepts only tensors, numbers, text and plain containers, and calls nothing "
        "that the file names:"
    )
    model_file.seek(0)
    try:
        torch.load(model_file, weights_only=True)
    except pickle.UnpicklingError:
        print("    torch.load(whole_model, weights_only=True) -> UnpicklingError")
    print(
        "So: save the state_dict, and load with weights_only=True. (Now and then a gap"
    )
    print("in that guard is found and closed, so keep PyTorch up to date.)")


def compare_modes() -> None:
    # Dropout sets each number to 0 with probability p, at random, and only while
    # training; what is left is multiplied by 1 / (1 - p): on average, the sum stays.
    dropout = nn.Dropout(p=0.5)
    weights = torch.ones(8, requires_grad=True)
    print("Eight weights of 1 times an input of 1, through Dropout(p=0.5):")
    for mode in ("train", "eval"):
        getattr(dropout, mode)()  # dropout.train() or dropout.eval()
        recorded = dropout(weights * 1)
        with torch.inference_mode():
            unrecorded = dropout(weights * 1)
        for setting, result in (("", recorded), (" in inference_mode", unrecorded)):
            print(
                f"  {mode + '()' + setting:<26}{[int(x) for x in result]}"
                f"  gradients recorded: {'yes' if result.requires_grad else 'no'}"
            )
    print_wrapped(
        "Two switches for two things: train() and eval() decide what layers like "
        "Dropout do; inference_mode() (or no_grad()) decides whether PyTorch records "
        "what it needs for gradients. To use a network you want eval() and "
        "inference_mode() together."
    )


def show_size_mismatch(state_dict: dict[str, torch.Tensor], hidden_size: int) -> None:
    other_size = 2 * hidden_size
    print(f"SimpleNN(hidden_size={other_size}).load_state_dict(weights) raises:\n")
    try:
        SimpleNN(other_size).load_state_dict(state_dict)
    except RuntimeError as error:
        for line in str(error).strip().splitlines():
            print_wrapped(line.strip())
    print("\nHow to read the first mismatch:")
    for part, meaning in (
        ("fc1.weight", "the tensor that does not fit"),
        (f"torch.Size([{hidden_size}, 784]) from checkpoint", "its shape in the file"),
        (
            f"current model is torch.Size([{other_size}, 784])",
            "its shape in your network",
        ),
    ):
        print(f"  {part:<41}{meaning}")
    print("fc2.bias is not listed: it has 10 numbers in both.")


def show_silent_mismatches(
    model: SimpleNN,
    hidden_size: int,
    test_loader: DataLoader,
    accuracy: float,
    device: str,
) -> None:
    tanh_model = TanhNN(hidden_size).to(device)
    tanh_model.load_state_dict(model.state_dict())  # no error
    _, tanh = evaluate_model(tanh_model, test_loader, device)

    # Back to pixels from 0 to 1: what you get when you forget to normalize.
    images, labels = test_loader.dataset.tensors
    pixels = images * MNIST_STD + MNIST_MEAN
    pixel_loader = DataLoader(TensorDataset(pixels, labels), EVALUATION_BATCH_SIZE)
    _, unnormalized = evaluate_model(model, pixel_loader, device)

    print("No error, and yet wrong:")
    print_table(
        [
            {"what": what, "test_accuracy": f"{percent:.2f}%"}
            for what, percent in (
                ("everything as in training", accuracy),
                ("Tanh instead of ReLU, same weights", tanh),
                ("images not normalized", unnormalized),
            )
        ]
    )
    print_wrapped(
        "Names and shapes fit, so PyTorch cannot notice. Activations and the "
        "preparation of the images are not in the file: write them down, and measure "
        "accuracy after loading."
    )


# ------------------------------------------------------------------------------
# Predictions
# ------------------------------------------------------------------------------


def format_top3(probabilities: torch.Tensor) -> str:
    """Return for example "7 (98.2%), 2 (1.1%), 9 (0.4%)"."""
    top = probabilities.topk(3)
    return ", ".join(
        f"{digit} ({100 * p:.1f}%)"
        for p, digit in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    )


def show_predictions(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Print samples, accuracy per digit and the worst mistakes; return the latter."""
    confidences, predictions = probabilities.max(dim=1)
    print("The five test images that the network is least sure of:")
    for index in confidences.argsort()[:5].tolist():
        print(f"  a {labels[index]}: {format_top3(probabilities[index])}")

    print("\nHow many of each digit are read correctly:")
    for digit in range(10):
        hits = predictions[labels == digit] == digit
        accuracy = 100 * hits.float().mean().item()
        print(f"  {digit}: {accuracy:5.1f}%  {'#' * round(accuracy / 2)}")

    wrong = (predictions != labels).nonzero().flatten()
    worst = wrong[confidences[wrong].argsort(descending=True)]
    print(f"\n{len(wrong)} of {len(labels):,} are misread. Most confident mistakes:")
    for index in worst[:5].tolist():
        print(f"  a {labels[index]}: {format_top3(probabilities[index])}")
    print("Confidence is no guarantee: look at them in the second row of the picture.")
    return worst


def plot_predictions(
    images: torch.Tensor,
    labels: torch.Tensor,
    probabilities: torch.Tensor,
    worst: torch.Tensor,
    dataset_name: str,
) -> None:
    """Draw ten samples, and below them the ten most confident mistakes."""
    confidences, predictions = probabilities.max(dim=1)
    figure, axes = plt.subplots(2, 10, figsize=(10, 3.6), layout="constrained")
    for row, indices in zip(axes, (torch.arange(10), worst[:10]), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, index in zip(row, indices.tolist(), strict=False):
            right = predictions[index] == labels[index]
            axis.imshow(images[index, 0].numpy(), cmap="gray_r")
            axis.set_title(
                f"{predictions[index]} ({100 * confidences[index]:.1f}%)"
                + ("" if right else f"\nis a {labels[index]}"),
                color="tab:blue" if right else "tab:red",
                fontsize=10,
            )
    figure.suptitle(
        f"What the network reads ({dataset_name} digits). Top: the first ten test "
        "images. Bottom: its most confident mistakes"
    )
    save_figure(figure, PREDICTIONS_PATH)


def plot_confusion_matrix(
    labels: torch.Tensor, predictions: torch.Tensor, dataset_name: str
) -> None:
    """Count how often each digit (row) is read as each digit (column), and draw it."""
    # Number the 100 pairs of label and prediction, count them: [100] -> [10, 10].
    matrix = torch.bincount(10 * labels + predictions, minlength=100).reshape(10, 10)
    mistakes = matrix - matrix.diag().diag()
    label, prediction = divmod(mistakes.argmax().item(), 10)
    accuracy = 100 * matrix.diag().sum().item() / len(labels)

    figure, axis = plt.subplots(figsize=(7.5, 7), layout="constrained")
    # Colour the mistakes only: the right answers would outshine them.
    axis.imshow(mistakes.numpy(), cmap="Reds")
    for row in range(10):
        for column in range(10):
            count = matrix[row, column].item()
            dark = mistakes[row, column] > 0.6 * mistakes.max()
            axis.text(
                column,
                row,
                count or "",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontweight="bold" if row == column else "normal",
            )
    axis.set_xticks(range(10))
    axis.set_yticks(range(10))
    axis.set_xlabel("Read as")
    axis.set_ylabel("Really is")
    axis.set_title(
        f"{accuracy:.2f}% right ({dataset_name} digits, {len(labels):,} test images).\n"
        f"Most frequent mistake: {label} read as {prediction}, "
        f"{mistakes.max()} times"
    )
    save_figure(figure, CONFUSION_MATRIX_PATH)


# ------------------------------------------------------------------------------
# Your own handwriting
# ------------------------------------------------------------------------------

# What differs from the paper by less than this share of the darkest ink's difference
# counts as paper: noise, shadows, ruled lines.
PAPER_SHARE = 0.35
# A picture whose ink differs from the paper by less (scale 0 to 1) is blank.
LEAST_CONTRAST = 0.2
# Larger pictures are scaled down to this many pixels: enough for one digit.
PICTURE_SIZE = 560


def read_own_digit(path: str) -> torch.Tensor:
    """Turn a picture of one digit, with some margin, into an image like MNIST's.

    The network knows only images made in one way: light ink on black, scaled into
    20 x 20 pixels, centred by mass in 28 x 28. Yours must be made in the same way.

    Returns:
        uint8 [28, 28], 0 (paper) to 255 (ink).

    Raises:
        UserError: the file is missing, no picture, or blank.
    """
    ink = find_ink(open_grey(path))
    if not ink.any():
        raise UserError(f"{path} looks blank: draw one digit, large, dark on light")

    # Crop to the ink, and scale the longer side to 20 pixels.
    rows, columns = ink.nonzero()
    digit = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = (max(1, round(20 * n / max(digit.shape))) for n in digit.shape)
    digit = np.asarray(Image.fromarray(digit).resize((width, height)))
    digit = (digit / digit.max()).clip(0, 1)  # thin lines get pale when scaled down

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


def open_grey(path: str) -> np.ndarray:
    """Return grey values, float32 [height, width], 0 (black) to 1 (white)."""
    # Pillow warns of very large pictures; they are read all the same.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)  # photos may be stored turned
            if picture.mode.startswith(("I", "F")):  # 16 bits and more per pixel
                values = np.asarray(picture, dtype=np.float32)
                values = 255 * values / max(1, values.max())
                picture = Image.fromarray(values.clip(0).astype(np.uint8))
            # Lay transparent parts on white paper.
            picture = picture.convert("RGBA")
            picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
            paper = Image.new("RGBA", picture.size, "white")
            grey = Image.alpha_composite(paper, picture).convert("L")
    except MemoryError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}") from None
    except UnidentifiedImageError:
        message = f"{path} is no picture that can be read: save it as PNG or JPEG"
        raise UserError(message) from None
    except Exception as error:  # Pillow raises many kinds, depending on the format
        raise UserError(f"{path} cannot be read as a picture ({error})") from error
    if min(grey.size) > 56:
        grey = grey.filter(ImageFilter.MedianFilter(3))  # removes specks and noise
    return np.asarray(grey, dtype=np.float32) / 255


def find_ink(grey: np.ndarray) -> np.ndarray:
    """Return how much ink each pixel has, float32 [height, width], 0 to 1.

    The paper is as bright as the middle one of the pixels along the border. Ink is
    what differs most from it, be it darker or lighter.
    """
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    ink = paper - grey
    if -ink.min() > ink.max():  # light ink on dark paper
        ink = -ink
    if ink.max() < LEAST_CONTRAST:
        return np.zeros_like(grey)
    share = ink / ink.max()
    return ((share - PAPER_SHARE) / (1 - PAPER_SHARE)).clip(0, 1)


def read_and_predict(path: str, model: SimpleNN, device: str) -> None:
    print_section("Your digit, as the network sees it")
    image = read_own_digit(path)
    print_ascii_digit(image)
    (probabilities,) = predict(model, normalize(image[None]), device)
    confidence, digit = probabilities.max(dim=0)
    print(f"Prediction: {digit} ({100 * confidence:.1f}%)")
    print(f"Top 3: {format_top3(probabilities)}")


def main() -> None:
    settings = parse_settings(
        __doc__,
        hidden_size=HIDDEN_SIZE,
        dataset=DATASET,
        model=MODEL_PATH,
        image=IMAGE_PATH,
    )
    device = get_device()

    print_section("Load")
    model = load_model(settings.model, settings.hidden_size, device)
    print(f"Loaded model from {settings.model}")
    if settings.image:
        read_and_predict(settings.image, model, device)
        return
    state_dict = model.state_dict()
    # nn.Linear(784, 128) stores its weights as [128, 784]: one row per neuron.
    for name, tensor in state_dict.items():
        print(f"  {name:<11} {list(tensor.shape)}")
    _, _, test_loader = load_mnist_data(dataset=settings.dataset)
    dataset_name = test_loader.dataset.name
    _, accuracy = evaluate_model(model, test_loader, device)
    print(f"Test Accuracy: {accuracy:.2f}%  ({dataset_name} digits)")
    print("Compare with lesson 3: same weights and same digits, same accuracy.")

    print_section("Two ways of saving")
    compare_ways_of_saving(model)

    print_section("train() and eval(), and what they are not")
    set_seed(0)
    compare_modes()

    print_section("A mismatch that raises an error")
    show_size_mismatch(state_dict, settings.hidden_size)

    print_section("Mismatches that nobody notices")
    show_silent_mismatches(model, settings.hidden_size, test_loader, accuracy, device)

    print_section("Predictions")
    images, labels = test_loader.dataset.tensors
    probabilities = predict(model, images, device)
    worst = show_predictions(probabilities, labels)
    plot_predictions(images, labels, probabilities, worst, dataset_name)
    plot_confusion_matrix(labels, probabilities.argmax(dim=1), dataset_name)


if __name__ == "__main__":
    run_script(main)
