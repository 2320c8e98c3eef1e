"""Lesson 4: save a trained network, load it, use it - and how that goes wrong.

Run it:        python 04_load_model.py                      (after 03_train_mnist.py)
Your digit:    python 04_load_model.py --image my_digit.png
Your voice:    python 04_load_model.py --sound my_digit.m4a
It writes:     predictions.png       what the network says about some test digits
               confusion_matrix.png  which classes it takes for which
               what_it_learned.png   what its hidden neurons look for
               my_network.html       your network, to draw for or to talk to

A file of weights is a heap of numbers. It becomes a network again only together with
the same architecture and the same preparation of the images as in training.
"""

import io
import os
import pickle

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dl_utils import (
    evaluate_model,
    explain_weights,
    find_run,
    find_two_layers,
    get_device,
    load_mnist_data,
    normalize,
    parse_settings,
    plot_confusion_matrix,
    plot_neurons,
    plot_predictions,
    print_section,
    print_wrapped,
    read_own,
    run_script,
    write_network_page,
)

# ------------------------------------------------------------------------------
# Settings
# ------------------------------------------------------------------------------

# Neurons in the hidden layer: must be what lesson 3 trained with.
HIDDEN_SIZE = 128

# The data set to test on, and the voice that "new-voices" tests on. With "auto", both
# are those of the training, where lesson 3 has recorded it.
DATASET = "auto"
STRANGER = "lucas"

# The weights that lesson 3 saved, and its record of runs.
MODEL_PATH = "mnist_model.pth"
RUNS_PATH = "training_runs.csv"

# A picture of one handwritten digit, or a recording of one spoken digit, to read
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


