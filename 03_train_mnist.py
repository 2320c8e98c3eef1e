"""Lesson 3: train a neural network to read handwritten digits.

Run it:        python 03_train_mnist.py
Change it:     edit a constant below, or: python 03_train_mnist.py --learning-rate 0.01
It writes:     mnist_model.pth       the trained weights (lesson 4 loads them)
               training_history.png  how accuracy and loss developed
               training_runs.csv     one line per run, to compare your experiments

The heart is train_epoch: five steps, repeated for every batch of images.
"""

import math
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dl_utils import (
    atomic_path,
    check_can_write,
    describe_network,
    diagnose_training,
    evaluate_model,
    explain_weights,
    find_run,
    get_device,
    load_mnist_data,
    normalize,
    parse_settings,
    plot_training_history,
    print_section,
    print_wrapped,
    read_own_examples,
    record_run,
    run_script,
)

# ------------------------------------------------------------------------------
# Hyperparameters: what you choose before training; the network cannot learn them.
# See ML_CONCEPTS_EXPLAINED.md#hyperparameters
# ------------------------------------------------------------------------------

# Passes over the training images. Fewer: not finished learning. Many more: the
# network starts to memorize its training images.
EPOCHS = 10

# Images per step. Small batches: many cheap, uncertain steps. Large batches: few
# steps in a surer direction. 32 to 256 is common; powers of two are only a habit.
BATCH_SIZE = 64

# How far each step moves the weights. Too large: training jumps about and never
# settles. Too small: it crawls. 0.001 is the default of Adam, the optimizer below.
LEARNING_RATE = 0.001

# Neurons in the hidden layer. 2 are too few for ten digits; with 128 the network has
# room to learn, and trains in seconds.
HIDDEN_SIZE = 128

# Training images to use: "all" (MNIST has 55,000), or a number. With 100 you can watch
# a network memorize its images.
TRAIN_SAMPLES = "all"

# Share of the training labels that is replaced by random ones, to see what dirty data
# does. 0.2 with 5,000 images and 60 epochs shows it well.
WRONG_LABELS = 0.0

# Start of all random numbers. Run with other seeds to see how much of a difference
# between two results is mere luck.
SEED = 42

# Handwriting: "auto" (MNIST if possible), "mnist", or "synthetic" (digits drawn by this
# project). Recordings: "spoken" (which digit?), "speakers" (who says it?), "new-voices"
# (which digit, by somebody never heard in training?).
DATASET = "auto"

# The voice that new-voices tests on: george, jackson, lucas, nicolas, theo or yweweler.
STRANGER = "lucas"

# Weights to begin with instead of random ones, such as "mnist_model.pth"; "" for none.
# Training then goes on where another run ended: fine-tuning.
# See ML_CONCEPTS_EXPLAINED.md#fine-tuning
START_FROM = ""

# Examples of your own that join the training, such as "my_digits.png" or "my_voice.wav"
# from the page of lesson 4; "" for none.
OWN = ""

# A remark that is recorded with the run, such as "no relu". The record shows settings
# that you changed, but not code that you changed.
NOTE = ""

MODEL_PATH = "mnist_model.pth"
HISTORY_PLOT_PATH = "training_history.png"
RUNS_PATH = "training_runs.csv"


class SimpleNN(nn.Module):
    """A network with one hidden layer: 784 pixels -> 128 neurons -> 10 logits."""

    def __init__(self, hidden_size: int = HIDDEN_SIZE) -> None:
        # Sets up the register in which each layer below is entered.
        # See ML_CONCEPTS_EXPLAINED.md#nnmodule
        super().__init__()
        # A linear layer takes a list of numbers, not a picture: 28 x 28 = 784.
        self.flatten = nn.Flatten()
        # Every neuron weighs all 784 pixels and adds a bias. The weights start as
        # small random numbers: if all were equal, all neurons would learn the same.
        # See ML_CONCEPTS_EXPLAINED.md#weight-initialisation
        self.fc1 = nn.Linear(784, hidden_size)
        # ReLU(x) = max(0, x). Without a bend between them, two linear layers could do
        # no more than one.
        # See ML_CONCEPTS_EXPLAINED.md#activation-functions
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_size, 10)  # one output per digit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.flatten(images)  # [64, 1, 28, 28] -> [64, 784]
        x = self.fc1(x)  # [64, 784] -> [64, 128]
        x = self.relu(x)  # [64, 128] -> [64, 128]
        logits = self.fc2(x)  # [64, 128] -> [64, 10]
        # Logits are scores: any number, the largest one wins. No softmax here, because
        # CrossEntropyLoss contains it; and no ReLU, because scores may be negative.
        # See ML_CONCEPTS_EXPLAINED.md#logits-and-softmax
        return logits


