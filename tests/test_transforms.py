"""Every transform of PyTorch gives what it gives for stock, through each way of computing a layer.

The derivative rules know of an activation what it saves and whether it is the identity, no more: one of each kind
stands for all. Their formulas, to the fifth order, are in test_activations.py.
"""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

import fusegrad as fg
from fusegrad import ops
from fusegrad.ops import OPS

from cases import Case
from transforms import (  # noqa: F401  (the last four fill COMPILED and TRANSFORMS)
    COMPILED,
    TRANSFORMS,
    backward,
    compiler,
    compilers,
    forward,
    func,
)
from transforms import __main__ as page_of_transforms


def through_module(case: Case):
    layer = fg.Linear(3, 4, act=case.name, param=case.param, device="meta")
    return lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,))


ROUTES = {
    "linear_act": lambda case: case.linear_act,
    "act_of_linear": lambda case: lambda x, w, b: fg.act(fg.linear(x, w, b), case.name, case.param),
    "module": through_module,
}
KINDS = SAVES_INPUT, SAVES_OUTPUT, TAKES_A_PARAMETER = Case("silu"), Case("tanh"), Case("softplus", 2.0)
# Compilers see one op, whatever called it and whatever its name; a module they see as a module. So all are for one op
# of each number of operands (of five, in test_gated.py), and each way to trace a rule for each kind of rule.
COMPILED_KINDS = [
    *compilers("linear_act", SAVES_INPUT, all_names=True),
    *compilers("linear_act", SAVES_OUTPUT, all_names=False),
    *compilers("act_of_linear", TAKES_A_PARAMETER, all_names=True),
    *compilers("module", SAVES_INPUT, all_names=False),
]


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("case", KINDS, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_transform(route, case, name):
    TRANSFORMS[name](ROUTES[route](case), case.stock_linear)


@pytest.mark.parametrize("route, case, name", COMPILED_KINDS, ids=str)
def test_compiled_transform(route, case, name):
    COMPILED[name](ROUTES[route](case), case.stock_linear)


@pytest.mark.parametrize("name", [*TRANSFORMS, *compilers(all_names=False)])
def test_linear(name):
    (TRANSFORMS | COMPILED)[name](fg.linear, torch.nn.functional.linear)


def test_the_grid_is_whole():
    assert len(TRANSFORMS) + len(COMPILED) >= 48


def test_rules_ask_no_more_of_an_activation():
    """Else the kinds above would not stand for all."""
    files = [Path(ops.__file__).with_name(f"{name}.py") for name in ("act", "linear", "mlp", "mul_constant", "gated")]
    assert {op for file in files for op in re.findall(r"\((\w+)\(Op\)", file.read_text())} <= set(OPS)
    for file in files:
        tree = ast.parse(file.read_text())
        rules = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "reference"]
        text = "\n".join(ast.unparse(rule) for rule in rules)
        assert set(re.findall(r"REGISTRY\[[^]]*\]\.(\w+)", text)) <= {"saves_input"}, file
        assert set(re.findall(r"\b(?:act|name) [!=]= (.+?)[:) \n]", text)) <= {"'identity'"}, file


def test_the_page_is_of_this_grid(capsys):
    """docs/transforms.md has a cell for each op and transform, and the command that makes it says what it says."""
    page = page_of_transforms.PAGE.read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    found = {cells[0]: cells[1:] for cells in lines if not cells[0].startswith("`")}
    assert set(found) == {name.replace("_", " ") for name in TRANSFORMS | COMPILED}
    assert all(len(cells) == len(page_of_transforms.OPS) for cells in found.values())
    page_of_transforms.main(["func_gradient", "func_jvp"])
    for line in capsys.readouterr().out.splitlines():
        assert line in page


def test_a_cell_tells_what_is_wrong():
    stock = torch.nn.functional.linear

    def refuses(x, w, b):
        raise ValueError("no | layers here")

    assert page_of_transforms.outcome("func_gradient", stock, stock) == "right"
    assert page_of_transforms.outcome("func_gradient", lambda *a: 2 * stock(*a), stock).startswith("**wrong**")
    assert page_of_transforms.outcome("func_gradient", refuses, stock) == "refused: ValueError no \\| layers here"
