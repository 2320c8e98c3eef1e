"""Networks, described and recognized by what they do."""

import torch
from torch import nn


def describe_network(model: nn.Module, images: torch.Tensor) -> None:
    """Print the shape of a batch after each layer, and what each layer can learn.

    Args:
        model: any network; its layers are shown in the order in which forward() uses
            them.
        images: a batch for it, float32 [N, 1, 28, 28], on the model's device.
    """

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.requires_grad)

    def report(name: str, layer: nn.Module, output: torch.Tensor) -> None:
        explanation = ""
        if isinstance(layer, nn.Linear):
            inputs, outputs = layer.in_features, layer.out_features
            explanation = f"  {inputs:,} x {outputs:,} weights + {outputs:,} biases"
        shape = str(list(output.shape))
        print(f"{name:<10}{shape:<20}{count(layer):>10,}{explanation}")

    print(f"{'layer':<10}{'output shape':<20}{'parameters':>10}")
    print(f"{'(input)':<10}{list(images.shape)}")
    # A hook is a function that PyTorch calls whenever a layer has been used.
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, output, name=name: report(name, layer, output)
        )
        for name, layer in model.named_children()
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    print(f"{'together':<30}{count(model):>10,}")


def find_two_layers(
    model: nn.Module, images: torch.Tensor
) -> tuple[nn.Linear, nn.Linear] | None:
    """Return fc1 and fc2 of a network that computes fc2(relu(fc1(x))), like SimpleNN.

    It is tried on some images, so that it does not matter how the layers are called,
    and one that computes anything else is never taken for one.

    Args:
        model: any network in evaluation mode.
        images: float32 [N, 1, 28, 28], on the model's device.

    Returns:
        The two layers, or None if the network computes something else.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    if len(layers) != 2 or sizes[0][0] != 784 or sizes[1] != (sizes[0][1], 10):
        return None
    fc1, fc2 = layers
    with torch.inference_mode():
        logits = fc2(fc1(images.flatten(1)).relu())
        same = torch.allclose(model(images), logits, atol=1e-4)
    return (fc1, fc2) if same else None
