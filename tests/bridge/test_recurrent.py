"""Recurrent layers: torch's kernels and the bridge's own loop compute the same."""

from __future__ import annotations

import pytest
import torch

from .single import assert_close, single

LENGTH, BATCH, FEATURES, SIZE = 5, 3, 4, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def make(kind, directions, lengths=None, peepholes=False):
    torch.manual_seed(0)
    gates = GATES[kind] * SIZE
    state = torch.randn(directions, BATCH, SIZE)
    inputs = [
        torch.randn(LENGTH, BATCH, FEATURES),
        torch.randn(directions, gates, FEATURES),
        torch.randn(directions, gates, SIZE),
        torch.randn(directions, 2 * gates),
        None if lengths is None else torch.tensor(lengths, dtype=torch.int32),
        state,
    ]
    if kind == "LSTM":
        inputs.append(torch.randn(directions, BATCH, SIZE))
        inputs.append(torch.randn(directions, 3 * SIZE) if peepholes else None)
    return inputs


def run(kind, inputs, **attributes):
    """Outputs, and the gradients of all float inputs."""
    module = single(kind, inputs, attributes, outputs=3 if kind == "LSTM" else 2)
    feeds = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs if t is not None]
    outputs = module(*feeds)
    sum((y * torch.arange(1.0, y.numel() + 1).reshape(y.shape)).sum() for y in outputs).backward()
    return [y.detach() for y in outputs], [f.grad for f in feeds if f.requires_grad]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_kernel_and_loop_agree(kind, direction):
    """A clip far above every value takes the loop and changes nothing."""
    inputs = make(kind, 2 if direction == "bidirectional" else 1)
    options = {"direction": direction, "hidden_size": SIZE}
    if kind == "GRU":
        options["linear_before_reset"] = 1
    fast, fast_gradients = run(kind, inputs, **options)
    slow, slow_gradients = run(kind, inputs, clip=1e6, **options)
    assert_close(fast, slow)
    torch.testing.assert_close(fast_gradients, slow_gradients, rtol=1e-3, atol=1e-3)


def test_relu_kernel_and_loop_agree():
    inputs = make("RNN", 1)
    assert_close(
        run("RNN", inputs, hidden_size=SIZE, activations=["Relu"])[0],
        run("RNN", inputs, hidden_size=SIZE, activations=["Relu"], clip=1e6)[0],
    )


@pytest.mark.parametrize("kind", GATES)
def test_full_lengths_change_nothing(kind):
    full, none = make(kind, 2, lengths=[LENGTH] * BATCH), make(kind, 2)
    options = {"direction": "bidirectional", "hidden_size": SIZE}
    assert_close(run(kind, full, **options)[0], run(kind, none, **options)[0])


@pytest.mark.parametrize("kind", GATES)
def test_short_sequences_are_as_if_alone(kind):
    """A row of length n is what a batch of that row cut to n gives, zeros behind."""
    lengths = [2, 5, 3]
    inputs = make(kind, 2, lengths=lengths)
    options = {"direction": "bidirectional", "hidden_size": SIZE}
    (y, *finals), _ = run(kind, inputs, **options)
    for row, n in enumerate(lengths):
        alone = [t if t is None else t.clone() for t in inputs]
        alone[0] = inputs[0][:n, row : row + 1]
        alone[4] = None
        for i in range(5, len(inputs)):
            alone[i] = None if inputs[i] is None else inputs[i][:, row : row + 1]
        (y_alone, *finals_alone), _ = run(kind, alone, **options)
        assert_close(y[:n, :, row : row + 1], y_alone)
        assert not y[n:, :, row].any()
        for together, one in zip(finals, finals_alone, strict=True):
            assert_close(together[:, row : row + 1], one)


def test_batch_first_is_the_same_transposed():
    inputs = make("LSTM", 2)
    options = {"direction": "bidirectional", "hidden_size": SIZE}
    first = [t.transpose(0, 1).contiguous() if i in (0, 5, 6) else t for i, t in enumerate(inputs[:7])]
    (y, h, c), _ = run("LSTM", inputs, **options)
    (y1, h1, c1), _ = run("LSTM", first, layout=1, **options)
    assert_close(y1, y.permute(2, 0, 1, 3))
    assert_close((h1, c1), (h.transpose(0, 1), c.transpose(0, 1)))


def test_activations_take_their_parameters_in_order():
    """Affine(x) = alpha x + beta as an RNN without recurrence is that function of W x."""
    inputs = make("RNN", 1)
    inputs[2], inputs[3] = torch.zeros_like(inputs[2]), torch.zeros_like(inputs[3])
    options = {"activations": ["Affine"], "activation_alpha": [2.0], "activation_beta": [0.5]}
    (y, _), _ = run("RNN", inputs, hidden_size=SIZE, **options)
    assert_close(y[:, 0], 2 * inputs[0] @ inputs[1][0].T + 0.5)


def test_coupled_gates_and_peepholes_by_hand():
    inputs = make("LSTM", 1, peepholes=True)
    (y, _, _), _ = run("LSTM", inputs, hidden_size=SIZE, input_forget=1)
    x, w, r, b, _, h, c, p = (t if t is None else t[0] for t in inputs)
    w, r, b, h, c, p = (inputs[i][0] for i in (1, 2, 3, 5, 6, 7))
    i, o, _, g = (x @ w.T + h @ r.T + b[: 4 * SIZE] + b[4 * SIZE :]).chunk(4, dim=-1)
    look_i, look_o, _ = p.chunk(3)
    i = torch.sigmoid(i + look_i * c)
    c = (1 - i) * c + i * torch.tanh(g)
    assert_close(y[0, 0], torch.sigmoid(o + look_o * c) * torch.tanh(c))
