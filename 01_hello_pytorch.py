"""Lesson 1: tensors, gradients, and a first model that learns.

Run it:        python 01_hello_pytorch.py
Change it:     edit a constant below, or: python 01_hello_pytorch.py --learning-rate 1.1
It writes:     no files

Read this script beside its output. print(f"{a + b = }") prints the code between the
braces and its result, so most lines of the output are Python that you can type
yourself. Do that: start python here, type "import torch", and try your own lines.
"""

import math
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from dl_utils import (
    get_device,
    parse_settings,
    print_section,
    print_wrapped,
    run_script,
)

# ------------------------------------------------------------------------------
# Hyperparameters of the last section: what you choose before training starts.
# ------------------------------------------------------------------------------

# Passes over the points. With 10 the line is on its way; after 100 it hardly moves.
EPOCHS = 100

# How far each step moves the line. 0.001 crawls; above 1 every step overshoots by
# more than it corrects, and the line flies off.
LEARNING_RATE = 0.1

# Start of all random numbers: the noise in the points and the first, random line.
SEED = 42


def aligned(text: str) -> str:
    """Put the rows of a matrix in "code = tensor(...)" below each other."""
    return text.replace("\n", "\n" + " " * text.index("tensor("))


def show_versions() -> None:
    print_section("Versions")
    print(f"Python       {platform.python_version()}")
    print(f"torch        {torch.__version__}")
    print(f"numpy        {np.__version__}")
    # torchvision brings the data sets. Each of its versions fits one version of torch;
    # with another one, the import fails in one of many ways. This lesson needs none of
    # it, so whatever goes wrong here is reported and the lesson goes on.
    try:
        import torchvision

        print(f"torchvision  {torchvision.__version__}")
    except Exception as error:
        print_wrapped(
            f"torchvision cannot be used with this torch ({error}). Reinstall the two "
            "together: python -m pip install --force-reinstall torch torchvision"
        )


def what_a_tensor_is() -> None:
    print_section("What a tensor is")
    # See ML_CONCEPTS_EXPLAINED.md#tensors
    print_wrapped(
        "A tensor is a block of numbers of one type. Its shape lists its sizes: none "
        "for a scalar, one for a vector, two (rows, columns) for a matrix."
    )
    print(f"{torch.tensor(3.5).shape = }")
    print(f"{torch.tensor([1.0, 2.0, 3.0]).shape = }")
    matrix = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    print(aligned(f"{matrix = }"))
    print(f"{matrix.shape = }")
    print(f"{matrix[1, 2] = }")
    # .item() turns a tensor with a single number into an ordinary Python number.
    print(f"{matrix[1, 2].item() = }")

    # A batch is a group of examples that is computed in one go. A channel is one value
    # per pixel: grey has 1, colour 3. Sound fits too: [batch, channels, samples].
    print("\n64 grey images of 28 x 28 pixels: [batch, channels, height, width]")
    images = torch.zeros(64, 1, 28, 28)
    print(f"{images.shape = }")
    # float32 keeps about 7 digits: enough for learning, at half the memory of float64.
    print(f"{images.dtype = }")
    # Where the numbers are: in main memory ("cpu") or on a graphics card ("cuda").
    print(f"{images.device = }")


def creating_tensors() -> None:
    print_section("Creating tensors")
    print(aligned(f"{torch.ones(2, 3) = }"))
    print(f"{torch.arange(5) = }")
    print(f"{torch.linspace(0, 1, 5) = }")
    # Random numbers from 0 to 1. The seed fixes them: run again, and they are the same.
    print(f"{torch.rand(3) = }")

    print("\nThe dtype follows from the numbers; .float() changes it to float32.")
    print(f"{torch.tensor([1, 2]).dtype = }")
    print(f"{torch.tensor([1, 2]).float() = }")
    # A trap: images are stored as uint8, whole numbers from 0 to 255, which start again
    # at 0 when they overflow. So pixels become floats before anything is computed.
    print("\nuint8, the type of stored pixels, overflows without a word:")
    print(f"{torch.tensor([200], dtype=torch.uint8) + 100 = }")


