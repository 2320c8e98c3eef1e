"""The program of the concept page that trains in several processes."""

import shlex
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import dl_utils
from conftest import ROOT, run_python
from documents import CONCEPTS, blocks, section

PAGE = section(CONCEPTS, "Many machines")
(PROGRAM,) = blocks(PAGE, "python many.py")
(COMMAND,) = blocks(PAGE, "bash")
QUICKLY = {"dataset": "synthetic", "train_samples": 6400}


@pytest.mark.skipif(sys.platform == "win32", reason="the page says: use WSL")
def test_two_processes_learn_what_one_learns(
    train_script, synthetic, synthetic_dir, tmp_path
):
    program = PROGRAM.replace("load_mnist_data()", "load_mnist_data(**QUICKLY)")
    (tmp_path / "many.py").write_text(f"QUICKLY = {QUICKLY}\n{program}")
    torchrun, *words = shlex.split(COMMAND)
    assert torchrun == "torchrun"
    process = run_python(
        "-m", "torch.distributed.run", *words,
        cwd=tmp_path, data_dir=synthetic_dir, PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("validation") == 1
    many = torch.load(tmp_path / "many.pth", weights_only=True)

    # One process, whole batches, the same order: lesson 3.
    train_loader, *_ = dl_utils.load_mnist_data(**QUICKLY)
    dataset = TensorDataset(*train_loader.dataset.tensors)
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)
    torch.manual_seed(42)
    model = train_script.SimpleNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        train_script.train_epoch(model, loader, nn.CrossEntropyLoss(), optimizer, "cpu")
    for name, weights in model.state_dict().items():
        assert torch.allclose(many[name], weights, atol=1e-4), name
