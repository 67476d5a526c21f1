"""How many calls with streams of derivatives were one op, whose node C++ or Python makes."""

import pytest

from fusegrad import backends
from fusegrad.operators import streamed


def calls_of(op, name, by, monkeypatch):
    """A list that grows with each; `name` is what C++ calls it, `by` "C++" or "Python"."""
    calls = []
    if by == "Python":
        monkeypatch.setattr(backends, "node", None)
        run = streamed.below_autograd
        note = lambda called: calls.append(op) if called is op else None
        monkeypatch.setattr(streamed, "below_autograd", lambda *args: note(args[0]) or run(*args))
    elif backends.node is None:
        pytest.skip("no C++ nodes")
    else:
        run_in_cpp = getattr(backends.node, name)
        note_made = lambda made: calls.append(op) if made is not None else None
        monkeypatch.setattr(backends.node, name, lambda *args: note_made(made := run_in_cpp(*args)) or made)
    return calls