def train_epoch(
    model: nn.Module,
    loader: DataLoader,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> tuple[float, float]:
    """Train on every image once; return mean loss and accuracy (percent).

    Each batch is counted with the weights of that moment. They get better during the
    epoch, so these averages lag behind: in the first epoch, training accuracy is even
    lower than validation accuracy, which is measured at its end.

    See ML_CONCEPTS_EXPLAINED.md#forward--backward-pass
    """
    model.train()  # for layers that behave differently in training, such as Dropout
    loss_sum, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)

        # Step 1, zero_grad: forget the gradients of the previous batch. PyTorch adds
        # new gradients to old ones, so without this they would pile up.
        optimizer.zero_grad()

        # Step 2, forward: let the network answer.
        logits = model(images)  # [64, 1, 28, 28] -> [64, 10]

        # Step 3, loss: one number that says how wrong the answers are.
        loss = criterion(logits, labels)

        # Step 4, backward: for every weight, compute its gradient: how the loss would
        # change if the weight grew a little (backpropagation).
        loss.backward()

        # Step 5, step: move every weight a little in the direction that lowers the
        # loss.
        optimizer.step()

        # The loss is a mean over the batch; times the batch size it is a sum again.
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()

    count = len(loader.dataset)
    return loss_sum / count, 100 * correct / count


def train(
    model: nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    epochs: int,
    learning_rate: float,
    device: str,
) -> dict[str, list[float]]:
    """Train for some epochs, printing a line for each; return the history."""
    # CrossEntropyLoss turns logits into probabilities (softmax) and takes the negative
    # logarithm of the one given to the right digit: 0 if it was certain and right. It
    # returns the mean over the batch.
    # See ML_CONCEPTS_EXPLAINED.md#loss-functions
    criterion = nn.CrossEntropyLoss()
    # Adam adapts the step size for every weight. fused=True updates all weights in one
    # operation instead of several per layer: the same steps in less time.
    # See ML_CONCEPTS_EXPLAINED.md#optimizers
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)

    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": []}
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        train_loss, train_acc = train_epoch(
            model, train_loader, criterion, optimizer, device
        )
        # Validation images take no part in training: this shows whether what was
        # learned holds for images never seen.
        val_loss, val_acc = evaluate_model(model, val_loader, device)
        seconds = time.perf_counter() - start

        history["train_loss"].append(train_loss)
        history["train_acc"].append(train_acc)
        history["val_loss"].append(val_loss)
        history["val_acc"].append(val_acc)
        print_wrapped(
            f"Epoch {epoch}/{epochs}: Train Acc: {train_acc:.1f}%, Val Acc: "
            f"{val_acc:.1f}%, Loss: {train_loss:.3f}, Val Loss: {val_loss:.3f}, "
            f"{seconds:.1f} s"
        )
        if not math.isfinite(val_loss):
            print("Stopped: no step can repair weights that are not finite numbers.")
            break
    return history


