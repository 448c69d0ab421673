"""RWKV-7 against its author's package and its author's weights, and its official start."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ntlib.mixers.rwkv7 import RWKV7Config
from ntlib.mixers.rwkv_channel_mix import ChannelMixConfig
from tests.mixers.rwkv_stack import D_MODEL, LAYERS, VOCABULARY, Stack, relative
from tests.rwkv_peer import rwkv_logits

# the author's tiny model that reverses strings of digits (RWKV-LM, RWKV-v8, Apache-2.0)
WEIGHTS = Path(
    os.environ.get("NTLIB_RWKV7_REVERSE")
    or Path(__file__).parents[3] / "shared" / "data" / "rwkv7_reverse_L2.pth"
)


class Stack7(Stack):
    """All layers share the first one's values."""

    def __init__(self):
        super().__init__(
            [
                (
                    RWKV7Config(layer=layer, n_layers=LAYERS),
                    ChannelMixConfig(7, layer=layer, n_layers=LAYERS),
                )
                for layer in range(LAYERS)
            ]
        )

    def forward(self, tokens):
        x, values = self.blocks[0].ln0(self.emb(tokens)), None
        for block in self.blocks:
            y, _, values = block.att.forward_with_values(block.ln1(x), None, values)
            x = x + y
            x = x + block.ffn(block.ln2(x))[0]
        return self.head(self.ln_out(x))

    def steps(self, tokens):
        states = [[m.init_state(len(tokens)) for m in (b.att, b.ffn)] for b in self.blocks]
        logits = []
        for token in tokens.unbind(1):
            x, values = self.blocks[0].ln0(self.emb(token)), None
            for block, state in zip(self.blocks, states, strict=True):
                y, state[0], values = block.att.step_with_values(block.ln1(x), state[0], values)
                x = x + y
                y, state[1] = block.ffn.step(block.ln2(x), state[1])
                x = x + y
            logits.append(self.head(self.ln_out(x)))
        return torch.stack(logits, dim=1)


def official(model):
    """What a file holds besides: parameters of block 0 that nothing reads."""
    weights = model.state_dict()
    return weights | {f"blocks.0.att.v{i}": weights[f"blocks.1.att.v{i}"] for i in range(3)}


@pytest.mark.peers
def test_the_logits_of_the_authors_package():
    model = Stack7()
    prompt = torch.randint(VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(0))
    steps, whole = rwkv_logits(official(model), prompt[0].tolist(), version=7)
    with torch.no_grad():
        assert relative(model(prompt)[0], whole) < 1e-4
        assert relative(model.steps(prompt)[0], steps) < 1e-4


def reverse_logits(weights, tokens):
    """The author's model around our mixers. Two quirks of the file: parts have names of their own,
    and the bias of a third branch, which was switched off, is still added in every layer."""

    def part(name):
        return {k[len(name) + 1 :]: x for k, x in weights.items() if k.startswith(name + ".")}

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], **part(name))

    x, values = F.embedding(tokens, weights["e.weight"]), None
    for layer in (1, 2):
        time, config = part(f"rwkv{layer}"), {"layer": layer - 1, "n_layers": 2}
        ranks = {"decay_rank": "w1", "rate_rank": "a1", "value_rank": "v1", "gate_rank": "g1"}
        ranks = {rank: time[name].shape[1] for rank, name in ranks.items()}
        att = RWKV7Config(time["r_k"].shape[1], **ranks, **config).build(x.shape[-1])
        att.load_state_dict({name: time[name] for name in att.state_dict()})
        ffn = ChannelMixConfig(7, **config).build(x.shape[-1])
        ffn.load_state_dict(part(f"ffn{layer}"))
        y, _, values = att.forward_with_values(norm(f"ln{layer}a", x), None, values)
        x = x + y + weights[f"rosa{layer}.o.bias"]
        x = x + ffn(norm(f"ln{layer}b", x))[0]
    return F.linear(norm("lno", x), **part("o"))


@pytest.mark.skipif(
    not WEIGHTS.exists(),
    reason=f"{WEIGHTS} is absent (RWKV-LM's RWKV-v8/260123_reverse_L2_only_rwkv7.pth; "
    "NTLIB_RWKV7_REVERSE names another place)",
)
def test_the_authors_trained_weights_reverse_digits():
    weights = torch.load(WEIGHTS, weights_only=True, map_location="cpu")
    generator = torch.Generator().manual_seed(7)
    rows = torch.full((180, 128), 11)  # "#" fills up
    answers = torch.zeros_like(rows, dtype=torch.bool)
    for row, answer, length in zip(rows, answers, list(range(1, 61)) * 3, strict=True):
        digits = torch.randint(10, (length,), generator=generator)
        row[: 2 * length + 1] = torch.cat([digits, torch.tensor([10]), digits.flip(0)])
        answer[length + 1 : 2 * length + 1] = True
    with torch.no_grad():
        predicted = reverse_logits(weights, rows[:, :-1]).argmax(-1)
    right = predicted[answers[:, 1:]] == rows[answers]
    assert right.numel() == 3 * sum(range(1, 61))
    assert right.all()


