"""What libraries do with a model after fuse: train, checkpoint, generate, save and load it, to the same numbers."""

import copy

import pytest
import torch
from torch import nn

import fusegrad as fg
from fusegrad.benchmarks import zoo

from cases import on_cpu

pytestmark = [
    on_cpu,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]
BY_NAME = {str(case): case for case in zoo.MODELS}


def library(name):
    zoo.prepare()
    return pytest.importorskip(name)


def stock_and_fused(name, dtype=torch.float64):
    case = BY_NAME[name]
    models = [zoo.make(case, case.small, dtype, change) for change in (lambda model: model, fg.fuse)]
    return *models, zoo.inputs_of(case, case.small, dtype)


def trained(model):
    return {name: p.detach() for name, p in model.named_parameters()}


# --- transformers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("BERT", "OPT", "T5"))
def test_gradient_checkpointing(name):
    """The layers run again in backward: gradients are those without it, and those of stock."""
    library("transformers")
    case = BY_NAME[f"transformers {name}"]
    stock, fused, x = stock_and_fused(str(case))
    expected = zoo.training(case, stock, x)()
    fused.gradient_checkpointing_enable()
    torch.testing.assert_close(zoo.training(case, fused, x)(), expected)


def test_a_fused_model_is_saved_and_loaded_by_transformers(tmp_path):
    transformers = library("transformers")
    stock, fused, x = stock_and_fused("transformers BERT", torch.float32)
    fused.save_pretrained(tmp_path)
    loaded = transformers.BertModel.from_pretrained(tmp_path)
    assert type(loaded) is transformers.BertModel
    torch.testing.assert_close(fg.fuse(loaded.eval())(*x)[0], stock.eval()(*x)[0])


def test_the_same_words_are_generated():
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=64, hidden_size=64, word_embed_proj_dim=64, ffn_dim=256, num_hidden_layers=2, num_attention_heads=2
    )
    stock = transformers.OPTForCausalLM(config).double().eval()
    fused = fg.fuse(copy.deepcopy(stock))
    words = torch.randint(3, 64, (2, 5))
    run = lambda model: model.generate(words, max_new_tokens=8, do_sample=False, pad_token_id=1)
    assert torch.equal(run(fused), run(stock))


# --- DeepXDE ------------------------------------------------------------------------------------------------------


def poisson(dde, change):
    """-u'' = pi^2 sin(pi x) on an interval, trained for some steps."""
    dde.config.set_random_seed(0)
    domain = dde.geometry.Interval(-1, 1)

    def equation(x, u):
        return -dde.grad.hessian(u, x) - torch.pi**2 * torch.sin(torch.pi * x)

    edge = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
    data = dde.data.PDE(domain, equation, edge, 32, 2, num_test=8)
    model = dde.Model(data, change(dde.nn.FNN([1, 32, 32, 1], "tanh", "Glorot uniform")))
    model.compile("adam", lr=1e-3)
    history, _ = model.train(iterations=20, display_every=5, verbose=0)
    return [float(sum(loss)) for loss in history.loss_train], trained(model.net)


def test_deepxde_trains_to_the_same_weights():
    dde = library("deepxde")
    dde.config.set_default_float("float64")
    try:
        losses, weights = zip(*(poisson(dde, change) for change in (lambda net: net, fg.fuse)), strict=True)
    finally:
        dde.config.set_default_float("float32")
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*weights)


# --- training, by libraries that make test does not install -------------------------------------------------------


@pytest.mark.models
def test_lightning_trains_to_the_same_weights(tmp_path):
    lightning = library("lightning")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    weights = []
    for model in stock_and_fused("lightning classifier, relu")[:2]:
        torch.manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.randn(64, 64).double(), torch.randn(64, 10).double())
        trainer = lightning.Trainer(max_steps=5, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=16))
        weights.append(trained(model))
    torch.testing.assert_close(*weights)


@pytest.mark.models
def test_a_private_step_is_stocks():
    """opacus clips the gradient of each sample, here without noise."""
    opacus = library("opacus")
    weights = []
    for change in (lambda model: model, fg.fuse):
        torch.manual_seed(0)
        model = change(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
        data = torch.utils.data.TensorDataset(torch.randn(16, 8), torch.randn(16, 1))
        model, optimizer, loader = opacus.PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=torch.utils.data.DataLoader(data, batch_size=16),
            noise_multiplier=0.0,
            max_grad_norm=0.1,
            poisson_sampling=False,
        )
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        weights.append(trained(model))
    torch.testing.assert_close(*weights)


@pytest.mark.models
def test_a_policy_learns_the_same_and_is_loaded_unfused(tmp_path):
    sb3 = library("stable_baselines3")
    agents = []
    for change in (lambda model: model, fg.fuse):
        agent = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
        change(agent.policy)
        agents.append(agent.learn(128))
    torch.testing.assert_close(*(trained(agent.policy) for agent in agents))
    agents[1].save(tmp_path / "agent")
    loaded = sb3.PPO.load(tmp_path / "agent", device="cpu").policy
    assert type(loaded) is type(agents[0].policy)
    torch.testing.assert_close(trained(loaded), trained(agents[1].policy))


@pytest.mark.models
def test_an_adapter_merges_to_what_it_computes():
    """LoRA around a layer of a fused model: merged into the weight, the model gives the same."""
    library("peft")
    _, model, x = stock_and_fused("peft fuse, then LoRA")
    y = model(*x)
    torch.testing.assert_close(model.merge_and_unload()(*x), y)
