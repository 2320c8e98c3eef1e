"""The drawings of the two documents. Every number in them is computed here.

Each function returns a figure that is named like it: images/<name>.png.
"""

import copy
import functools
import itertools
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import conftest
from backstage import sound
from dl_utils import load_mnist_data, load_recordings
from documents import speaking_blocks

# 768 pixels: fits a page, and the letters can still be read on a phone.
WIDTH = 6.4  # inches, 120 pixels each

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
MIDDLE = {"ha": "center", "va": "center"}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000")


def run_lesson(command: str, folder: str, check: bool = True) -> None:
    """Run a lesson, such as "03_train_mnist.py --epochs 3"; check: it must succeed."""
    script, *flags = shlex.split(command)
    process = conftest.run_python(
        conftest.ROOT / script, *flags, cwd=folder, data_dir=conftest.REAL_DATA_DIR
    )
    assert process.returncode == 0 or not check, process.stderr


def new_figure(height: float, title: str = "", **options) -> Figure:
    """Return a figure as wide as all, of some height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    if title:
        figure.suptitle(title, **options)
    return figure


def number(value: float) -> str:
    """Return a number with one decimal and a real minus sign."""
    return f"{value:.1f}".replace("-", MINUS)


def column(count: int) -> np.ndarray:
    """Return the heights, 1 down to 0, of so many neurons below each other."""
    return 1 - (np.arange(count) + 0.5) / count


def connect(ax: Axes, x: float, layer: nn.Linear, label_at: float, gap: int) -> None:
    """Draw an arrow from x to x + 1 for every weight of a layer, and its two biases.

    label_at: where on its arrow, 0 to 1, each weight is written; gap: points between
    the arrow's head and the middle of the neuron.
    """
    for end, weights in zip(column(layer.out_features), layer.weight, strict=True):
        for start, weight in zip(column(len(weights)), weights.tolist(), strict=True):
            color = "tab:red" if weight > 0 else "tab:blue"
            line = {"arrowstyle": "-|>", "color": color, "shrinkA": 20, "shrinkB": gap}
            line["linewidth"] = 0.8 + 0.4 * abs(weight)
            ax.annotate("", (x + 1, end), (x, start), arrowprops=line)
            place = (x + label_at, start + label_at * (end - start))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            ax.text(*place, TIMES + number(weight), **MIDDLE, color=color, bbox=box)
    for y, bias in zip((0.91, 0.09), layer.bias.tolist(), strict=True):
        sign = "+" if bias > 0 else ""
        ax.text(x + 1, y, f"bias {sign}{number(bias)}", **MIDDLE)


def neurons(ax: Axes, x: float, title: str, texts: list[str], color: str) -> None:
    """Draw a layer: a rounded box with a text for each neuron, and a title above."""
    ax.text(x, 1.14, title, **MIDDLE, size=11, weight="bold")
    box = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "black"}
    for y, text in zip(column(len(texts)), texts, strict=True):
        ax.text(x, y, text, **MIDDLE, size=11, bbox=box)


def weighted_sum(inputs: torch.Tensor, layer: nn.Linear, j: int) -> str:
    """Write out what neuron j of a layer adds up, before any bend."""
    text = ""
    for value, weight in zip(inputs.tolist(), layer.weight[j].tolist(), strict=True):
        factor = f"({number(weight)})" if weight < 0 else number(weight)
        text += f"{number(value)} {TIMES} {factor} + "
    text += f"{number(layer.bias[j].item())} = {number(layer(inputs)[j].item())}"
    return text.replace(f"+ {MINUS}", f"{MINUS} ")


def what_a_network_is() -> Figure:
    pixels = torch.tensor([1.0, 0.5, 0.2])
    fc1, fc2 = nn.Linear(3, 2), nn.Linear(2, 2)
    with torch.no_grad():
        fc1.weight.copy_(torch.tensor([[2.0, -1.0, 5.0], [-3.0, 2.0, 5.0]]))
        fc1.bias.copy_(torch.tensor([-0.5, 0.5]))
        fc2.weight.copy_(torch.tensor([[1.5, -1.0], [-1.0, 2.0]]))
        fc2.bias.copy_(torch.tensor([0.5, 1.0]))
        sums = fc1(pixels)
        hidden = torch.relu(sums)
        scores = fc2(hidden)

    title = "A network weighs, adds up, bends, and weighs again"
    figure = new_figure(7.6, title, size=13)
    small, text, large = figure.subplots(3, 1, height_ratios=[8, 3.6, 4])
    for ax in (small, text, large):
        ax.axis("off")
    small.set(xlim=(-0.25, 2.5), ylim=(0, 1.2))
    connect(small, 0, fc1, 0.27, gap=32)
    connect(small, 1, fc2, 0.33, gap=22)
    neurons(small, 0, "3 pixels", list(map(number, pixels.tolist())), "#eeeeee")
    pairs = zip(sums.tolist(), hidden.tolist(), strict=True)
    bends = [f"{number(total)} {ARROW} {number(value)}" for total, value in pairs]
    neurons(small, 1, f"2 hidden neurons\n(sum {ARROW} ReLU)", bends, "#ffe9a8")
    neurons(small, 2, "2 scores", list(map(number, scores.tolist())), "#d5ead5")
    for y, answer in zip(column(2), ["for 0", "for 1"], strict=True):
        small.text(2.2, y, answer, va="center", size=11)

    names = ["Upper neuron:", "Lower neuron:", "Score for 0:", "Score for 1:"]
    layers = itertools.product(((pixels, fc1), (hidden, fc2)), range(2))
    formulas = [weighted_sum(*layer, j) for layer, j in layers]
    remarks = [f"ReLU {ARROW} {number(value)}" for value in hidden.tolist()] + ["", ""]
    remarks[2 + scores.argmax()] = "the largest wins"
    for row, line in enumerate(zip(names, formulas, remarks, strict=True)):
        y = 0.95 - 0.2 * row - 0.15 * (row > 1)
        for x, part in zip((0, 0.175, 0.79), line, strict=True):
            text.text(x, y, part, va="center")

    # A few neurons stand for all of them.
    sizes, drawn = (784, 128, 10), list(map(column, (12, 9, 10)))
    count = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    large.set(xlim=(-0.25, 2.5))
    title = f"Lesson 3: the same with {count:,} weights and biases (a few are drawn)"
    large.set_title(title, size=11)
    for x, columns in enumerate(itertools.pairwise(drawn)):
        for ends in itertools.product(*columns):
            large.plot([x, x + 1], ends, color="0.8", linewidth=0.6)
    looks = {"pixels": "#bbbbbb", "hidden neurons": "#e69f00", "scores": "#66a866"}
    for x, (size, ys, name) in enumerate(zip(sizes, drawn, looks, strict=True)):
        large.scatter([x] * len(ys), ys, 24, looks[name], edgecolors="black", zorder=3)
        large.text(x, -0.08, f"{size} {name}", **MIDDLE, size=11)
    return figure


def relu_and_tanh() -> Figure:
    title = "Both bend. For large inputs ReLU keeps its full slope, and Tanh loses it"
    figure = new_figure(5.6, title, size=11)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for (top, bottom), activation in zip(axes.T, (nn.ReLU(), nn.Tanh()), strict=True):
        for part in (torch.linspace(-4, -0.001, 200), torch.linspace(0.001, 4, 200)):
            inputs = part.requires_grad_()
            outputs = activation(inputs)
            (slopes,) = torch.autograd.grad(outputs.sum(), inputs)
            x = inputs.detach()
            top.plot(x, outputs.detach(), color="tab:blue", lw=2.5)
            bottom.plot(x, slopes, color="tab:red", lw=2.5)
        top.set_title(type(activation).__name__)
        bottom.set_xlabel("Input")
        for ax in (top, bottom):
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("Output")
    axes[1, 0].set(ylabel="Slope of the output", ylim=(-0.1, 1.3))
    axes[1, 0].text(2, 1.06, "1, however\nlarge the input", ha="center", va="bottom")
    axes[1, 0].text(-2, 0.06, "0: nothing passes", ha="center", va="bottom")
    for x in (-3, 3):
        axes[1, 1].text(x, 0.06, "fades\nto 0", ha="center", va="bottom")
    return figure


def learning_rates() -> Figure:
    start, best, steps = -2.0, 1.0, 6
    title = "One valley, one start (star): which learning rate arrives?"
    figure = new_figure(5.8, title, size=13)
    *valleys, chart = figure.subplots(2, 2).flat
    rates = (
        (0.03, "too small: it crawls", "tab:orange", "s"),
        (0.3, "right: it arrives", "tab:blue", "^"),
        (1.03, "too large: it flies off", "tab:red", "o"),
    )
    for ax, (learning_rate, name, color, marker) in zip(valleys, rates, strict=True):
        weight = torch.tensor(start, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=learning_rate)
        weights, losses = [], []
        for _ in range(steps + 1):
            optimizer.zero_grad()
            loss = (weight - best) ** 2
            loss.backward()
            weights.append(weight.item())
            losses.append(loss.item())
            optimizer.step()
        ground = torch.linspace(-4, 6, 200)
        ax.plot(ground, (ground - best) ** 2, color="0.6")
        style = {"color": color, "marker": marker}
        ax.plot(weights, losses, **style, lw=1)
        ax.plot(weights[0], losses[0], "k*", ms=13, zorder=3)
        ax.set(xlabel="Weight", ylabel="Loss", ylim=(-1, 20))
        ax.set_title(f"{learning_rate}, {name}")
        chart.plot(losses, **style, label=learning_rate)
    chart.set_title(f"Loss in {steps} steps: only 0.3 arrives")
    chart.set(xlabel="Step", ylabel="Loss", ylim=(-1, 20))
    chart.legend(loc=(0.62, 0.33))
    return figure


def three_fits() -> Figure:
    generator = np.random.default_rng(9)
    x = np.linspace(-1, 1, 12)
    y = np.sin(3 * x) + generator.normal(0, 0.2, 12)  # a wave, and noise
    new_x = generator.uniform(-1, 1, 12)
    new_y = np.sin(3 * new_x) + generator.normal(0, 0.2, 12)
    parts = (
        ("to learn from", x, y, {"color": "tab:blue", "marker": "o"}),
        ("new", new_x, new_y, {"color": "tab:red", "marker": "D", "mfc": "white"}),
    )

    title = "The wild curve meets every blue point, and misses the new ones"
    figure = new_figure(6, title)
    *panels, chart = figure.subplots(2, 2).flat
    names = ("Line:\nunderfitting", "Curve:\ngood fit", "Wild curve:\noverfitting")
    everywhere = np.linspace(-1, 1, 500)
    for i, (ax, degree) in enumerate(zip(panels, (1, 3, 11), strict=True)):
        # The degree is the number of bends plus one: the capacity of this model.
        curve = np.polynomial.Polynomial.fit(x, y, degree)
        ax.plot(everywhere, curve(everywhere), color="0.4")
        for j, (label, x_part, y_part, style) in enumerate(parts):
            ax.plot(x_part, y_part, **style, linestyle="none", label=label)
            miss = np.abs(curve(x_part) - y_part).mean()
            bar = chart.bar(i + 0.4 * j - 0.2, miss, 0.4, color=style["color"])
            chart.bar_label(bar, fmt="%.2f")
        ax.set(xlabel="x", ylabel="y", ylim=(-2, 2), title=names[i].replace("\n", " "))
    panels[0].legend(loc="upper left")
    chart.margins(y=0.12)
    chart.set_xticks(range(3), names)
    chart.set_title("Which holds for new points?")
    chart.set_ylabel("Mean distance from the curve")
    return figure


def fitted_line() -> Figure:
    """Run lesson 1, and note the line before each step of its last section."""
    lesson = conftest.load_script("01_hello_pytorch")
    train_step, seen = lesson.train_step, []

    def watched_step(model, x, y, *others):
        seen.append((model, x, y, model(x).detach()))
        train_step(model, x, y, *others)

    lesson.train_step = watched_step
    conftest.run_main(lesson, cwd=".", data_dir=".")

    model, x, y, before = seen[0]
    x, y, before, after = (part.detach().cpu() for part in (x, y, before, model(x)))
    slope, intercept = model.weight.item(), model.bias.item()
    figure = new_figure(4.6)
    ax = figure.subplots()
    ax.plot(x, y, ".", color="0.5", label="100 points near y = 2x + 1")
    ax.plot(x, before, "--", color="tab:red", lw=2.5, label="before training")
    ax.plot(x, after, color="tab:blue", lw=2.5, label=f"after {len(seen)} steps")
    title = f"Training found the line: y = {slope:.3f}x + {intercept:.3f}"
    ax.set(xlabel="x", ylabel="y", title=title)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def speaker_embeddings() -> Figure:
    lesson = conftest.load_script("03_train_mnist")
    with tempfile.TemporaryDirectory() as folder:
        run_lesson("03_train_mnist.py --dataset speakers", folder)
        weights = torch.load(Path(folder, lesson.MODEL_PATH), weights_only=True)
    model = lesson.SimpleNN()
    model.load_state_dict(weights)
    *_, test_loader = load_mnist_data(dataset="speakers")
    images, labels = test_loader.dataset.tensors
    with torch.no_grad():
        hidden = model.relu(model.fc1(model.flatten(images)))  # [300, 128]
    centred = hidden - hidden.mean(dim=0)
    _, strengths, directions = torch.linalg.svd(centred, full_matrices=False)
    shares = 100 * strengths**2 / (strengths**2).sum()
    points = centred @ directions[:2].T  # [300, 128] -> [300, 2]

    same = []  # how often is the most similar recording by the same voice, in percent?
    for numbers in (hidden, points):
        nearest = torch.cdist(numbers, numbers).fill_diagonal_(torch.inf).argmin(dim=1)
        same.append(100 * (labels[nearest] == labels).float().mean().item())

    figure = new_figure(6)
    ax = figure.subplots()
    for i, voice in enumerate(test_loader.dataset.classes):
        style = {"color": COLORS[i], "marker": "os^DvX"[i], "alpha": 0.75}
        ax.scatter(*points[labels == i].T, 38, **style, label=voice)
    ax.set_xlabel(f"First direction ({shares[0]:.0f}% of the variance)")
    ax.set_ylabel(f"Second direction ({shares[1]:.0f}%)")
    title = (
        "Recordings of one voice lie together. The most similar one is of\nthe same "
        f"voice: {same[0]:.0f}% by all 128 hidden numbers, {same[1]:.0f}% by these two"
    )
    ax.set_title(title, size=11)
    figure.legend(loc="outside lower center", ncols=6, columnspacing=1, handletextpad=0)
    return figure


def spectrogram() -> Figure:
    rate, length = sound.SAMPLE_RATE, sound.LENGTH
    window, hop, hertz = sound.WINDOW, sound.HOP, "Frequency (Hz)"
    # A "six" shows much: a hiss, a vowel, the silence before the k, a hiss again.
    (samples,) = (r.samples for r in load_recordings() if r[:3] == (6, "theo", 0))
    image = sound.to_image(samples)
    missing = length - len(samples)
    samples = nn.functional.pad(samples, (missing // 2, missing - missing // 2))
    hann = torch.hann_window(window)
    spectrum = torch.stft(samples, window, 20, window=hann, return_complex=True)
    power = spectrum.abs().square()
    decibels = 10 * torch.log10(power / power.max() + 1e-9)
    time = torch.arange(length) / rate

    figure = new_figure(8, 'The word "six", spoken by theo, becomes an image', size=13)
    wave, fine, coarse = figure.subplots(3, 1, sharex=True, height_ratios=[2, 3, 4])
    wave.plot(time, samples, color="tab:blue", linewidth=0.6)
    wave.set_title(f"The wave: {length:,} numbers in one second")
    wave.set(ylabel="Air pressure\n(1: full scale)", ylim=(-0.035, 0.05))
    for x, letter in ((0.33, "s"), (0.43, "i"), (0.56, "k"), (0.66, "s")):
        wave.text(x, 0.036, letter, ha="center", size=13, weight="bold")
    style = {"cmap": "gray_r", "aspect": "auto"}
    place = {"extent": (0, length / rate, 0, rate / 2), "origin": "lower"}
    fine.imshow(decibels, vmin=-sound.RANGE, **place, **style)
    fine.set_title("The spectrogram: which frequencies are loud (dark), and when")
    fine.set_ylabel(hertz)

    # The columns: each stands for the moment in the middle of its window.
    size = len(image)
    left = (window - hop) / 2 / rate
    extent = (left, left + size * hop / rate, size - 0.5, -0.5)
    coarse.imshow(image, extent=extent, **style)
    # The rows: where does a tone of this frequency light up?
    frequencies = (100, 250, 500, 1000, 2000, 3500)
    tones = (torch.sin(2 * torch.pi * f * time) for f in frequencies)
    rows = [sound.to_image(tone).sum(dim=1).argmax().item() for tone in tones]
    coarse.set_yticks(rows, frequencies)
    title = f"What the network gets: {size} x {size} numbers, like an MNIST digit"
    coarse.set(title=title, ylabel=hertz, xlabel="Time (s)", xlim=(0, length / rate))
    return figure


def run_lesson_6(folder: str, names: dict, sources: list[str]) -> None:
    """Run blocks of the guide in a folder, as one script that has got so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for source in sources:
            exec(compile(source, "06_speak.py", "exec"), names)


