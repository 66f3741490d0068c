"""Shapes of well-known models: what decides the speed and energy of serving, without their weights.

Dimensions as in the `config.json` that the publishers ship: Qwen/Qwen2.5-*-Instruct, meta-llama/Llama-3.1-8B-Instruct,
mistralai/Mistral-7B-Instruct-v0.3.
"""

import json
from pathlib import Path

from pydantic import ValidationError

from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.types import Record


class Shape(Record):
    """A decoder of the Qwen2, Llama or Mistral kind. Fields are named as in `config.json`."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32_768

    @property
    def head_dim(self) -> int:
        """Elements of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name within a layer -> (inputs, outputs) of every matrix that quantisers pack."""
        hidden, keys = self.hidden_size, self.num_key_value_heads * self.head_dim
        return {
            "self_attn.q_proj": (hidden, self.num_attention_heads * self.head_dim),
            "self_attn.k_proj": (hidden, keys),
            "self_attn.v_proj": (hidden, keys),
            "self_attn.o_proj": (self.num_attention_heads * self.head_dim, hidden),
            "mlp.gate_proj": (hidden, self.intermediate_size),
            "mlp.up_proj": (hidden, self.intermediate_size),
            "mlp.down_proj": (self.intermediate_size, hidden),
        }

    @property
    def parameters(self) -> int:
        """Weights of all matrices and embeddings (norms and biases are left out: less than 0.1 %)."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linear_layers.values())
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * matrices + embeddings

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of one token in 16 bits, all layers together."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * 2

    @property
    def biased(self) -> tuple[str, ...]:
        """Linear layers with a bias."""
        return tuple(f"self_attn.{part}_proj" for part in "qkv") if self.model_type == "qwen2" else ()


def _shape(
    kind: str, hidden: int, inner: int, layers: int, heads: int, key_heads: int, vocabulary: int, tied: bool = False
) -> Shape:
    return Shape(
        model_type=kind,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "qwen2.5-0.5b": _shape("qwen2", 896, 4864, 24, 14, 2, 151_936, tied=True),
    "qwen2.5-1.5b": _shape("qwen2", 1536, 8960, 28, 12, 2, 151_936, tied=True),
    "qwen2.5-7b": _shape("qwen2", 3584, 18_944, 28, 28, 4, 152_064),
    "qwen2.5-14b": _shape("qwen2", 5120, 13_824, 48, 40, 8, 152_064),
    "llama-3.1-8b": _shape("llama", 4096, 14_336, 32, 32, 8, 128_256),
    "mistral-7b": _shape("mistral", 4096, 14_336, 32, 32, 8, 32_768),
}

MODEL_TYPES = ("qwen2", "llama", "mistral")


def load_shape(name: str) -> Shape:
    """A shape by its name, or from the `config.json` (or its directory) at that path.

    Raises:
        ConfigError: no such shape or file, or a model of another kind.
    """
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if name in SHAPES:
        return SHAPES[name]
    if file.suffix != ".json":
        raise ConfigError(f"{unknown('shape', name, SHAPES)} A path to a config.json works too.")
    return _read(file)


def _read(file: Path) -> Shape:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        known = {field: data[field] for field in Shape.model_fields if data.get(field) is not None}
        shape = Shape.model_validate(known)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        problem = error.errors()[0]["loc"][0] if isinstance(error, ValidationError) else error
        raise ConfigError(f"{file}: not the config.json of a decoder: {problem}; give a Qwen2, Llama or Mistral one") from error
    if shape.model_type not in MODEL_TYPES:
        raise ConfigError(f"{file}: model_type '{shape.model_type}' has no random checkpoint; known: {', '.join(MODEL_TYPES)}")
    if data.get("head_dim") not in {None, shape.head_dim}:
        raise ConfigError(f"{file}: head_dim {data['head_dim']} is not hidden_size / num_attention_heads; give another model")
    return shape