@pytest.mark.parametrize("layer", [0, 1])
def test_values_of_the_first_layer(layer):
    """Forward equals steps with values given, and gradients reach them."""
    mixer = RWKV7Config(head_size=4, layer=layer, n_layers=2).build(8).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x, given = (torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    given.requires_grad_()
    y, _, values = mixer.forward_with_values(x, None, given)
    state, steps = mixer.init_state(2), []
    for x_t, given_t in zip(x.unbind(1), given.unbind(1), strict=True):
        y_t, state, _ = mixer.step_with_values(x_t, state, given_t)
        steps.append(y_t)
    assert relative(torch.stack(steps, dim=1), y) < 1e-12
    assert relative(mixer(x, values=given)[0], y) < 1e-12
    if layer == 0:  # its values are its own
        assert torch.equal(y, mixer(x)[0])
        assert not torch.equal(values, given)
    else:
        assert values is given
        assert torch.autograd.gradcheck(lambda v: mixer(x, values=v)[0], (given,), fast_mode=True)
        with pytest.raises(ValueError, match="values must be shaped as x"):
            mixer(x, values=given[:, :2])


def test_the_doubled_step_can_swap():
    """With c = 2, w near 1, a near 1 and kappa = (1, -1) / sqrt(2) the transition is a swap; with
    c = 1 it forgets."""
    held = {}
    for step in (1.0, 2.0):
        mixer = RWKV7Config(head_size=2, step=step).build(2).double()
        for parameter in mixer.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.constant_(mixer.w0, -30.0)  # w = 1
        torch.nn.init.constant_(mixer.a0, 30.0)  # a = 1
        torch.nn.init.constant_(mixer.k_a, 0.0)
        mixer.k_k.data.view(-1)[:] = torch.tensor([1.0, -1.0])
        mixer.key.weight.data.fill_(0.5)
        x = torch.ones(1, 1, 2, dtype=torch.float64)
        memory = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
        state = mixer.init_state(1)._replace(memory=memory)
        held[step] = mixer(x, state)[1].memory[0, 0]
    swapped = torch.tensor([[3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(held[2.0], swapped)
    assert torch.allclose(held[1.0], torch.tensor([[2.0, 3.0]] * 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="step must be in"):
        RWKV7Config(step=2.5).build(64)


def test_shapes_of_the_official_checkpoints():
    """Ranks as the rule has them for the released width 768."""
    with torch.device("meta"):
        mixer = RWKV7Config(layer=1, n_layers=12).build(768)
    ranks = {"w": 64, "a": 64, "v": 32, "g": 128}
    assert {name: tuple(x.shape) for name, x in mixer.state_dict().items()} == {
        **{f"x_{name}": (1, 1, 768) for name in "rwkvag"},
        **{f"{name}0": (1, 1, 768) for name in "wav"},
        **{f"{name}1": (768, rank) for name, rank in ranks.items()},
        **{f"{name}2": (rank, 768) for name, rank in ranks.items()},
        "k_k": (1, 1, 768),
        "k_a": (1, 1, 768),
        "r_k": (12, 64),
        **{f"{n}.weight": (768, 768) for n in ("receptance", "key", "value", "output")},
        "ln_x.weight": (768,),
        "ln_x.bias": (768,),
    }


def test_the_official_start():
    first, last = (RWKV7Config(head_size=4, layer=layer, n_layers=3).build(8) for layer in (0, 2))
    for mixer in (first, last):
        mixer.reset_parameters(torch.Generator().manual_seed(0))
    # the official formulas by hand; rho = 0 and 1, eta = 1 and 1/3; heads begin at -1 and end at 1
    assert first.w0.flatten()[[0, 7]].tolist() == [-6 + 0.5 - 2.5, 0.5 + 2.5]
    assert last.w0[0, 0, 1].item() == pytest.approx(-6 + 6 / 49 + 0.5 - 2.5 / 9, rel=1e-6)
    assert first.w0[0, 0, 1].item() == pytest.approx(-6 + 6 / 7 + 0.5 - 2.5 / 9, rel=1e-6)
    assert first.a0[0, 0, 4].item() == pytest.approx(-0.19 - 0.3 + 0.4 * (4 / 7 - 0.5), rel=1e-5)
    assert last.v0[0, 0, 7].item() == pytest.approx(0.73 - 0.2, rel=1e-6)
    assert first.k_k[0, 0, 0].item() == pytest.approx(0.76, rel=1e-6)
    assert first.x_r[0, 0, 1].item() == pytest.approx(1 - 0.125**0.2, rel=1e-6)
    assert last.x_w[0, 0, 1].item() == pytest.approx(1 - 0.125**0.3, rel=1e-6)
    assert last.x_v[0, 0, 1].item() == pytest.approx(1 - 0.125 ** (0.7 / 3), rel=1e-6)
    assert first.ln_x.weight[0].item() == pytest.approx(3**-0.7)
    for zero in (first.w1, first.a1, last.v1, first.g1, first.output.weight):
        assert not zero.any()
    # 32 rows, 8 columns: orthogonal columns of length 0.1 sqrt(32 / 8)
    assert torch.allclose(first.w2.T @ first.w2, 0.04 * torch.eye(8), atol=1e-6)
    assert torch.allclose(first.key.weight @ first.key.weight.T, 0.01 * torch.eye(8), atol=1e-6)
    assert not hasattr(first, "v0")
    assert not first(torch.ones(1, 3, 8))[0].any()


def test_a_hard_input_stays_finite_in_bfloat16():
    mixer = RWKV7Config(head_size=D_MODEL).build(D_MODEL)
    mixer.reset_parameters(torch.Generator().manual_seed(0))
    y, state = mixer.bfloat16()(torch.zeros(1, 5, D_MODEL, dtype=torch.bfloat16))
    assert y.isfinite().all()  # kappa of a key that is zero
    assert state.memory.dtype == torch.float32
