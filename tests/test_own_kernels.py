"""Where the kernels of an activation of one's own come from: a compiler, and a cache that many processes share."""

import math
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fusegrad import backends, own
from fusegrad.activations import compile as compiled
from fusegrad.internals import cache_key

from cases import on_cpu
from processes import python

CXX = shutil.which("c++")
pytestmark = [
    on_cpu,
    pytest.mark.skipif(backends.extension is None, reason="no C++ extension"),
    pytest.mark.skipif(CXX is None, reason="no C++ compiler"),
]
FORK = multiprocessing.get_context("fork")  # no import of torch for each
STRUCT = """
namespace fusegrad {
namespace FUSEGRAD_ISA {
struct Own {
  static constexpr const char* kName = "of_a_test";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> p) { return z * p; }
  template <class V> static V first(V g, V, P<V> p) { return g * p; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};
}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty one."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    compiled._version_of.cache_clear()
    return home / "fusegrad"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """What the compiler made the first time."""
    return tmp_path_factory.mktemp("first") / "made"


@pytest.fixture
def compiler(tmp_path, monkeypatch, first):
    """The compiler, which writes down when it is called, and waits while there is a file `wait`. Its first result is
    its result each time, which takes no time: it is asked when it is called, not for what."""
    script = tmp_path / "cxx"
    script.write_text(
        f"""#!/bin/sh
