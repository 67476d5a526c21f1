"""What works where something is missing that others have."""

import subprocess
import sys

import pytest

from fusegrad import backends

from cases import DEVICE
from processes import python

WITHOUT = """
import os, sys
sys.modules["triton"] = None  # as if it were not installed
import torch, fusegrad as fg
x, w = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True)
torch.testing.assert_close(fg.linear_act(x, w, act="gelu"), torch.nn.functional.gelu(x @ w.T))
print(fg.backends.serving("act", "cuda"))
"""


@pytest.mark.skipif(backends.INTERPRETED or DEVICE == "cuda", reason="of a process without Triton")
def test_without_triton():
    """All works on a CPU, the reference serves a GPU, and asking for the interpreter says what is missing."""
    assert subprocess.check_output([sys.executable, "-c", WITHOUT], text=True).split() == ["reference"]
    told = lambda backend: python("-c", WITHOUT, FUSEGRAD_BACKEND=backend).stderr
    assert "there is no triton: pip install triton" in told("triton")
    assert "FUSEGRAD_BACKEND is 'cuda'; it can be 'triton', or not set" in told("cuda")
