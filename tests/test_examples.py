"""The examples: stock and fused come to the same, and near the known solution when they are trained to the end."""

import importlib
import re
from pathlib import Path

import pytest

from cases import on_cpu
from processes import python

ROOT = Path(__file__).parent.parent
# the largest error that an example may end with, of its own kind
ERRORS = {
    "burgers": 0.02,
    "eikonal": 0.05,
    "heat": 0.03,
    "lennard_jones": 0.1,
    "newton_cg": 0.03,
    "per_sample": 0.2,
    "poisson": 0.02,
    "schroedinger": 0.005,
    "wgan_gp": 0.1,
}


def test_every_example_is_shown():
    """With its plot, in the docs; and is known here."""
    page = (ROOT / "docs" / "examples.md").read_text()
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"digits", "side_by_side"}
    assert names == set(ERRORS)
    assert set(re.findall(r"\]\(\.\./examples/(\w+)\.py\)", page)) >= names
    assert set(re.findall(r"!\[[^]]*\]\(\.\./examples/(\w+)\.png\)", page)) == names
    assert {path.stem for path in (ROOT / "examples").glob("*.png")} == names


@on_cpu
def test_examples_begin(monkeypatch, capsys):
    """Two steps of each: the losses of both are the same."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(ROOT / "examples")
    for name in ERRORS:
        sides = importlib.import_module(name).main(2)
        for stock, fused in zip(sides[::2], sides[1::2], strict=True):
            assert fused.losses == pytest.approx(stock.losses, rel=1e-4), name
            assert fused.error == pytest.approx(stock.error, rel=1e-2), name
    assert "fused is" in capsys.readouterr().out


@on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
def test_example_comes_near_the_known_solution(name):
    pytest.importorskip("sklearn")
    run = python("-c", f"import sys; sys.path.insert(0, 'examples'); import {name}; {name}.main()")
    assert run.returncode == 0, run.stderr
    errors = [float(e) for e in re.findall(r"error ([\d.e+-]+)$", run.stdout, re.MULTILINE)]
    assert len(errors) in (2, 4) and max(errors) < ERRORS[name], run.stdout