case "$*" in *--version*) exec {CXX} "$@" ;; esac
echo $$ >> {tmp_path}/calls
while test -e {tmp_path}/wait; do sleep 0.05; done
for to; do :; done  # the last argument
test -e {first} || {{ {CXX} "$@" && mv "$to" {first}; }} && cp {first} "$to"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return lambda: (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []


def build(struct=STRUCT):
    return compiled.library("of_a_test", struct, "portable", "0")


def wait_for(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_what_is_made_is_found_again(compiler, cache, capfd):
    path = build()
    assert build() == path and len(compiler()) == 1
    assert capfd.readouterr().err.count("compiling") == 1
    backends.extension.load_activation(str(path))
    assert {p.name for p in path.parent.iterdir()} == {"of_a_test.so", "of_a_test.h", "lock"}


def test_only_the_owner_may_write_to_it(compiler, cache):
    mask = os.umask(0)
    try:
        path = build()
    finally:
        os.umask(mask)
    for folder in (cache, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("change", ("struct", "flags", "compiler", "isa", "version", "torch"))
def test_what_is_made_of_something_else_is_made_again(change, compiler, tmp_path, monkeypatch):
    paths = [build()]
    struct, isa, version = STRUCT, "portable", "0"
    if change == "struct":
        struct = STRUCT.replace("z * p", "p * z")
    elif change == "flags":
        monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-O1"))
    elif change == "compiler":
        text = (tmp_path / "cxx").read_text()
        (tmp_path / "cxx").write_text(text.replace("*--version*)", '*--version*) echo "another one";'))
        compiled._version_of.cache_clear()
    elif change == "isa":
        isa = backends.extension.instruction_sets()[0][0]
    elif change == "version":
        version = "1"
    else:
        monkeypatch.setattr(torch, "__version__", "0")
    (tmp_path / "wait").unlink(missing_ok=True)
    paths.append(compiled.library("of_a_test", struct, isa, version))
    assert paths[0] != paths[1] and len(compiler()) == 2


def test_ten_at_once_build_once(compiler, tmp_path):
    (tmp_path / "wait").touch()
    found = FORK.SimpleQueue()

    def put():
        try:
            found.put(str(build()))
        except Exception as e:  # else what waits for ten of them waits for ever
            found.put(repr(e))

    all_ = [FORK.Process(target=put) for _ in range(10)]
    for one in all_:
        one.start()
    wait_for(compiler)
    time.sleep(0.3)  # for the others to come to the lock
    (tmp_path / "wait").unlink()
    paths = {found.get() for _ in all_}
    for one in all_:
        one.join()
    assert len(paths) == 1 and len(compiler()) == 1
    backends.extension.load_activation(paths.pop())


def test_a_builder_that_was_killed_holds_nobody_up(compiler, tmp_path, cache):
    (tmp_path / "wait").touch()
    killed = FORK.Process(target=build)
    killed.start()
    wait_for(compiler)
    waiting = FORK.Process(target=build)
    waiting.start()
    time.sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    wait_for(lambda: len(compiler()) == 2)
    (tmp_path / "wait").unlink()
    waiting.join()
    assert waiting.exitcode == 0
    assert build() and len(compiler()) == 2
    (folder,) = cache.iterdir()
    wait_for(lambda: not list(folder.glob("building-*")))  # of either


def test_what_others_could_have_written_is_refused(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    cache.chmod(0o770)
    with pytest.raises(compiled.Unavailable, match="no other may write to"):
        build()
    cache.chmod(0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(compiled.Unavailable, match="this user owns"):
        build()


def test_what_does_not_compile_says_so(cache):
    with pytest.raises(compiled.Unavailable, match=r"can not compile the activation 'of_a_test': (?s:.*)error"):
        build(STRUCT.replace("z * p", "z * nothing"))
    assert not list(cache.rglob("*.so")) and not list(cache.rglob("building-*"))


def test_a_library_of_another_interface_is_refused(tmp_path):
    source = Path(tmp_path, "other.cpp")
    for text, says in (
        ('extern "C" const long fusegrad_own_activation[64] = {1};', "compiled for another fusegrad"),
        ("int nothing;", "has no activation"),
    ):
        source.write_text(text)
        subprocess.run([CXX, "-shared", "-fPIC", str(source), "-o", f"{source}.so"], check=True)
        with pytest.raises(ValueError, match=says):
            backends.extension.load_activation(f"{source}.so")
        os.unlink(f"{source}.so")
    with pytest.raises(ValueError, match=r"other\.cpp\.so"):
        backends.extension.load_activation(f"{source}.so")


def test_the_flags_are_those_of_setup_py():
    setup = Path(__file__).parent.parent / "setup.py"
    text = setup.read_text()
    assert all(f'"{flag}"' in text for flag in compiled.FLAGS if not flag.startswith("-std"))
    assert "cxx_std=20" in text and "-std=c++20" in compiled.FLAGS


def test_torchs_caches_on_disk_know_the_formula():
    config, tags, before = torch.compiler.config, [], dict(cache_key._formulas)
    with config.patch(cache_key_tag=f"mine {config.cache_key_tag}"):
        for name, formula in (("p", "z"), ("q", "z"), ("p", "2 z"), ("p", "z")):
            cache_key.tell_formula(name, formula)
            tags.append(config.cache_key_tag)
    cache_key._formulas.clear()
    cache_key._formulas.update(before)
    cache_key._tell()
    assert len(set(tags[:3])) == 3 and tags[3] == tags[1]
    assert all(tag.count(" fusegrad ") == 1 and tag.startswith("mine ") for tag in tags)


def test_torchs_caches_on_disk_know_it_in_every_thread():
    """torch keeps what is set of its configuration for one thread."""
    with ThreadPoolExecutor(1) as pool:
        assert cache_key._tag in pool.submit(lambda: torch.compiler.config.cache_key_tag).result()


# --- the whole way --------------------------------------------------------------------------------------------------

FORMULA = "lambda z, a: z + fg.sin(a * z) / a"
DEFINE = f"""
import torch, fusegrad as fg
from fusegrad import backends, own, routing
vars(routing).update(dict.fromkeys(routing.LIMITS, -1))
ripple = fg.activation("ripple", {FORMULA}, param="a", default=1.0)
"""
NUMBERS = """
x = torch.linspace(-3, 3, 35, dtype=torch.float64).reshape(5, 7)
w = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(3, 7)
def derivatives(fn):
    args = [t.clone().requires_grad_() for t in (x, w)]
    made = [fn(*args)]
    for _ in range(3):
        made.append(torch.autograd.grad(made[-1].sin().sum(), args, create_graph=True)[0])
    return made
plain = lambda x, w: (z := x @ w.mT) + torch.sin(0.7 * z) / 0.7
torch.testing.assert_close(derivatives(lambda x, w: fg.linear_act(x, w, act=ripple, param=0.7)), derivatives(plain))
print("right")
"""


def run(code, **env):
    done = python("-c", code, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(), done.stderr


def test_the_example():
    """Of the docstring; here, as it changes the registry."""
    code = "import doctest, fusegrad.own; print(*doctest.testmod(fusegrad.own))"
    out, _ = run(code)
    assert out[-2] == "0" and int(out[-1]) > 3, out


def test_another_instruction_set():
    code = DEFINE + 'print(backends.extension.capability(), backends.extension.has_activation("ripple"))' + NUMBERS
    out, err = run(code, FUSEGRAD_CPU="portable")
    assert out == ["portable", "True", "right"] and err.count("compiling") == 1


def test_without_a_compiler_there_is_one_warning(tmp_path):
    again = f'fg.activation("again", {FORMULA}, param="a", default=1.0)\n'
    unknown = "assert not backends.extension.has_activation(ripple)"
    out, err = run(DEFINE + again + unknown + NUMBERS, PATH=str(tmp_path))
    assert out == ["right"]
    assert err.count("Warning") == 1 and "no C++ compiler" in err and "compiling" not in err


def test_a_cache_that_can_not_be_used(cache):
    """Here a file is in its place, which stops root too."""
    cache.write_text("")
    with pytest.warns(UserWarning, match=f"{cache}.*reference"):
        assert own._compiled("of_a_test", STRUCT) is None


def test_a_library_that_can_not_be_loaded(compiler, cache):
    path = build()
    path.write_bytes(b"\x7fELF")
    with pytest.warns(UserWarning, match=f"remove {path.parent}"):
        own._load(path)


UNLESS_A_KERNEL_SERVES_FAIL = """
import dataclasses
def fail(*args):
    raise AssertionError("the reference serves")
formulas = dict.fromkeys(("value", "first", "second", "third"), fail)
fg.activations.REGISTRY["ripple"] = dataclasses.replace(fg.activations.REGISTRY["ripple"], **formulas)
"""


def test_in_tritons_interpreter():
    pytest.importorskip("triton")
    out, _ = run(DEFINE + UNLESS_A_KERNEL_SERVES_FAIL + NUMBERS, FUSEGRAD_BACKEND="triton")
    assert out == ["right"]


def test_offline_for_a_gpu(tmp_path):
    pytest.importorskip("triton")
    script = tmp_path / "script.py"  # a file, which the processes that compile import too
    script.write_text(f"""{DEFINE}
if __name__ == "__main__":
    from fusegrad.kernels import offline
    todo = offline.tasks(["sm_90"], ["ripple"], [torch.float32])
    for rows in offline.resources([todo[0], todo[8]], 1):
        for row in rows:
            print(row["kernel"], row["function"], row["spill_bytes"])
""")
    out = subprocess.check_output([sys.executable, script], text=True).split()
    assert out == "act ripple_value 0 act_vjp ripple_first 0".split()


@pytest.mark.slow
def test_a_graph_compiled_for_another_formula_is_compiled_again(tmp_path):
    compile_it = """
y = torch.compile(lambda x: fg.act(x, ripple), fullgraph=True)(x := torch.ones(3, 5, requires_grad=True))
y.sum().backward()
print(*(k for k in torch._dynamo.utils.counters["aot_autograd"] if "hit" in k or "miss" in k), x.grad[0, 0].item())
"""
    outs = []
    for code in (DEFINE, DEFINE, DEFINE.replace("fg.sin(a * z) / a", "fg.sin(a * z) * 3")):
        outs.append(run(code + compile_it, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))[0])
    assert [what for what, _ in outs] == ["autograd_cache_miss", "autograd_cache_hit", "autograd_cache_miss"]
    slopes = [1 + math.cos(1), 1 + math.cos(1), 1 + 3 * math.cos(1)]
    assert [float(slope) for _, slope in outs] == pytest.approx(slopes, rel=1e-5)