def train_judges(folder: Path, seed: int = 42) -> None:
    """Train the networks that listen in lesson 6, as the guide says."""
    for dataset in ("spoken", "speakers"):
        flags = ("--dataset", dataset, "--seed", seed)
        where = {"cwd": folder, "data_dir": conftest.REAL_DATA_DIR}
        conftest.run_main("03_train_mnist", *flags, **where)
        (folder / "mnist_model.pth").replace(folder / f"{dataset}.pth")


@functools.cache
def speaking_networks() -> tuple[dict, nn.Module, nn.Module]:
    """Return what 06_speak.py knows after its first step further, and its networks."""
    parts, _ = speaking_blocks()
    names = {}
    with tempfile.TemporaryDirectory() as folder:
        train_judges(Path(folder))
        run_lesson_6(folder, names, parts[:7])
        heard_all = copy.deepcopy(names["model"])
        run_lesson_6(folder, names, parts[7:8])
    return names, heard_all, names["model"]


def said(names: dict, model: nn.Module, word: tuple) -> tuple[torch.Tensor, float]:
    """Return the spectrogram that a network answers with, and its seconds."""
    with torch.no_grad():
        answer = model(names["ask"](*word))
    return 1.2 * answer[:-1].reshape(sound.FINE_ROWS, -1), answer[-1].item()


