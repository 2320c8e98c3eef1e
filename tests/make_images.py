"""Make the pictures that the documents show: python tests/make_images.py

Runs the lessons on real MNIST with the settings that the guide names, and copies what
they draw into images/. Takes some minutes.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LESSONS = {
    "02_load_mnist.py": ["mnist_samples.png", "mnist_overview.png"],
    "03_train_mnist.py": [],
    "04_load_model.py": ["predictions.png", "confusion_matrix.png"],
    "05_experiment_architectures.py": ["architecture_comparison.png"],
}

# Verdict -> the flags of 03_train_mnist.py that bring it about.
VERDICTS = {
    "good fit": "",
    "underfitting": "--hidden-size 2",
    "still improving": "--learning-rate 0.00001",
    "overfitting": "--train-samples 100 --epochs 50",
    "severe overfitting": "--train-samples 1000 --epochs 300",
    "learning rate too high": "--learning-rate 0.1",
}


def main():
    images = ROOT / "images"
    images.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:

        def run(script, *flags):
            command = [sys.executable, ROOT / script, *flags, "--dataset", "mnist"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        for script, names in LESSONS.items():
            run(script)
            for name in names:
                shutil.copy(Path(folder, name), images)
        for verdict, flags in VERDICTS.items():
            run("03_train_mnist.py", *flags.split())
            name = f"{verdict.replace(' ', '_')}.png"
            shutil.copy(Path(folder, "training_history.png"), images / name)
    print(f"Saved: {len(list(images.iterdir()))} pictures in {images}")


if __name__ == "__main__":
    main()
