"""Energies of atoms, trained on forces: the loss differentiates the energy by positions, and then by weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import grad

from .model import Model, Size

CUTOFF = 5.0
REAL = Size(128, 8, 20)
SMALL = Size(32, 2, 6)


def _atoms(size: Size) -> list[Tensor]:
    """Nuclear charges, positions, and the molecule of each atom."""
    count = size.batch * size.length
    charges = torch.randint(1, 10, (count,))
    return [charges, 2 * torch.randn(count, 3), torch.arange(size.batch).repeat_interleave(size.length)]


def _pairs(positions: Tensor, molecule: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms of one molecule that are near each other."""
    near = torch.cdist(positions.detach(), positions.detach()) < CUTOFF
    near &= (molecule[:, None] == molecule) & ~torch.eye(len(molecule), dtype=torch.bool)
    i, j = near.nonzero(as_tuple=True)
    return i, j


def _graph(positions: Tensor, molecule: Tensor) -> tuple[Tensor, Tensor]:
    i, j = _pairs(positions, molecule)
    return torch.stack((j, i)), (positions[i] - positions[j]).norm(dim=1)


def _schnetpack(kind: str) -> Callable[[Size], nn.Module]:
    def build(size: Size) -> nn.Module:
        import schnetpack as spk

        basis = spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF)
        given = {"n_atom_basis": size.width, "n_interactions": 2, "radial_basis": basis}
        representation = getattr(spk.representation, kind)(**given, cutoff_fn=spk.nn.CosineCutoff(CUTOFF))
        return spk.model.NeuralNetworkPotential(
            representation=representation,
            input_modules=[spk.atomistic.PairwiseDistances()],
            output_modules=[spk.atomistic.Atomwise(n_in=size.width, output_key="energy"), spk.atomistic.Forces()],
        )

    return build


def _energy_and_forces(model: nn.Module, charges: Tensor, positions: Tensor, molecule: Tensor) -> Tensor:
    from schnetpack import properties

    i, j = _pairs(positions, molecule)
    result = model(
        {
            properties.Z: charges,
            properties.R: positions.detach().clone(),
            properties.idx_i: i,
            properties.idx_j: j,
            properties.idx_m: molecule,
            properties.n_atoms: molecule.bincount(),
            properties.offsets: positions.new_zeros(len(i), 3),
        }
    )
    return torch.cat((result["energy"], result["forces"].flatten()))


def _pyg_schnet(size: Size) -> nn.Module:
    from torch_geometric.nn import SchNet

    return SchNet(size.width, size.width, num_interactions=2, interaction_graph=_graph, cutoff=CUTOFF)


def _forces(model: nn.Module, charges: Tensor, positions: Tensor, molecule: Tensor) -> Tensor:
    positions = positions.detach().requires_grad_()
    energy = model(charges, positions, molecule)
    (dx,) = grad(energy.sum(), positions, create_graph=model.training)
    return torch.cat((energy.flatten(), -dx.flatten()))


class Radial(nn.Module):
    """The network of e3nn that makes weights of distances."""

    def __init__(self, width: int) -> None:
        from e3nn.nn import FullyConnectedNet

        super().__init__()
        self.net = FullyConnectedNet([8, width, width, width], torch.nn.functional.silu)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


MODELS = [
    Model(
        "schnetpack", "SchNet, forces", _schnetpack("SchNet"), _atoms, REAL, SMALL, followed=5,
        run=_energy_and_forces, twice=True, forces=True,
    ),
    Model(
        "schnetpack", "PaiNN, forces", _schnetpack("PaiNN"), _atoms, REAL, SMALL, followed=5,
        run=_energy_and_forces, twice=True, forces=True,
    ),
    Model(
        "torch_geometric", "SchNet, forces", _pyg_schnet, _atoms, REAL, SMALL, followed=5,
        run=_forces, twice=True, forces=True,
    ),
    Model(
        "e3nn", "FullyConnectedNet", lambda size: Radial(size.width), lambda size: [torch.randn(size.batch, 8)],
        Size(256, 2000), Size(32, 20), followed=2, linears=("Layer", "_Layer"),
    ),
]  # fmt: skip
