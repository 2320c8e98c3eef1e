"""Lesson 4: save a trained network, load it, use it - and how that goes wrong.

Run it:        python 04_load_model.py                      (after 03_train_mnist.py)
Your digit:    python 04_load_model.py --image my_digit.png
Your voice:    python 04_load_model.py --sound my_digit.wav
It writes:     predictions.png       what the network says about some test digits
               confusion_matrix.png  which classes it takes for which
               what_it_learned.png   what its hidden neurons look for
               my_network.html       your network, to draw for, in any browser

A file of weights is a heap of numbers. It becomes a network again only together with
the same architecture and the same preparation of the images as in training.
"""

import io
import pickle

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dl_utils import (
    DATASETS,
    MNIST_MEAN,
    MNIST_STD,
    RECORDINGS,
    UserError,
    check_weights,
    class_names,
    describe_run,
    evaluate_model,
    explain_file_errors,
    find_run,
    get_device,
    load_mnist_data,
    normalize,
    parse_settings,
    plot_confusion_matrix,
    plot_image_rows,
    plot_predictions,
    print_image,
    print_section,
    print_wrapped,
    read_own_digit,
    read_own_sound,
    run_script,
    write_network_page,
)

# ------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------

# Neurons in the hidden layer: must be what lesson 3 trained with.
HIDDEN_SIZE = 128

# The data set to test on; "auto" is the one that the network was trained on, where
# lesson 3 has recorded it, and otherwise as in lesson 3.
DATASET = "auto"

# The weights that lesson 3 saved, and its record of runs.
MODEL_PATH = "mnist_model.pth"
RUNS_PATH = "training_runs.csv"

# A picture of one handwritten digit, or a recording (WAV) of one spoken digit, to read
# instead of the lesson; "" for none.
IMAGE_PATH = ""
SOUND_PATH = ""

PREDICTIONS_PATH = "predictions.png"
CONFUSION_MATRIX_PATH = "confusion_matrix.png"
LEARNED_PATH = "what_it_learned.png"
PAGE_PATH = "my_network.html"


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


class ForgetfulNN(SimpleNN):
    """The same layers, rebuilt from memory: was it ReLU or Tanh?"""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(self.flatten(images))))