def show_words(words: list, titles: list, labels: list, height: float, title: str = ""):
    """Draw six spectrograms, each with its seconds, in two rows with a label each."""
    figure = new_figure(height, title, size=13)
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    # What is fainter than vmin cannot be heard beside the rest.
    style = {"origin": "lower", "aspect": "auto", "cmap": "gray_r", "vmin": -0.5}
    for ax, (spectrogram, seconds), name in zip(axes.flat, words, titles, strict=True):
        extent = (0, seconds, 0, sound.SAMPLE_RATE / 2000)
        ax.imshow(spectrogram, extent=extent, vmax=1, **style)
        ax.set_title(name, size=11)
    axes[0, 0].set_xlim(0, 0.6)
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(f"{label}Frequency (kHz)")
    for ax in axes[1]:
        ax.set_xlabel("Time (s)")
    return figure


def spoken_words() -> Figure:
    names, heard_all, heard_rest = speaking_networks()
    shown, labels = [], []
    for word in ((4, "theo"), (7, "jackson")):
        assert word in names["unheard"]
        samples = next(r.samples for r in names["recordings"] if r[:2] == word)
        shown.append(sound.to_spectrogram(samples))
        shown += [said(names, model, word) for model in (heard_all, heard_rest)]
        labels.append('"{}" by {}\n'.format(*word))
    titles = ["A recording", "Spoken by a network", "It never heard this pair"]
    return show_words(shown, titles + 3 * [""], labels, 5)


