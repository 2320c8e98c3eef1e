"""01_hello_pytorch.py: what its transcript cannot show."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from conftest import ROOT, assert_fits_the_console, load_script, run_python
from documents import GUIDE

SCRIPT = ROOT / "01_hello_pytorch.py"


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


def test_every_result_shown_is_that_of_the_code_beside_it(quick_lessons):
    output = quick_lessons.outputs[SCRIPT.name]
    # f"{code = }" prints both. The docstring's, and one that raises, show no result.
    in_braces = re.findall(r'f"\{(.+?) = \}', SCRIPT.read_text(encoding="utf-8"))[1:]
    in_braces.remove("images @ weights")
    code = r"((?:(?![a-z] [a-z]).)+?)"  # no sentence
    result = r"(?=tensor\(|array\(|torch\.|device\(|'cpu'|\d)"
    assert re.findall(rf"^{code} = {result}", output, re.M) == in_braces
    with pytest.raises(RuntimeError) as error:
        torch.zeros(64, 1, 28, 28) @ torch.zeros(784, 128)
    assert f"\nRuntimeError: {error.value}\n" in output


def test_without_a_usable_torchvision_the_lesson_goes_on_to_its_end(tmp_path):
    # With a torch that it was not made for, the import fails in one of many ways.
    (tmp_path / "torchvision.py").write_text("class Odd(Exception): ...\nraise Odd(7)")
    process = run_python(SCRIPT, cwd=tmp_path, data_dir=tmp_path, PYTHONPATH=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert_fits_the_console(process.stdout)
    assert (
        "torchvision cannot be used with this torch (7). Reinstall the two together: "
        "python -m pip install --force-reinstall torch torchvision What a tensor is"
    ) in " ".join(process.stdout.split())
    assert "\nFound: slope" in process.stdout


def test_the_five_steps_are_named_as_in_lesson_3():
    calls = ("zero_grad", "forward", "loss", "backward", "step")
    steps = [f"Step {number}, {call}" for number, call in enumerate(calls, start=1)]
    for path in (SCRIPT, ROOT / "03_train_mnist.py"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"# (Step \d, \w+):", text) == steps


@pytest.mark.parametrize(
    ("seed", "epochs", "learning_rate", "verdict"),
    [
        (0, 100, 0.1, "Found"),
        (42, 33, 0.1, "Not there yet"),
        (42, 34, 0.1, "Found"),
        (42, 100, 1e-300, "Not there yet"),  # the loss stays exactly the same
        (42, 100, 1.0, "Not there yet"),  # it swings from side to side for ever
        (42, 100, 1.1, "Diverged"),
        (42, 100, 1e30, "Diverged"),
    ],
)
def test_other_settings_get_a_true_verdict(
    seed, epochs, learning_rate, verdict, script, capsys
):
    torch.manual_seed(seed)
    script.fit_line(epochs, learning_rate, "cpu")
    output = capsys.readouterr().out
    assert_fits_the_console(output)
    assert re.findall(r"^(Found|Not there yet|Diverged)", output, re.M) == [verdict]
    assert len(re.findall(r"^ .*(?:inf|nan)", output, re.M)) <= 1  # then it stops
    if learning_rate == 1.1:
        assert output.endswith("Divide the learning rate by 10.\n")
        losses = re.findall(r"^ +\d+ +([\d.e+]+) ", output, re.M)
        (factor,) = re.findall(r"by a factor of about (\d+) from", GUIDE)
        for before, now in itertools.pairwise(map(float, losses[1:])):
            assert now / before == pytest.approx(float(factor), rel=0.1)


@pytest.mark.parametrize(("device", "wait"), [("cuda", ["wait"]), ("cpu", [])])
def test_the_shortest_time_after_a_warm_up_counts(device, wait, script, monkeypatch):
    calls, times = [], iter([0, 0.001, *[0, 0.009] * 19, 0, 0.007])  # starts and ends
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(times))
    shortest = script.best_milliseconds(lambda a, b: calls.append("work"), 1, 2, device)
    assert shortest == pytest.approx(7)
    assert calls == ["work", *wait] * 21


class PretendGPU(TorchFunctionMode):
    """Carries out on the CPU what is asked of "cuda"."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        args = ["cpu" if isinstance(x, str) and x == "cuda" else x for x in args]
        return function(*args, **(kwargs or {}))


def test_a_gpu_is_compared_with_the_cpu(script, monkeypatch, capsys):
    cpu, gpu = (torch.matmul, "cpu"), (torch.matmul, "cuda")
    times = {(*cpu, 100): 2, (*gpu, 100): 4, (*cpu, 1000): 30, (*gpu, 1000): 3}
    times |= {(script.python_product, "cpu", 784): 8, (*cpu, 1): 0.01}
    times[np.matmul, "cpu", 1] = 0.02
    monkeypatch.setattr(
        script, "best_milliseconds", lambda f, a, b, d="cpu": times[f, d, len(a)]
    )
    with PretendGPU():
        script.compare_speed("cuda")
        script.fit_line(100, 0.1, "cuda")
    output = capsys.readouterr().out
    expected = """
Python loop     8.000 ms
NumPy           0.020 ms      400 times as fast
torch           0.010 ms      800 times as fast
Both run compiled code. torch adds what NumPy lacks: gradients and the GPU.

A GPU needs enough to do. The product of two n x n matrices:
n = 100   CPU    2.000 ms   GPU    4.000 ms  0.5 times as fast
n = 1000  CPU   30.000 ms   GPU    3.000 ms  10.0 times as fast

A first"""
    assert expected in output
    assert "\nFound: slope" in output
    assert script.python_product([1, 2], [[3, 4], [5, 6]]) == [11, 17]
