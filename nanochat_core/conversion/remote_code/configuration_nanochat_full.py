"""The shape of a nanochat model with the full block set; `modeling_nanochat_full.py` beside this file computes it."""

from transformers import PretrainedConfig

DEFAULTS = {
    "vocab_size": 65_536,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": None,  # as many as query heads
    "max_position_embeddings": 2048,
    "attention_windows": None,  # for each layer, how many tokens back it sees; None: max_position_embeddings
    "value_embedding_layers": None,  # they add a table of token values to v; None: every second layer, and the last
    "backout_layer": None,  # its output is taken away again at the end; None: the middle one
    "rope_base": 100_000.0,
    "qk_gain": 1.2,  # factor on the normalised queries and on the keys
    "value_gate_channels": 12,  # of the stream, which the gate of the value embeddings reads
    "value_gate_gain": 3.0,
    "smear_channels": 24,  # of the stream, which the gate of the smear reads
    "final_logit_softcapping": 15.0,
    "use_cache": True,
}


class NanoChatFullConfig(PretrainedConfig):
    """What config.json says: the fields of DEFAULTS, and those that every model has."""

    model_type = "nanochat_full"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - transformers declares it so

    def __init__(self, **kwargs):
        for name, default in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        depth = self.num_hidden_layers
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        if self.attention_windows is None:
            self.attention_windows = [self.max_position_embeddings] * depth
        if self.value_embedding_layers is None:
            self.value_embedding_layers = [layer for layer in range(depth) if layer % 2 == (depth - 1) % 2]
        if self.backout_layer is None:
            self.backout_layer = depth // 2
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)