def arithmetic() -> None:
    print_section("Arithmetic")
    a = torch.tensor([1.0, 2.0, 3.0])
    b = torch.tensor([10.0, 20.0, 30.0])
    print(f"{a = }")
    print(f"{b = }")
    print(f"{a + b = }")
    # * multiplies number by number. It is not the matrix product.
    print(f"{a * b = }")
    # @ multiplies number by number and adds up: 1 * 10 + 2 * 20 + 3 * 30.
    print(f"{a @ b = }")

    # A layer of a neural network is little more than a matrix product: every row of
    # the one matrix (an image) meets every column of the other (a neuron's weights).
    print("\nMatrix product: the inner sizes must be equal; they disappear.")
    images, weights = torch.ones(64, 784), torch.ones(784, 128)
    print(f"{images.shape = }")
    print(f"{weights.shape = }")
    print(f"{(images @ weights).shape = }")

    # The rule: write the two shapes one below the other, aligned at the right. In each
    # column the sizes must be equal, or one of them 1 or missing: that one is repeated.
    print("\nBroadcasting: sizes that are 1 or missing are repeated to fit.")
    column = torch.tensor([[100.0], [200.0]])
    print(f"{a + 1 = }")
    print(aligned(f"{column = }"))
    print(aligned(f"{column + a = }"))  # [2, 1] + [3] -> [2, 3]
    print("\nA trap: [3] and [3, 1] give [3, 3]: no error warns you.")
    print(f"{(a - a.reshape(3, 1)).shape = }")


def reductions() -> None:
    print_section("Reductions: many numbers become few")
    scores = torch.tensor([[1.0, 7.0, 2.0], [6.0, 3.0, 0.0]])
    print(aligned(f"{scores = }"))
    print(f"{scores.sum() = }")
    # dim is the dimension that disappears: [2, 3] becomes [3] or [2].
    print(f"{scores.mean(dim=0) = }")
    print(f"{scores.mean(dim=1) = }")
    # Where the largest number of each row is. This is how a network's answer is read:
    # one row per image, one score per class.
    answers = scores.argmax(dim=1)  # [2, 3] -> [2]
    print("\nThe largest score of each row is the answer. How many are right?")
    print(f"{answers = }")
    labels = torch.tensor([1, 2])
    print(f"{labels = }")
    print(f"{answers == labels = }")
    # In a sum, True counts as 1 and False as 0.
    print(f"{(answers == labels).sum() = }")


def indexing_and_reshaping() -> None:
    print_section("Indexing and reshaping")
    grid = torch.arange(6).reshape(2, 3)
    print(aligned(f"{grid = }"))
    # Counting starts at 0, and ":" means all, as in Python lists and NumPy.
    print(f"{grid[0] = }")
    print(f"{grid[:, 1] = }")
    print(f"{grid[grid > 2] = }")

    # reshape copies nothing when it can avoid it: two shapes, the same numbers in
    # memory. grid.clone() would be a copy.
    print(
        "\nA reshaped tensor usually shares its numbers. Set the first of flat to 99:"
    )
    flat = grid.reshape(6)
    flat[0] = 99
    print(f"{flat = }")
    print(aligned(f"{grid = }"))

    # Our networks take a list of numbers. start_dim=1 keeps the images apart.
    print("\nFlattening: each image becomes a list of 1 * 28 * 28 = 784 pixels.")
    images = torch.zeros(64, 1, 28, 28)
    print(f"{images.flatten(start_dim=1).shape = }")


def numpy_bridge() -> None:
    print_section("NumPy and back")
    print("from_numpy and .numpy() share memory with the array; torch.tensor copies.")
    array = np.array([1.0, 2.0, 3.0])
    shared = torch.from_numpy(array)
    copied = torch.tensor(array)
    print("Set the first number of the array to 99:")
    array[0] = 99
    print(f"{array = }")
    # NumPy computes in float64 unless told otherwise, hence the dtype shown here.
    print(f"{shared = }")
    print(f"{copied = }")


def a_shape_error() -> None:
    print_section("The error you will meet most")
    images = torch.zeros(64, 1, 28, 28)
    weights = torch.zeros(784, 128)
    print(f"{images.shape = }")
    print(f"{weights.shape = }")
    try:
        print(f"{images @ weights = }")
    except RuntimeError as error:
        print(f"RuntimeError: {error}")
    print_wrapped(
        "Read the two shapes: mat1 and mat2 stand left and right of @, and the inner "
        "sizes, 28 and 784, differ. PyTorch took the rows of all images as one matrix: "
        "64 * 1 * 28 = 1792 rows of 28 pixels. The images were not flattened. So:"
    )
    print(f"{(images.flatten(start_dim=1) @ weights).shape = }")


