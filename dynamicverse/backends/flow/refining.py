"""UniMatch's recurrent refinement, with what every turn repeats computed once.

The network starts each turn from the same state and context, so the part of its convolutions
that sees only those is the same in all turns; convolutions of the same input are one, and their
channels are padded to what tensor cores take. The upsampling mask is computed in the last turn
alone. Half precision on a GPU, as in `matching`; flow stays in single.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, unflatten
from torch.nn.functional import conv2d, pad

from dynamicverse.backends.accelerator import half

EIGHT = 8  # channels are padded to a multiple of this
LAST = torch.channels_last


class Refinement:
    """The refinement of a `UniMatch` of ptlflow with its weights laid out for it."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._kind = torch.float16 if device.type == "cuda" else torch.float32
        encoder, gru, head = model.refine.encoder, model.refine.gru, model.refine.flow_head
        seen = encoder.convc1.weight.shape[1]
        self.window = seen + -seen % EIGHT  # columns of what is looked up, the last ones zeros
        self._near = self._laid(encoder.convc1.weight, inputs=self.window)
        self._near2 = self._laid(encoder.convc2.weight)
        self._flow = self._laid(encoder.convf1.weight, inputs=EIGHT)
        self._flow2 = self._laid(encoder.convf2.weight)
        outputs = encoder.conv.weight.shape[0] + 2  # the last two are the flow itself
        self._motion = self._laid(encoder.conv.weight, outputs=outputs)
        self._motion_bias = self._biased(encoder.conv.bias, outputs)
        self._head = self._laid(head.conv1.weight)
        self._head2 = self._laid(head.conv2.weight, outputs=EIGHT)
        self._head2_bias = self._biased(head.conv2.bias, EIGHT)
        self._gates = [
            (
                torch.cat([update.weight, reset.weight]).to(self._kind),
                torch.cat([update.bias, reset.bias]).to(self._kind),
                new.weight.to(self._kind),
                new.bias.to(self._kind),
            )
            for update, reset, new in (
                (gru.convz1, gru.convr1, gru.convq1),
                (gru.convz2, gru.convr2, gru.convq2),
            )
        ]

    def __call__(
        self, look_up: Callable[[Tensor], Tensor], flow_S2HW: Tensor, context_SCHW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The refined flow and the upsampling mask.

        look_up: correlations (S,N,window) round where the flow (S,2,H,W) leads.
        """
        size = flow_S2HW.shape[2:]
        with half(flow_S2HW.device):
            state, given = self._model.refine_proj(context_SCHW).chunk(2, dim=1)
        start = torch.tanh(state).to(self._kind).contiguous(memory_format=LAST)
        given = torch.relu(given).to(self._kind).contiguous(memory_format=LAST)
        turn = _Turn(self._gates, start, given)
        for _ in range(self._model.num_reg_refine):
            near_SKHW = unflatten(look_up(flow_S2HW).to(self._kind), 1, size).permute(0, 3, 1, 2)
            state = turn(self._moved(near_SKHW, flow_S2HW))
            step = _conv(state, self._head, self._model.refine.flow_head.conv1.bias).relu_()
            step = _conv(step, self._head2, self._head2_bias)
            flow_S2HW = flow_S2HW + step[:, :2].float()
        with half(flow_S2HW.device):
            mask: Tensor = self._model.refine.mask(state)
        return flow_S2HW, mask.float()

    def _moved(self, near_SKHW: Tensor, flow_S2HW: Tensor) -> Tensor:
        """The network's features of the motion, the flow in the last two channels."""
        encoder = self._model.refine.encoder
        flow_SKHW = pad(flow_S2HW.to(self._kind), (0, 0, 0, 0, 0, EIGHT - 2))
        flow_SKHW = flow_SKHW.contiguous(memory_format=LAST)
        near = _conv(near_SKHW, self._near, encoder.convc1.bias).relu_()
        near = _conv(near, self._near2, encoder.convc2.bias).relu_()
        flow = _conv(flow_SKHW, self._flow, encoder.convf1.bias).relu_()
        flow = _conv(flow, self._flow2, encoder.convf2.bias).relu_()
        moved = _conv(torch.cat([near, flow], dim=1), self._motion, self._motion_bias).relu_()
        moved[:, -2:] = flow_S2HW
        return moved

    def _laid(self, weight: Tensor, inputs: int = 0, outputs: int = 0) -> Tensor:
        """A convolution's weights with zeros for more inputs and outputs."""
        more = (max(0, inputs - weight.shape[1]), max(0, outputs - weight.shape[0]))
        padded = pad(weight.detach(), (0, 0, 0, 0, 0, more[0], 0, more[1]))
        return padded.to(self._kind).contiguous(memory_format=LAST)

    def _biased(self, bias: Tensor, outputs: int) -> Tensor:
        return pad(bias.detach(), (0, outputs - len(bias))).to(self._kind)


class _Turn:
    """The gated recurrent unit from one start: along rows, then along columns."""

    def __init__(self, gates: Sequence[tuple[Tensor, ...]], start: Tensor, given: Tensor) -> None:
        self._start = start
        known, context = start.shape[1], given.shape[1]
        self._both = []
        for stage, (switch, switch_bias, new, new_bias) in enumerate(gates):
            parts = [known, context, new.shape[1] - known - context]
            of_state, of_given, of_motion = torch.split(switch, parts, dim=1)
            new_state, new_given, new_motion = torch.split(new, parts, dim=1)
            fixed = _conv(given, of_given.contiguous(memory_format=LAST), switch_bias)
            moving = torch.cat([of_state, of_motion], dim=1)
            if stage == 0:  # the state is the start, in every turn
                fixed = fixed + _conv(start, of_state.contiguous(memory_format=LAST))
                moving = of_motion
            self._both.append(
                (
                    fixed,
                    moving.contiguous(memory_format=LAST),
                    _conv(given, new_given.contiguous(memory_format=LAST), new_bias),
                    torch.cat([new_state, new_motion], dim=1).contiguous(memory_format=LAST),
                )
            )

    def __call__(self, motion: Tensor) -> Tensor:
        state = self._start
        for stage, (fixed, switch, fixed_new, new) in enumerate(self._both):
            seen = motion if stage == 0 else torch.cat([state, motion], dim=1)
            gate = _conv(seen, switch).add_(fixed).sigmoid_()
            update, reset = gate.chunk(2, dim=1)
            seen = torch.cat([reset * state, motion], dim=1)
            found = _conv(seen, new).add_(fixed_new).tanh_()
            state = torch.lerp(state, found, update)
        return state


def _conv(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution that keeps the picture's size."""
    bias = None if bias is None else bias.to(weight.dtype)
    edges = (weight.shape[2] // 2, weight.shape[3] // 2)
    found: Tensor = conv2d(values, weight, bias, padding=edges)
    return found
