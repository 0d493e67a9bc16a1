"""Signals: DFT, STFT, windows, the mel scale. Complex numbers are a last axis of two real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hasten.bridge.dtypes import carrier
from hasten.bridge.operator import Call, Function, operator


@operator("DFT", host=(1,))
def dft_by_attribute(call: Call) -> Function:
    """Before version 20 the axis is an attribute."""
    axis = call.integer("axis", 1)
    transform = _dft(call)
    return lambda x, length=None: transform(x, length, axis)


@operator("DFT", since=20, host=(1, 2))
def dft(call: Call) -> Function:
    """Discrete Fourier transform along an axis, or its inverse; one half of it where ``onesided``."""
    known = call.constant(2)
    transform = _dft(call)

    def run(x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        if known is not None:
            return transform(x, length, int(known.reshape(-1)[0]))
        return transform(x, length, -2 if axis is None else int(axis))

    return run


def _dft(call: Call) -> Callable[[Tensor, Tensor | None, int], Tensor]:
    inverse, onesided = bool(call.integer("inverse", 0)), bool(call.integer("onesided", 0))
    known = call.constant(1)

    def run(x: Tensor, length: Tensor | None, axis: int) -> Tensor:
        axis = axis % x.dim()
        count = int(known.reshape(-1)[0]) if known is not None else None if length is None else int(length)
        # Narrow floats have no complex partner everywhere.
        wide = x if x.element_size() >= 4 else x.to(torch.float32)
        if inverse and onesided:
            real: Tensor = torch.fft.irfft(_complex(wide), count, axis)
            return real.unsqueeze(-1).to(x.dtype)
        if inverse:
            found: Tensor = torch.fft.ifft(_complex(wide), count, axis)
        elif onesided and wide.shape[-1] == 1:
            found = torch.fft.rfft(wide.squeeze(-1), count, axis)
        else:
            found = torch.fft.fft(_complex(wide), count, axis)
            found = found.narrow(axis, 0, found.shape[axis] // 2 + 1) if onesided else found
        return torch.view_as_real(found).to(x.dtype)

    return run


def _complex(x: Tensor) -> Tensor:
    """A signal without its last axis: real where that has one number, complex where it has two."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


@operator("STFT", host=(1, 3))
def stft(call: Call) -> Function:
    """Fourier transforms of windowed frames: signal (batch, length, 1 or 2) to (batch, frames, bins, 2)."""
    onesided = bool(call.integer("onesided", 1))

    def run(
        signal: Tensor, step: Tensor, window: Tensor | None = None, frame_length: Tensor | None = None
    ) -> Tensor:
        if frame_length is not None:
            length = int(frame_length)
        else:
            length = signal.shape[1] if window is None else window.shape[0]
        wide = signal if signal.element_size() >= 4 else signal.to(torch.float32)
        frames = _complex(wide).unfold(1, length, int(step))
        frames = frames if window is None else frames * window.to(wide.dtype)
        if not frames.is_complex() and onesided:
            found = torch.fft.rfft(frames)
        else:
            found = torch.fft.fft(frames)
            found = found[..., : length // 2 + 1] if onesided else found
        return torch.view_as_real(found).to(signal.dtype)

    return run


@operator("HannWindow", "HammingWindow", "BlackmanWindow", host=(0,))
def window(call: Call) -> Function:
    """Sums of cosines that fade a frame out at its ends (periodic, or symmetric)."""
    periodic = bool(call.integer("periodic", 1))
    dtype = carrier(call.integer("output_datatype", 1))
    known = call.constant(0)
    made = None if known is None else _window(call.op_type, int(known), periodic).to(dtype)
    if made is not None:
        return lambda _: made
    return lambda size: _window(call.op_type, int(size), periodic).to(dtype)


def _window(name: str, size: int, periodic: bool) -> Tensor:
    if name == "HannWindow":
        return torch.hann_window(size, periodic, dtype=torch.float64)
    if name == "HammingWindow":
        return torch.hamming_window(size, periodic, 25 / 46, 21 / 46, dtype=torch.float64)
    return torch.blackman_window(size, periodic, dtype=torch.float64)


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def mel_weight_matrix(call: Call) -> Function:
    """Triangles on the mel scale, mel(f) = 2595 · log10(1 + f / 700): (spectrogram bins, mel bins)."""
    dtype = carrier(call.integer("output_datatype", 1))

    def run(
        bands: Tensor, dft_length: Tensor, sample_rate: Tensor, lowest: Tensor, highest: Tensor
    ) -> Tensor:
        count, length = int(bands), int(dft_length)
        edges_hertz = torch.stack((lowest.double(), highest.double())).cpu()
        low, high = 2595 * torch.log10(1 + edges_hertz / 700)
        mels = low + torch.arange(count + 2, dtype=torch.float64) * (high - low) / (count + 2)
        hertz = 700 * (10 ** (mels / 2595) - 1)
        corners = torch.floor((length + 1) * hertz / int(sample_rate))
        left, centre, right = corners[:-2], corners[1:-1], corners[2:]
        bins = torch.arange(length // 2 + 1, dtype=torch.float64)[:, None]
        rise = torch.where(centre == left, bins == centre, (bins - left) / (centre - left).clamp(min=1))
        fall = (right - bins) / (right - centre).clamp(min=1)
        weights = torch.where(bins <= centre, torch.where(bins >= left, rise, 0), fall.clamp(min=0))
        return weights.to(highest.device, dtype)

    return run