def squared_error(weight: torch.Tensor) -> torch.Tensor:
    """Loss of the smallest model: it answers weight * 3; right would be 2."""
    return (weight * 3 - 2) ** 2


def gradients() -> None:
    print_section("Gradients: which way to go, and how steep it is")
    # A loss says how wrong a model is. To lower it, we must know how it changes when a
    # weight grows a little: the gradient. requires_grad=True makes PyTorch record what
    # is computed with this tensor. Whole numbers cannot grow a little: floats only.
    # See ML_CONCEPTS_EXPLAINED.md#gradients
    weight = torch.tensor(1.0, requires_grad=True)
    loss = squared_error(weight)
    print(f"{weight = }")
    # grad_fn is the record: the last operation, with links to the ones before it.
    print(f"{loss = }")
    # backward() goes through the record from the end and puts the result into .grad.
    # See ML_CONCEPTS_EXPLAINED.md#backpropagation
    loss.backward()
    print(f"{weight.grad = }  (after loss.backward())")
    print("Positive: the loss rises with the weight, so the weight should shrink.")

    print("\nIs that right? The same gradient, found in other ways:")
    # The chain rule: the derivative of (...) ** 2 is 2 * (...), times the derivative of
    # what is inside, which is 3.
    print(f"{2 * (weight.item() * 3 - 2) * 3 = }")
    print(f"{weight.grad.item() = }")
    # A test without calculus: go a little to both sides and see how the loss changes.
    step = 1e-6
    for dtype in (torch.float64, torch.float32):
        middle = torch.tensor(1.0, dtype=dtype)
        rise = squared_error(middle + step) - squared_error(middle - step)
        print(f"a small step in {dtype}: {rise.item() / (2 * step):.7f}")

    # float32 keeps 7 digits, float64 16. Training does well with 7.
    print("The last is off: subtracting two almost equal numbers leaves few digits.")

    print("\nbackward() adds to .grad, so a second call gives 6 + 6:")
    squared_error(weight).backward()
    print(f"{weight.grad = }")


def show_device() -> str:
    print_section("Device: CPU or GPU")
    device = get_device()
    print(f"{device = }")
    # Tensors that meet in an operation must be on the same device, so lesson 3 moves
    # the network once and every batch of images. On a CPU, .to("cpu") does nothing.
    # See ML_CONCEPTS_EXPLAINED.md#device
    print(f"{torch.ones(2).to(device).device = }")
    return device


def best_milliseconds(function: Callable, a, b, device: str = "cpu") -> float:
    """Time function(a, b) fairly: warm up, repeat, and return the shortest time.

    Other programs can only make it slower, so the shortest time is the truest.
    """
    times = []
    for _ in range(21):
        start = time.perf_counter()
        function(a, b)
        if device == "cuda":
            # A GPU works on its own: the function returns when the order is given.
            # Without waiting for the result, we would time the giving of orders.
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    # The first call is the warm-up: it also loads libraries and reserves memory.
    return min(times[1:])


def python_product(image: list[float], columns: list[list[float]]) -> list[float]:
    """Multiply one image by the columns of a matrix, with nothing but Python."""
    return [sum(p * w for p, w in zip(image, c, strict=True)) for c in columns]


def compare_speed(device: str) -> None:
    print_section("Speed: why not simply Python?")
    print("One image through one layer, [1, 784] @ [784, 128]: 100,352 multiplications")
    image, weights = torch.rand(1, 784), torch.rand(784, 128)
    # .T swaps rows and columns, so that each column becomes a list.
    loop = best_milliseconds(python_product, image[0].tolist(), weights.T.tolist())
    numpy = best_milliseconds(np.matmul, image.numpy(), weights.numpy())
    pytorch = best_milliseconds(torch.matmul, image, weights)  # matmul(a, b) is a @ b
    print(f"Python loop  {loop:>8.3f} ms")
    print(f"NumPy        {numpy:>8.3f} ms  {loop / numpy:>7,.0f} times as fast")
    print(f"torch        {pytorch:>8.3f} ms  {loop / pytorch:>7,.0f} times as fast")
    print("Both run compiled code. torch adds what NumPy lacks: gradients and the GPU.")

    if device == "cpu":
        print("\nNo usable NVIDIA GPU here to compare with; no lesson needs one.")
        return
    print("\nA GPU needs enough to do. The product of two n x n matrices:")
    for n in (100, 1000):
        a, b = torch.rand(n, n), torch.rand(n, n)
        cpu = best_milliseconds(torch.matmul, a, b)
        gpu = best_milliseconds(torch.matmul, a.to(device), b.to(device), device)
        ratio = f"{cpu / gpu:,.1f} times as fast"
        print(f"n = {n:<5} CPU {cpu:>8.3f} ms   GPU {gpu:>8.3f} ms  {ratio}")


