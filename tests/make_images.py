"""Make the pictures that the documents show: python tests/make_images.py

Runs the lessons on real MNIST and real recordings with the settings that the guide
names, copies what they draw into images/, and adds drawings of this project's own.
Takes some minutes; with names, such as "good_fit three_fits", it makes only these.

images/my_network.png is made elsewhere: by the tests that use a real browser.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

import conftest  # before PyTorch: one thread, so that pictures come out the same
import drawings
from backstage.runs import read_runs

IMAGES = conftest.ROOT / "images"
MAX_SIZE = 150_000  # bytes

# Verdict -> the flags of 03_train_mnist.py that bring it about.
VERDICTS = {
    "good fit": "",
    "underfitting": "--hidden-size 2",
    "still improving": "--learning-rate 0.000001",
    "overfitting": "--train-samples 1000 --epochs 100",
    "severe overfitting": "--train-samples 5000 --epochs 60 --wrong-labels 0.2",
    "learning rate too high": "--learning-rate 0.1",
}


def file_name(verdict: str) -> str:
    return verdict.replace(" ", "_")


TRAIN = "03_train_mnist.py --dataset mnist "
HISTORY = "training_history"
# Lessons to run one after the other in a new folder, and what to take from it: the
# names in images/, and those that the lessons give.
JOBS: list[tuple[list[str], dict[str, str]]] = [
    (
        ["02_load_mnist.py --dataset mnist"],
        {name: name for name in ("mnist_samples", "mnist_overview")},
    ),
    (
        [TRAIN + VERDICTS["good fit"], "04_load_model.py --dataset mnist"],
        {"good_fit": HISTORY}
        | {n: n for n in ("predictions", "confusion_matrix", "what_it_learned")},
    ),
    (
        ["05_experiment_architectures.py --dataset mnist"],
        {"architecture_comparison": "architecture_comparison"},
    ),
    (["02_load_mnist.py --dataset spoken"], {"spoken_samples": "mnist_samples"}),
    *(
        ([TRAIN + flags], {file_name(verdict): HISTORY})
        for verdict, flags in VERDICTS.items()
        if verdict != "good fit"
    ),
]
DRAWINGS = [
    "what_a_network_is",
    "relu_and_tanh",
    "learning_rates",
    "three_fits",
    "fitted_line",
    "speaker_embeddings",
    "spectrogram",
    "spoken_words",
    "six_voices",
    "what_the_bend_does",
]


def run(commands: list[str], pictures: dict[str, str], wanted: set[str]) -> None:
    """Run the lessons of a job, and keep those of its pictures that are wanted."""
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            # This one fails on purpose, after it has drawn its picture.
            fails = command.endswith(VERDICTS["learning rate too high"])
            drawings.run_lesson(command, folder, check=not fails)
        for name, given_name in pictures.items():
            if given_name == HISTORY:
                verdict = read_runs(Path(folder, "training_runs.csv"))[-1]["verdict"]
                if name != file_name(verdict):
                    sys.exit(f"{commands[0]} is no example of {name}: {verdict}")
            if name in wanted:
                keep(Path(folder, f"{given_name}.png"), name)


def keep(file: Path | io.BytesIO, name: str) -> None:
    """Put a picture into images/, with as many colours as MAX_SIZE allows."""
    target = IMAGES / f"{name}.png"
    with Image.open(file) as picture:
        picture = picture.convert("RGB")
    # 256 colours, so that one byte names any of them, look the same. MAXCOVERAGE spares
    # a colour that only a few dots have, and k-means brings all near the original.
    for colors in (256, 128, 64, 32):
        few = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1)
        few.save(target, optimize=True)
        if target.stat().st_size <= MAX_SIZE:
            break
    size = target.stat().st_size / 1000
    print(f"Saved: images/{target.name} ({size:.0f} kB, {colors} colours)", flush=True)


def main() -> None:
    names = [name for _, pictures in JOBS for name in pictures] + DRAWINGS
    wanted = set(sys.argv[1:] or names)
    if unknown := wanted.difference(names):
        sys.exit(f"no such picture: {', '.join(unknown)}. All are: {', '.join(names)}")
    IMAGES.mkdir(exist_ok=True)
    for name in filter(wanted.__contains__, DRAWINGS):
        picture = io.BytesIO()
        getattr(drawings, name)().savefig(picture, dpi=120)
        keep(picture, name)
    for commands, pictures in JOBS:
        if wanted.intersection(pictures):
            run(commands, pictures, wanted)


if __name__ == "__main__":
    main()