def main() -> None:
    settings = parse_settings(
        __doc__,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        hidden_size=HIDDEN_SIZE,
        train_samples=TRAIN_SAMPLES,
        wrong_labels=WRONG_LABELS,
        seed=SEED,
        dataset=DATASET,
        stranger=STRANGER,
        start_from=START_FROM,
        own=OWN,
        note=NOTE,
    )
    check_can_write(MODEL_PATH, HISTORY_PLOT_PATH, RUNS_PATH)
    # All random numbers follow from the seed. On a CPU, the same machine, versions and
    # seed give the same weights bit for bit. Another processor or version rounds
    # differently.
    # See ML_CONCEPTS_EXPLAINED.md#randomness-and-seeds
    torch.manual_seed(settings.seed)
    device = get_device()

    print_section("Data")
    train_loader, val_loader, test_loader = load_mnist_data(
        settings.batch_size,
        settings.dataset,
        settings.train_samples,
        settings.seed,
        settings.wrong_labels,
        settings.stranger,
    )
    train_set = train_loader.dataset
    print(
        f"{train_set.title}: {len(train_set):,} to train on, "
        f"{len(val_loader.dataset):,} to validate, {len(test_loader.dataset):,} to test"
    )
    results = {"dataset": train_set.name, "train_samples": len(train_set)}
    kept_loader = None
    if settings.own:
        images, labels, kept = read_own_examples(settings.own, train_set)
        own_images, own_labels = normalize(images[~kept]), labels[~kept]
        # Repeated until they are about half of the training: a few among thousands
        # would hardly be learned, and alone they would make it forget the others.
        times = max(1, len(train_set) // len(own_labels))
        train_set.add(own_images.repeat(times, 1, 1, 1), own_labels.repeat(times))
        results["own"] = f"{settings.own} ({len(labels)})"
        print(f"{len(labels)} of your own: {kept.sum()} kept back, the rest join in")
        # Measured on what was taught, memorizing would look like learning.
        if kept.any():
            kept_set = TensorDataset(normalize(images[kept]), labels[kept])
            kept_loader = DataLoader(kept_set, batch_size=1000)
    print(f"{len(train_loader):,} batches of {settings.batch_size} per epoch")

    print_section("Network")
    model = SimpleNN(settings.hidden_size).to(device)
    if settings.start_from:
        with explain_weights(settings.start_from, model):
            model.load_state_dict(
                torch.load(settings.start_from, map_location=device, weights_only=True)
            )
        print(f"Loaded model from {settings.start_from}")
        run = find_run(RUNS_PATH, settings.start_from)
        # This run may replace the file, so its content is recorded, not its name.
        results["start_from"] = run["weights"]
    images, _ = next(iter(train_loader))
    describe_network(model, images.to(device))
    loss_before, acc_before = evaluate_model(model, val_loader, device)
    print(f"Loss before training: {loss_before:.3f}; guessing: ln(10) = 2.303")
    if kept_loader:
        _, kept_before = evaluate_model(model, kept_loader, device)

    print_section(f"Training on {device}, learning rate {settings.learning_rate}")
    history = train(
        model,
        train_loader,
        val_loader,
        settings.epochs,
        settings.learning_rate,
        device,
    )
    if settings.start_from:
        history["val_acc_before"] = acc_before

    print_section("Verdict")
    # See ML_CONCEPTS_EXPLAINED.md#overfitting--underfitting
    diagnosis = diagnose_training(history)
    print(diagnosis)

    # A network that only guesses must not replace a good one from an earlier run.
    usable = diagnosis.verdict != "learning rate too high"
    if usable:
        # The state_dict holds the weights by name. Lesson 4 loads it.
        with atomic_path(MODEL_PATH) as temporary_path:
            torch.save(model.state_dict(), temporary_path)
        print(f"Saved: {MODEL_PATH}")

        # The test set is used once, at the very end. Try many settings, keep the one
        # with the best test result, and you have fitted the test set by hand: its
        # accuracy no longer says how the network does on new images. Choose by
        # validation accuracy instead.
        # See ML_CONCEPTS_EXPLAINED.md#train-validation-and-test-split
        print_section("Test")
        _, test_acc = evaluate_model(model, test_loader, device)
        print(f"Test Accuracy: {test_acc:.2f}%")
    if kept_loader:
        _, kept_after = evaluate_model(model, kept_loader, device)
        count = len(kept_set)
        before, after = (round(acc * count / 100) for acc in (kept_before, kept_after))
        print(
            f"Own examples kept back: {before} of {count} right before, {after} of "
            f"{count} after"
        )
        print(f"{count} are few: one more or less is luck.")

    print_section("Your last runs")
    results |= {
        "train_acc": f"{history['train_acc'][-1]:.2f}",
        "val_acc": f"{history['val_acc'][-1]:.2f}",
        "verdict": diagnosis.verdict,
    }
    record_run(RUNS_PATH, vars(settings) | results, MODEL_PATH if usable else None)
    plot_training_history(history, HISTORY_PLOT_PATH, train_set.title)
    if not usable:
        sys.exit(f"{MODEL_PATH} was not written: {diagnosis.advice}")


if __name__ == "__main__":
    run_script(main)
