"""Models of random weights for llama.cpp: files of some MB, the same for the same seed, with nothing downloaded.

They talk nonsense, so an answer means something only where a grammar holds it. What a JSON Schema needs for that:
every string an `enum` or a `pattern` with an upper bound. A free string takes any byte, and what is no UTF-8 is a 500.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURE = "llama"
CONTEXT = 1_024
"""Tokens that a model can take; a token is a character here."""

_HEAD = 64  # width of an attention head
_CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "


@dataclass(frozen=True, slots=True)
class TinyModel:
    """`width` is a multiple of 64. With 4 layers, width 256 makes 7 MB, 384 15 MB, 512 26 MB."""

    name: str
    width: int
    layers: int = 4
    seed: int = 0

    @property
    def kv_per_token(self) -> int:
        """Bytes of a token in the KV cache: keys and values of each layer as f16."""
        return 2 * 2 * self.layers * self.width

    def write(self, folder: Path) -> Path:
        """The model's file, NAME.gguf; one that is there already is taken as it is."""
        path = folder / f"{self.name}.gguf"
        if not path.exists():
            draft = path.with_suffix(".new")
            writer = gguf.GGUFWriter(draft, ARCHITECTURE)
            self._describe(writer)
            _add_vocabulary(writer)
            for name, weights in self._tensors():
                writer.add_tensor(name, weights)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            draft.rename(path)
        return path

    @property
    def _inner(self) -> int:
        return 64 * round(self.width * 8 / 3 / 64)  # of the feed-forward part, as Llama has it

    def _describe(self, writer: gguf.GGUFWriter) -> None:
        heads = self.width // _HEAD
        writer.add_name(self.name)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(self.width)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self._inner)
        writer.add_head_count(heads)
        writer.add_head_count_kv(heads)
        writer.add_rope_dimension_count(_HEAD)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_chat_template(_CHAT)

    def _tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        drawn = np.random.default_rng(self.seed)
        width, inner, words = self.width, self._inner, len(_vocabulary())

        def matrix(rows: int, columns: int) -> np.ndarray:
            return (drawn.standard_normal((rows, columns), dtype=np.float32) / columns**0.5).astype(np.float16)

        ones = np.ones(width, dtype=np.float32)
        yield "token_embd.weight", matrix(words, width)
        yield "output_norm.weight", ones
        yield "output.weight", matrix(words, width)
        for layer in range(self.layers):
            for name in ("attn_norm", "ffn_norm"):
                yield f"blk.{layer}.{name}.weight", ones
            for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield f"blk.{layer}.{name}.weight", matrix(width, width)
            for name in ("ffn_gate", "ffn_up"):
                yield f"blk.{layer}.{name}.weight", matrix(inner, width)
            yield f"blk.{layer}.ffn_down.weight", matrix(width, inner)


def _vocabulary() -> list[tuple[bytes, gguf.TokenType]]:
    """A token for each printable ASCII character, and for each byte: enough to read and say anything."""
    special = [(b"<unk>", gguf.TokenType.UNKNOWN), (b"<s>", gguf.TokenType.CONTROL), (b"</s>", gguf.TokenType.CONTROL)]
    octets = [(b"<0x%02X>" % byte, gguf.TokenType.BYTE) for byte in range(256)]
    space = ("\u2581".encode(), gguf.TokenType.NORMAL)  # as SentencePiece writes it
    return [*special, *octets, space, *((bytes([code]), gguf.TokenType.NORMAL) for code in range(0x21, 0x7F))]


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    tokens, kinds = zip(*_vocabulary(), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(tokens))
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_vocab_size(len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
