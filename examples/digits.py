"""Train a classifier of handwritten digits, stock and fused, from the same seed: both reach the same accuracy.

scikit-learn's digits: 1797 images of 8 x 8, ten classes.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import fusegrad as fg


def train(convert=lambda model: model) -> tuple[float, nn.Module]:
    """Test accuracy in percent, and the model."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = map(
        torch.as_tensor, train_test_split(images / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    )
    torch.manual_seed(0)
    model = convert(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, x_test = x.float(), x_test.float()
    for _ in range(40):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * (model(x_test).argmax(1) == y_test).float().mean().item(), model


if __name__ == "__main__":
    for name, convert in (("stock", lambda model: model), ("fused", fg.fuse)):
        accuracy, model = train(convert)
        print(f"{name}: accuracy {accuracy:.2f} %")
    print(fg.explain(model))