def load_model(path: str, hidden_size: int, device: str) -> SimpleNN:
    """Build the network and fill it with saved weights.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    # First the architecture, with random weights as before any training.
    model = SimpleNN(hidden_size)
    with explain_file_errors(path):
        # map_location: weights saved on a GPU can be loaded where there is none.
        # weights_only: refuse what could run code; see "Two ways of saving" below. It
        # is the default since PyTorch 2.6, and written out to be seen.
        # See ML_CONCEPTS_EXPLAINED.md#state_dict-and-safe-loading
        state_dict = torch.load(path, map_location=device, weights_only=True)
    check_weights(path, state_dict, model)
    # Then the weights, each to the layer of its name.
    model.load_state_dict(state_dict)
    # A new network is in training mode. For use, switch to evaluation mode.
    return model.to(device).eval()


def predict(model: nn.Module, images: torch.Tensor, device: str) -> torch.Tensor:
    """Return the probability of each class: float32 [N, 10] on the CPU."""
    with torch.inference_mode():
        logits = model(images.to(device))
    # Softmax turns logits into positive numbers that add up to 1. They are called
    # confidence, but a network can be confidently wrong.
    # See ML_CONCEPTS_EXPLAINED.md#logits-and-softmax
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
    in_weights, in_model = weights_file.tell(), model_file.tell()
    print("Saved with                             bytes  needed to load it")
    print(f"torch.save(model.state_dict(), ...)  {in_weights:>7,}  the class, as code")
    print(f"torch.save(model, ...)               {in_model:>7,}  the same, and trust")
    print()
    print_wrapped(
        "Why trust? Both are pickles: lists of instructions that Python follows to "
        "build objects. A state_dict needs only tensors. A whole model names classes "
        "and functions to call - any function. Loading a harmless example:"
    )
    pickle.loads(pickle.dumps(Surprise()))
    print_wrapped(
        "It could as well have deleted your files. With weights_only=True, torch.load "
        "accepts only tensors, numbers, text and plain containers, and calls only the "
        "few functions that rebuild these:"
    )
    model_file.seek(0)
    try:
        torch.load(model_file, weights_only=True)
    except pickle.UnpicklingError:
        print("    torch.load(whole_model, weights_only=True) -> UnpicklingError")
    print_wrapped(
        "So: save the state_dict, and load with weights_only=True. (Now and then a gap "
        "in that guard is found and closed, so keep PyTorch up to date.)"
    )


def compare_modes() -> None:
    # Dropout sets each number to 0 with probability p, at random, and only while
    # training; what is left is multiplied by 1 / (1 - p): on average, the sum stays.
    # See ML_CONCEPTS_EXPLAINED.md#train-and-eval-mode
    dropout = nn.Dropout(p=0.5)
    weights = torch.ones(8, requires_grad=True)
    print("Eight weights of 1 times an input of 1, through Dropout(p=0.5):")
    for mode in ("train", "eval"):
        dropout.train(mode == "train")  # train(False) is what eval() does
        for recording in (True, False):
            # Not recording is what inference_mode() does.
            with torch.inference_mode(not recording):
                outputs = dropout(weights * 1)
            values = [int(value) for value in outputs.tolist()]
            recorded = "recorded" if outputs.requires_grad else "not recorded"
            print(f"  {mode}()  {values}  gradients {recorded}")
    print_wrapped(
        "Two switches for two things: train() and eval() decide what layers like "
        "Dropout do; inference_mode() (or no_grad()) decides whether PyTorch records "
        "what it needs for gradients. To use a network you want eval() and "
        "inference_mode() together."
    )


def show_size_mismatch(state_dict: dict[str, torch.Tensor], hidden_size: int) -> None:
    other_size = 2 * hidden_size
    print(f"SimpleNN(hidden_size={other_size}).load_state_dict(weights) raises:\n")
    # See ML_CONCEPTS_EXPLAINED.md#error-messages
    try:
        SimpleNN(other_size).load_state_dict(state_dict)
    except RuntimeError as error:
        for line in str(error).strip().splitlines():
            print_wrapped(line.strip())
    print("\nHow to read the first mismatch:")
    old, new = f"torch.Size([{hidden_size}, 784])", f"torch.Size([{other_size}, 784])"
    print("  fc1.weight                               the tensor that does not fit")
    print(f"  {old + ' from checkpoint':<41}its shape in the file")
    print(f"  {'current model is ' + new:<41}its shape in your network")
    print("fc2.bias is not listed: it has 10 numbers in both.")


def show_silent_mismatches(
    model: SimpleNN,
    hidden_size: int,
    test_loader: DataLoader,
    accuracy: float,
    device: str,
) -> None:
    forgetful_model = ForgetfulNN(hidden_size).to(device)
    forgetful_model.load_state_dict(model.state_dict())  # no error
    _, tanh = evaluate_model(forgetful_model, test_loader, device)

    # Back to pixels from 0 to 1: what you get when you forget to normalize.
    # See ML_CONCEPTS_EXPLAINED.md#normalization
    images, labels = test_loader.dataset.tensors
    pixels = images * MNIST_STD + MNIST_MEAN
    pixel_loader = DataLoader(TensorDataset(pixels, labels), batch_size=1000)
    _, unnormalized = evaluate_model(model, pixel_loader, device)

    print("No error, and yet wrong. Test accuracy:")
    print(f"  everything as in training           {accuracy:5.2f}%")
    print(f"  Tanh instead of ReLU, same weights  {tanh:5.2f}%")
    print(f"  images not normalized               {unnormalized:5.2f}%")
    print_wrapped(
        "Names and shapes fit, so PyTorch cannot notice. Activations and the "
        "preparation of the images are not in the file: write them down, and measure "
        "accuracy after loading."
    )


# ------------------------------------------------------------------------------
# Predictions
# ------------------------------------------------------------------------------


def format_top3(probabilities: torch.Tensor, classes: list[str]) -> str:
    """Return for example "7 (98.2%), 2 (1.1%), 9 (0.4%)"."""
    top = probabilities.topk(3)
    return ", ".join(
        f"{classes[label]} ({100 * p:.1f}%)"
        for p, label in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    )


def show_predictions(
    probabilities: torch.Tensor, labels: torch.Tensor, classes: list[str]
) -> torch.Tensor:
    """Print samples, accuracy per class and the worst mistakes; return the latter."""
    confidences, predictions = probabilities.max(dim=1)
    print("The five test images that the network is least sure of:")
    for index in confidences.argsort()[:5].tolist():
        name = classes[labels[index]]
        print(f"  really {name}: {format_top3(probabilities[index], classes)}")

    print("\nHow many of each class are right:")
    for label, name in enumerate(classes):
        hits = predictions[labels == label] == label
        accuracy = 100 * hits.float().mean().item()
        print(f"  {name:<9} {accuracy:5.1f}%  {'#' * round(accuracy / 2)}")

    wrong = (predictions != labels).nonzero().flatten()
    worst = wrong[confidences[wrong].argsort(descending=True)]
    print(f"\n{len(wrong)} of {len(labels):,} are wrong. Most confident mistakes:")
    for index in worst[:5].tolist():
        name = classes[labels[index]]
        print(f"  really {name}: {format_top3(probabilities[index], classes)}")
    print("Confidence is no guarantee: look at them in the lower half of the picture.")
    return worst


# ------------------------------------------------------------------------------
# Looking inside
# ------------------------------------------------------------------------------


def take_apart(model: SimpleNN, image: torch.Tensor, classes: list[str]) -> None:
    """Show how the winning logit of one image [1, 1, 28, 28] comes about."""
    with torch.no_grad():
        hidden = model.relu(model.fc1(model.flatten(image)))[0]  # [128]
        logits = model(image)[0]  # [10]
    winner = logits.argmax()
    # fc2 is nothing but this: every hidden value times a weight, added to a bias.
    bias, terms = model.fc2.bias[winner], hidden * model.fc2.weight[winner]
    print(f"Why does the first test image get {classes[winner]}? Its logit is made of:")
    print(f"  bias                          {bias:>8.3f}")
    largest = terms.abs().argsort(descending=True)[:5]
    for i in largest.tolist():
        value, weight = hidden[i], model.fc2.weight[winner, i]
        print(f"  neuron {i:<4} {value:>7.3f} x {weight:>6.3f} = {terms[i]:>8.3f}")
    rest = terms.sum() - terms[largest].sum()
    print(f"  the other neurons together    {rest:>8.3f}")
    print(f"  sum                           {bias + terms.sum():>8.3f}")
    print(f"The network itself says         {logits[winner]:>10.3f}")


def draw_what_it_learned(model: SimpleNN, test_set: TensorDataset) -> None:
    """Draw the weights of the strongest hidden neurons, and of untrained ones."""
    with torch.inference_mode():
        hidden = model.relu(model.fc1(model.flatten(test_set.tensors[0])))
        # What a neuron adds to the ten logits in an average image.
        strength = hidden.mean(dim=0) * model.fc2.weight.norm(dim=0)  # [128]
    strongest = strength.argsort(descending=True)[:10]
    untrained = SimpleNN(len(strength))
    plot_image_rows(
        [
            network.fc1.weight.detach()[strongest].reshape(-1, 28, 28)
            for network in (model, untrained)
        ],
        [[f"neuron {i}" for i in strongest.tolist()], ["untrained"] * len(strongest)],
        "What the strongest neurons look for: red for, blue against.\nTraining turned "
        "noise (bottom) into strokes and blobs (top);\nfew of them are a shape that we "
        "would name",
        LEARNED_PATH,
        signed=True,
        note=test_set.axes,
    )


# ------------------------------------------------------------------------------
# The lesson
# ------------------------------------------------------------------------------


def read_own(
    image_path: str, sound_path: str, run: dict[str, str], model: SimpleNN, device: str
) -> None:
    """Print what the network sees in your own picture or recording, and its answer."""
    trained_on = run.get("dataset", "")
    if trained_on and bool(sound_path) != (trained_on in RECORDINGS):
        needed, flag = ("recordings", "spoken") if sound_path else ("images", "auto")
        raise UserError(
            f"the network was trained on {trained_on}, and for this it must know "
            f"{needed}: run 03_train_mnist.py --dataset {flag} first"
        )
    print_section("Your digit, as the network sees it")
    image = read_own_sound(sound_path) if sound_path else read_own_digit(image_path)
    print_image(image)
    classes = class_names(trained_on)
    # [28, 28] -> [1, 28, 28]: a network takes batches, even of one.
    # See ML_CONCEPTS_EXPLAINED.md#tensors
    (probabilities,) = predict(model, normalize(image[None]), device)
    probabilities = probabilities[: len(classes)]
    confidence, label = probabilities.max(dim=0)
    print(f"Prediction: {classes[label]} ({100 * confidence:.1f}%)")
    print(f"Top 3: {format_top3(probabilities, classes)}")


def main() -> None:
    settings = parse_settings(
        __doc__,
        hidden_size=HIDDEN_SIZE,
        dataset=DATASET,
        model=MODEL_PATH,
        image=IMAGE_PATH,
        sound=SOUND_PATH,
    )
    device = get_device()

    print_section("Load")
    model = load_model(settings.model, settings.hidden_size, device)
    print(f"Loaded model from {settings.model}")
    run = find_run(RUNS_PATH, settings.model)
    if run:
        print_wrapped(f"It was trained with {describe_run(run)}")
    if settings.image or settings.sound:
        read_own(settings.image, settings.sound, run, model, device)
        return
    state_dict = model.state_dict()
    # nn.Linear(784, 128) stores its weights as [128, 784]: one row per neuron.
    for name, tensor in state_dict.items():
        print(f"  {name:<11} {list(tensor.shape)}")
    dataset = settings.dataset
    trained_on = run.get("dataset", "")
    if dataset == "auto" and trained_on.lower() in DATASETS:
        dataset = trained_on.lower()
    train_loader, val_loader, test_loader = load_mnist_data(dataset=dataset)
    test_set = test_loader.dataset
    _, accuracy = evaluate_model(model, test_loader, device)
    print(f"Test Accuracy: {accuracy:.2f}%  ({test_set.title})")
    if trained_on == test_set.name and run.get("val_acc"):
        _, val_acc = evaluate_model(model, val_loader, device)
        same = "equal" if f"{val_acc:.2f}" == run["val_acc"] else "NOT equal"
        print(
            f"Val Acc: {val_acc:.2f}%, recorded in training {run['val_acc']}%: {same}"
        )

    print_section("Two ways of saving")
    compare_ways_of_saving(model)

    print_section("train() and eval(), and what they are not")
    torch.manual_seed(0)
    compare_modes()

    print_section("A mismatch that raises an error")
    show_size_mismatch(state_dict, settings.hidden_size)

    print_section("Mismatches that nobody notices")
    show_silent_mismatches(model, settings.hidden_size, test_loader, accuracy, device)

    print_section("Predictions")
    images, labels = test_set.tensors
    # The outputs that stand for a class: all ten digits, but only six speakers.
    probabilities = predict(model, images, device)[:, : len(test_set.classes)]
    worst = show_predictions(probabilities, labels, test_set.classes)
    plot_predictions(test_set, probabilities, worst, PREDICTIONS_PATH)
    plot_confusion_matrix(test_set, probabilities.argmax(dim=1), CONFUSION_MATRIX_PATH)

    print_section("Looking inside")
    model.cpu()
    take_apart(model, images[:1], test_set.classes)
    draw_what_it_learned(model, test_set)
    # The page rebuilds SimpleNN once more, in a dozen lines of JavaScript.
    if test_set.name in RECORDINGS:
        print(f"No {PAGE_PATH}: you can draw a digit, but not a recording.")
    else:
        layers = (model.fc1, model.fc2)
        write_network_page(PAGE_PATH, model, layers, train_loader.dataset, test_set)
        print(f"Saved: {PAGE_PATH} (open it in a browser, and draw)")


if __name__ == "__main__":
    run_script(main)