def train_step(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Improve the line once, with all points: the five steps of every training."""
    # Step 1, zero_grad: forget the gradients of the previous batch. PyTorch adds new
    # gradients to old ones, so without this they would pile up.
    optimizer.zero_grad()

    # Step 2, forward: let the model answer.
    predictions = model(x)  # [100, 1] -> [100, 1]

    # Step 3, loss: one number that says how wrong the answers are.
    loss = criterion(predictions, y)

    # Step 4, backward: for slope and intercept, compute the gradient: how the loss
    # would change if it grew a little.
    loss.backward()

    # Step 5, step: move both a little in the direction that lowers the loss.
    optimizer.step()


def fit_line(epochs: int, learning_rate: float, device: str) -> None:
    print_section(f"A first model that learns, learning rate {learning_rate}")
    # The task: points near the line y = 2x + 1. The noise is their typical distance
    # from it.
    true_slope, true_intercept, noise = 2.0, 1.0, 0.1
    # 100 points, one per row. The model will answer in the same shape; with y as [100]
    # broadcasting would compare each answer with every point.
    x = torch.linspace(-1, 1, 100).reshape(100, 1).to(device)  # [100] -> [100, 1]
    y = true_slope * x + true_intercept + noise * torch.randn(100, 1).to(device)
    # One input, one output: model(x) = weight * x + bias. It starts as a random line.
    model = nn.Linear(1, 1).to(device)
    # Mean squared error: the mean of (prediction - y) ** 2 over all points.
    # See ML_CONCEPTS_EXPLAINED.md#loss-functions
    criterion = nn.MSELoss()
    # SGD, the simplest optimizer: weight = weight - learning_rate * gradient.
    # See ML_CONCEPTS_EXPLAINED.md#optimizers
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    print(f"100 points near y = {true_slope} * x + {true_intercept}. Find that line:")
    print(f"{'epoch':>7}{'loss':>12}{'slope':>12}{'intercept':>12}")
    for epoch in range(epochs + 1):
        # Here an epoch is one step, because all points fit into one batch.
        if epoch > 0:  # line 0 of the table shows the model before training
            train_step(model, x, y, criterion, optimizer)
        if epoch % max(1, epochs // 10) == 0 or epoch == epochs:
            # no_grad: here we only look, so PyTorch need not record anything.
            with torch.no_grad():
                loss = criterion(model(x), y).item()
            slope, intercept = model.weight.item(), model.bias.item()
            print(f"{epoch:>7}{loss:>#12.4g}{slope:>#12.4g}{intercept:>#12.4g}")
            if epoch == 0:
                first_loss = loss
            if not math.isfinite(loss):
                break

    # Even the true line misses the points by the noise, so no line gets far below
    # noise ** 2. A loss that is nan fails both comparisons and ends in the last case.
    if loss < 2 * noise**2 + 1e-4:
        print_wrapped(
            f"Found: slope {slope:.3f} (true: {true_slope}), intercept {intercept:.3f} "
            f"(true: {true_intercept}). The rest is noise."
        )
    elif loss <= first_loss:
        print("Not there yet: use more epochs or another learning rate.")
    else:
        print_wrapped(
            "Diverged: the loss grew instead of falling. Every step overshot the best "
            "line by more than it corrected. (In the end numbers become inf, too "
            "large, or nan, not a number.) Divide the learning rate by 10."
        )


def main() -> None:
    settings = parse_settings(
        __doc__, epochs=EPOCHS, learning_rate=LEARNING_RATE, seed=SEED
    )
    torch.manual_seed(settings.seed)
    show_versions()
    what_a_tensor_is()
    creating_tensors()
    arithmetic()
    reductions()
    indexing_and_reshaping()
    numpy_bridge()
    a_shape_error()
    gradients()
    device = show_device()
    compare_speed(device)
    fit_line(settings.epochs, settings.learning_rate, device)


if __name__ == "__main__":
    run_script(main)
