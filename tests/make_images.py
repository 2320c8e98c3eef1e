"""Make the pictures that the documents show: python tests/make_images.py

Runs the lessons on real MNIST and real recordings with the settings that the guide
names, copies what they draw into images/, and adds drawings of this project's own.
Takes some minutes; with names, such as "good_fit three_fits", it makes only these.

images/my_network.png is made elsewhere: by the tests that use a real browser.
"""

import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# One thread, before PyTorch is imported: so pictures and figures come out the same.
os.environ["OMP_NUM_THREADS"] = "1"

from PIL import Image

import drawings
from backstage.runs import read_runs

IMAGES = drawings.ROOT / "images"
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


class Job(NamedTuple):
    """Lessons to run one after the other in a new folder, and what to take from it."""

    commands: list[str]
    pictures: dict[str, str]  # name in images/ -> name that the lesson gives it


def file_name(verdict: str) -> str:
    return verdict.replace(" ", "_")


def same_names(*names: str) -> dict[str, str]:
    return {name: name for name in names}


TRAIN = "03_train_mnist.py --dataset mnist "
HISTORY = "training_history"
JOBS = [
    Job(
        ["02_load_mnist.py --dataset mnist"],
        same_names("mnist_samples", "mnist_overview"),
    ),
    Job(
        [TRAIN + VERDICTS["good fit"], "04_load_model.py --dataset mnist"],
        {"good_fit": HISTORY}
        | same_names("predictions", "confusion_matrix", "what_it_learned"),
    ),
    Job(
        ["05_experiment_architectures.py --dataset mnist"],
        same_names("architecture_comparison"),
    ),
    Job(["02_load_mnist.py --dataset spoken"], {"spoken_samples": "mnist_samples"}),
]
JOBS += [
    Job([TRAIN + flags], {file_name(verdict): HISTORY})
    for verdict, flags in VERDICTS.items()
    if verdict != "good fit"
]

DRAWINGS = {
    function.__name__: function
    for function in (
        drawings.what_a_network_is,
        drawings.relu_and_tanh,
        drawings.learning_rates,
        drawings.three_fits,
        drawings.fitted_line,
        drawings.speaker_embeddings,
        drawings.spectrogram,
        drawings.spoken_words,
        drawings.six_voices,
        drawings.what_the_bend_does,
    )
}


def run(job: Job, wanted: set[str]) -> None:
    """Run the lessons of a job, and keep those of its pictures that are wanted."""
    with tempfile.TemporaryDirectory() as folder:
        for command in job.commands:
            # This one fails on purpose, after it has drawn its picture.
            fails = command.endswith(VERDICTS["learning rate too high"])
            drawings.run_lesson(command, folder, check=not fails)
        for name, given_name in job.pictures.items():
            if given_name == HISTORY:
                verdict = read_runs(Path(folder, "training_runs.csv"))[-1]["verdict"]
                if name != file_name(verdict):
                    sys.exit(f"{job.commands[0]} is no example of {name}: {verdict}")
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
    names = [name for job in JOBS for name in job.pictures] + list(DRAWINGS)
    wanted = set(sys.argv[1:] or names)
    if unknown := wanted.difference(names):
        sys.exit(f"no such picture: {', '.join(unknown)}. All are: {', '.join(names)}")
    start = time.perf_counter()
    IMAGES.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        if name in wanted:
            picture = io.BytesIO()
            draw().savefig(picture, dpi=120)
            keep(picture, name)
    for job in JOBS:
        if wanted.intersection(job.pictures):
            run(job, wanted)
    print(f"{len(wanted)} pictures in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