def six_voices() -> Figure:
    names, heard_all, _ = speaking_networks()
    shown = [said(names, heard_all, (7, voice)) for voice in names["voices"]]
    title = '"Seven", spoken by one network in six voices'
    return show_words(shown, names["voices"], ["", ""], 4.6, title)


def what_the_bend_does() -> Figure:
    generator = torch.Generator().manual_seed(0)
    angles = 2 * torch.pi * torch.rand(300, generator=generator)
    labels = (torch.arange(300) < 150).long()  # 1: inside
    distances = torch.rand(300, generator=generator).sqrt()
    distances = torch.where(labels == 1, 0.6 * distances, 0.8 + 0.4 * distances)
    points = distances[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1)
    line = torch.linspace(-1.4, 1.4, 281)

    title = "Two layers, six hidden neurons: what do they call inside (yellow)?"
    figure = new_figure(4, title)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, bend in zip(axes, (nn.Identity(), nn.ReLU()), strict=True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), bend, nn.Linear(6, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(500):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(points), labels).backward()
            optimizer.step()
        with torch.no_grad():
            right = (model(points).argmax(dim=1) == labels).float().mean().item()
            outside, inside = model(torch.cartesian_prod(line, line)).T
        lead = (inside - outside).reshape(281, 281).T
        ax.contourf(line, line, lead, levels=[0, torch.inf], colors="#ffe9a8")
        ax.contour(line, line, lead, levels=[0], colors="black", linewidths=2)
        ax.plot(*points[150:].T, "o", c="tab:blue", ms=4, label="outside")
        ax.plot(*points[:150].T, "D", c="tab:red", mfc="white", ms=4, label="inside")
        name = "With ReLU" if isinstance(bend, nn.ReLU) else "Without a bend"
        ax.set_title(f"{name}: {100 * right:.0f}% right", size=11)
        ax.set(xlabel="Input 1", aspect="equal")
    axes[0].set_ylabel("Input 2")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