def load_model(path: str, hidden_size: int, device: str) -> nn.Module:
    """Build the network and fill it with saved weights.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    # First the architecture, with random weights as before any training.
    model = SimpleNN(hidden_size)
    # Then the weights, each to the layer of its name. map_location: those saved on a
    # GPU can be loaded where there is none. weights_only: refuse what could run code;
    # see "Two ways of saving" below. It is the default since PyTorch 2.6, and written
    # out to be seen.
    # See ML_CONCEPTS_EXPLAINED.md#state_dict-and-safe-loading
    with explain_weights(path, model):
        model.load_state_dict(torch.load(path, map_location=device, weights_only=True))
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


# ------------------------------------------------------------------------------
# Predictions
# ------------------------------------------------------------------------------


def percent(share: float) -> str:
    """Return for example "98.2%". No share is ever all or nothing, so no "100.0%"."""
    if share > 0.9995:
        return "over 99.9%"
    return f"{100 * share:.1f}%" if share >= 0.0005 else "under 0.1%"


def format_top3(probabilities: torch.Tensor, classes: list[str]) -> str:
    """Return for example "7 (98.2%), 2 (1.1%), 9 (0.4%)"."""
    top = probabilities.topk(3)
    return ", ".join(
        f"{classes[label]} ({percent(p)})"
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
    for label in labels.unique().tolist():
        name, hits = classes[label], predictions[labels == label] == label
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
# What is true of SimpleNN only: mismatches, and looking inside
# ------------------------------------------------------------------------------


def show_size_mismatch(state_dict: dict[str, torch.Tensor], hidden_size: int) -> None:
    other_size = 2 * hidden_size
    other = SimpleNN(other_size)
    print(f"SimpleNN(hidden_size={other_size}).load_state_dict(weights) raises:\n")
    # See ML_CONCEPTS_EXPLAINED.md#error-messages
    try:
        other.load_state_dict(state_dict)
    except RuntimeError as error:
        for line in str(error).strip().splitlines():
            print_wrapped(line.strip())
    print("\nHow to read the first mismatch:")
    name, *_, last = state_dict  # the names of its tensors
    old, new = state_dict[name].shape, other.state_dict()[name].shape
    print(f"  {name:<39}  the tensor that does not fit")
    print(f"  {f'{old} from checkpoint':<39}  its shape in the file")
    print(f"  {f'current model is {new}':<39}  its shape in your network")
    print(f"{last} is not listed: it has 10 numbers in both.")


def show_silent_mismatches(
    model: nn.Module,
    fc1: nn.Linear,
    fc2: nn.Linear,
    test_loader: DataLoader,
    accuracy: float,
    device: str,
) -> None:
    # The same layers, put together from memory: was it ReLU or Tanh?
    forgetful_model = nn.Sequential(nn.Flatten(), fc1, nn.Tanh(), fc2)
    _, tanh = evaluate_model(forgetful_model, test_loader, device)

    # Back to pixels from 0 to 1: what you get when you forget to normalize.
    # See ML_CONCEPTS_EXPLAINED.md#normalization
    images, labels = test_loader.dataset.tensors
    pixels = (images - images.min()) / (images.max() - images.min())
    pixel_loader = DataLoader(TensorDataset(pixels, labels), batch_size=1000)
    _, unnormalized = evaluate_model(model, pixel_loader, device)

    print("No error, and yet wrong. Test accuracy:")
    print(f"  as tested above                     {accuracy:5.2f}%")
    print(f"  Tanh instead of ReLU, same weights  {tanh:5.2f}%")
    print(f"  images not normalized               {unnormalized:5.2f}%")
    print_wrapped(
        "Names and shapes fit, so PyTorch cannot notice. Activations and the "
        "preparation of the images are not in the file: write them down, and measure "
        "accuracy after loading."
    )


def take_apart(
    model: nn.Module,
    fc1: nn.Linear,
    fc2: nn.Linear,
    image: torch.Tensor,
    classes: list[str],
) -> None:
    """Show how the winning logit of one image [1, 1, 28, 28] comes about."""
    with torch.no_grad():
        hidden = fc1(image.flatten(1)).relu()[0]  # [1, 784] -> [128]
        logits = model(image)[0, : len(classes)]  # [10]
    winner = logits.argmax()
    # fc2 is nothing but this: every hidden value times a weight, added to a bias.
    bias, terms = fc2.bias[winner], hidden * fc2.weight[winner]
    print(f"Why does the first test image get {classes[winner]}? Its logit is made of:")
    print(f"  bias                          {bias:>8.3f}")
    largest = terms.abs().argsort(descending=True)[:5]
    for i in largest.tolist():
        value, weight = hidden[i], fc2.weight[winner, i]
        print(f"  neuron {i:<4} {value:>7.3f} x {weight:>6.3f} = {terms[i]:>8.3f}")
    rest = terms.sum() - terms[largest].sum()
    print(f"  the other neurons together    {rest:>8.3f}")
    print(f"  sum                           {bias + terms.sum():>8.3f}")
    print(f"The network itself says         {logits[winner]:>10.3f}")


def draw_what_it_learned(
    fc1: nn.Linear, fc2: nn.Linear, test_set: TensorDataset
) -> None:
    """Draw the weights of the strongest hidden neurons, and of untrained ones."""
    with torch.inference_mode():
        hidden = fc1(test_set.tensors[0].flatten(1)).relu()  # [N, 784] -> [N, 128]
        # What a neuron adds to the ten logits in an average image.
        strength = hidden.mean(dim=0) * fc2.weight.norm(dim=0)  # [128]
    strongest = strength.argsort(descending=True)[:10]
    untrained = nn.Linear(784, len(strongest))
    plot_neurons(
        fc1.weight.detach()[strongest],
        untrained.weight.detach(),
        strongest.tolist(),
        LEARNED_PATH,
        note=test_set.axes,
    )


def say_that_there_is_no_page() -> None:
    print(f"No {PAGE_PATH}: it is for a network that computes what SimpleNN does.")
    if os.path.exists(PAGE_PATH):
        print(f"The {PAGE_PATH} that is here shows an earlier network.")


# ------------------------------------------------------------------------------
# The lesson
# ------------------------------------------------------------------------------


def main() -> None:
    settings = parse_settings(
        __doc__,
        hidden_size=HIDDEN_SIZE,
        dataset=DATASET,
        stranger=STRANGER,
        model=MODEL_PATH,
        image=IMAGE_PATH,
        sound=SOUND_PATH,
    )
    device = get_device()

    print_section("Load")
    model = load_model(settings.model, settings.hidden_size, device)
    print(f"Loaded model from {settings.model}")
    run = find_run(RUNS_PATH, settings.model)
    if settings.image or settings.sound:
        print_section("Your digit, as the network sees it")
        image, classes = read_own(settings.image, settings.sound, run)
        # [28, 28] -> [1, 28, 28]: a network takes batches, even of one.
        # See ML_CONCEPTS_EXPLAINED.md#tensors
        (probabilities,) = predict(model, normalize(image[None]), device)
        top3 = format_top3(probabilities[: len(classes)], classes)
        print(f"Prediction: {top3.split(',')[0]}")
        print(f"Top 3: {top3}")
        return

    state_dict = model.state_dict()
    # nn.Linear(784, 128) stores its weights as [128, 784]: one row per neuron.
    for name, tensor in state_dict.items():
        print(f"  {name:<11} {list(tensor.shape)}")
    dataset, stranger = settings.dataset, settings.stranger
    if dataset == "auto":
        dataset, stranger = run.get("dataset", "auto"), run.get("stranger", stranger)
    train_loader, _, test_loader = load_mnist_data(dataset=dataset, stranger=stranger)
    test_set = test_loader.dataset
    if test_set.name == "speakers" and run.get("own"):
        test_set.classes.append("you")  # whom the test set does not know
    _, accuracy = evaluate_model(model, test_loader, device)
    print(f"Test Accuracy: {accuracy:.2f}%  ({test_set.title})")

    print_section("Two ways of saving")
    compare_ways_of_saving(model)

    print_section("train() and eval(), and what they are not")
    torch.manual_seed(0)
    compare_modes()

    print_section("Predictions")
    images, labels = test_set.tensors
    # The outputs that stand for a class: all ten digits, but only six speakers.
    probabilities = predict(model, images, device)[:, : len(test_set.classes)]
    worst = show_predictions(probabilities, labels, test_set.classes)
    plot_predictions(test_set, probabilities, worst, PREDICTIONS_PATH)
    plot_confusion_matrix(test_set, probabilities.argmax(dim=1), CONFUSION_MATRIX_PATH)

    layers = find_two_layers(model, images[:100].to(device))
    if layers is None:
        print_section("Left out")
        print_wrapped(
            "The mismatches and the look inside are for a network that computes "
            "fc2(relu(fc1(x))), as SimpleNN does; this one computes something else."
        )
        say_that_there_is_no_page()
        return
    fc1, fc2 = layers

    print_section("A mismatch that raises an error")
    show_size_mismatch(state_dict, settings.hidden_size)

    print_section("Mismatches that nobody notices")
    show_silent_mismatches(model, fc1, fc2, test_loader, accuracy, device)

    print_section("Looking inside")
    model.cpu()
    take_apart(model, fc1, fc2, images[:1], test_set.classes)
    draw_what_it_learned(fc1, fc2, test_set)
    # The page rebuilds SimpleNN once more, in a dozen lines of JavaScript.
    write_network_page(PAGE_PATH, model, layers, train_loader.dataset, test_set)
    what_to_do = "talk to it" if test_set.recordings else "draw"
    print(f"Saved: {PAGE_PATH} (open it in a browser, and {what_to_do})")


if __name__ == "__main__":
    run_script(main)
