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
# What the lessons call their pictures, where images/ has another name for them.
FILE_NAMES = {
    **{file_name(verdict): "training_history" for verdict in VERDICTS},
    "spoken_samples": "mnist_samples",
}
# Lessons to run one after the other in a new folder, and the pictures to take from it.
JOBS: list[tuple[list[str], list[str]]] = [
    (["02_load_mnist.py --dataset mnist"], ["mnist_samples", "mnist_overview"]),
    (["02_load_mnist.py --dataset spoken"], ["spoken_samples"]),
    (["05_experiment_architectures.py --dataset mnist"], ["architecture_comparison"]),
    (
        [TRAIN, "04_load_model.py --dataset mnist"],
        ["good_fit", "predictions", "confusion_matrix", "what_it_learned"],
    ),
    *(
        ([TRAIN + flags], [file_name(verdict)])
        for verdict, flags in VERDICTS.items()
        if flags
    ),
]
DRAWINGS = [
    "what_a_network_is", "relu_and_tanh", "learning_rates", "three_fits", "fitted_line",
    "what_the_bend_does", "speaker_embeddings", "spectrogram", "spoken_words",
    "six_voices",
]  # fmt: skip


def run(commands: list[str], pictures: list[str], wanted: set[str]) -> None:
    """Run the lessons of a job, and keep those of its pictures that are wanted."""
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            # This one fails on purpose, after it has drawn its picture.
            fails = command.endswith(VERDICTS["learning rate too high"])
            drawings.run_lesson(command, folder, check=not fails)
        if commands[0].startswith(TRAIN):
            verdict = read_runs(Path(folder, "training_runs.csv"))[-1]["verdict"]
            if pictures[0] != file_name(verdict):
                sys.exit(f"{commands[0]} is no example of {pictures[0]}: {verdict}")
        for name in filter(wanted.__contains__, pictures):
            keep(Path(folder, f"{FILE_NAMES.get(name, name)}.png"), name)


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
