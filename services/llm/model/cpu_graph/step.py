"""Runs the decode step's graph over a K/V cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.llm.alignment.queries import HeadGroup
from services.llm.engine.layout import InputCodes
from services.llm.model.attention import rotary_frequencies
from services.llm.model.cpu_graph.export import StepExport
from services.llm.model.kv_cache import KVCache, SequenceInput, build_batch
from services.llm.model.model import SpeechLM

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of a hidden state, whose deviation is about 1, that rounding can explain in float32."""
FIRST_POSITIONS = 1024
"""Rows of the rotary table at first; it grows when a sequence becomes longer."""


class CpuStep:
    """The decode step of one model, one token per sequence, for any number of sequences. Used by one thread.

    The session keeps a copy of the layers' weights in an order that is quick to multiply.
    """

    def __init__(self, model: SpeechLM, cache: KVCache, num_threads: int = 1, groups: Sequence[HeadGroup] = ()) -> None:
        """`groups`: the heads whose queries `run` returns.

        Raises TypeError if the layers are not float32, and what ONNX Runtime raises.
        """
        self._model, self._cache, self._groups = model, cache, groups
        config = model.config
        self._kv_heads = np.arange(config.num_kv_heads)
        self._frequencies = rotary_frequencies(config.head_dim, config.rope_theta, torch.device("cpu"))
        self._cos, self._sin = self._rotary(FIRST_POSITIONS)
        export = StepExport(model, groups, quantized=cache.quantized)
        self._weights = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in export.shared.items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        self._session = onnxruntime.InferenceSession(export.graph, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._bind_cache()

    def run(self, inputs: Sequence[SequenceInput]) -> tuple[Tensor, Tensor | None]:
        """Feed each sequence's one code, and write the new keys and values into the cache.

        `inputs` is not empty. Returns float32 hidden states [N, hidden], and the tapped queries [N, groups * head_dim],
        as `QueryTap.summed` does, or None.
        """
        cache, size = self._cache, self._cache.block_size
        starts = np.array([item.start for item in inputs])
        blocks = torch.tensor([item.blocks[item.start // size] for item in inputs])
        offsets = torch.from_numpy(starts % size)
        opened = blocks[offsets == 0]
        if len(opened):
            for stored in cache.cleared:
                stored.index_fill_(1, opened, 0)
        hidden, new, *queries = self._run(inputs, starts)
        cache.write_layers(blocks, offsets, new[::2], new[1::2])
        return hidden, queries[0] if queries else None

    def fault(self) -> str:
        """Return how its hidden states differ from the model's own, or an empty string. It writes to the last block."""
        cache = self._cache
        block = (cache.keys.shape[1] - 1,)
        worst = 0.0
        for position in range(min(2, cache.block_size)):
            inputs = [SequenceInput((position,), position, block)]
            plain = self._model(build_batch(inputs, cache.block_size, torch.device("cpu")), cache)
            worst = max(worst, float((self.run(inputs)[0] - plain).abs().max().nan_to_num(torch.inf)))
        return "" if worst <= LARGEST_DIFFERENCE else f"its hidden states differ from the plain ones by {worst:.2g}"

    def _run(self, inputs: Sequence[SequenceInput], starts: NDArray[np.int64]) -> list[Tensor]:
        size, last = self._cache.block_size, int(starts.max())
        if last >= len(self._cos):
            self._cos, self._sin = self._rotary(2 * last)
        width = max(-(-last // size), 1)
        table = np.array([(list(item.blocks[:width]) + [item.blocks[0]] * width)[:width] for item in inputs])
        past = np.arange(width * size) < starts[:, None]
        feeds: dict[str, NDArray[Any]] = {
            "x": self._embed([item.codes[0] for item in inputs]),
            "cos": self._cos[starts],
            "sin": self._sin[starts],
            "rows": table[:, None, :] * len(self._kv_heads) + self._kv_heads[:, None],
            "mask": np.where(past, np.float32(0), np.float32(-np.inf))[:, None, None, :],
            "split": np.array([width * size, 1]),
        }
        for name, array in feeds.items():
            self._binding.bind_cpu_input(name, array)
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)
        self._session.run_with_iobinding(self._binding)
        return [torch.from_numpy(output) for output in self._binding.copy_outputs_to_cpu()]

    def _embed(self, codes: list[int]) -> NDArray[np.float32]:
        """Return [N, hidden]. Nearly all codes are speech, which is one look-up instead of several."""
        first = InputCodes(self._model.config).speech(0)
        if min(codes) >= first:
            speech: NDArray[np.float32] = self._model.speech_embedding.weight.numpy()
            rows: NDArray[np.float32] = speech[np.array(codes) - first]
            return rows
        mixed: NDArray[np.float32] = self._model.embed(torch.tensor(codes)).numpy()
        return mixed

    def _bind_cache(self) -> None:
        """Let the graph read the cache in place."""
        cache = self._cache
        for side, stored, scales in (
            ("keys", cache.keys, cache.key_scales),
            ("values", cache.values, cache.value_scales),
        ):
            for layer in range(len(stored)):
                self._binding.bind_cpu_input(f"{side}_{layer}", stored[layer].flatten(0, 1).numpy())
                if cache.quantized:
                    self._binding.bind_cpu_input(f"{side}_scales_{layer}", scales[layer].flatten(0, 1).numpy())

    def _rotary(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cos and sin [positions, 1, head_dim / 2], with the values of `attention.rotary_table`."""
        angle = (torch.arange(positions).float()[:, None] * self._frequencies)[:, None, :]
        return angle.cos().numpy(), angle.sin().numpy()
