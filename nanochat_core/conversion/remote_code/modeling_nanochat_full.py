"""nanochat's full block set for transformers, in one file, with a cache of keys and values so that `generate` works.

    e = rms(E[idx]);  x = x0 = e + smear;  per layer i:
        x = r_i·x + z_i·x0;  x += Attention(rms(x));  x += MLP(rms(x));  m = x after the backout layer
    logits = 15·tanh(rms(x − β·m) Uᵀ / 15)

Attention rotates queries and keys, normalises them, and sees a window of keys; every second layer adds a gated table of
token values to v. The smear gives each token a share of the embedding before it: these embeddings are kept in the
cache too, as one layer more than the model has, so that whatever transformers does to a cache (beams, cropping) it
does to them as well.

B rows, T new tokens, S tokens with those in the cache, C width, H heads, K key/value heads, D head size.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_nanochat_full import NanoChatFullConfig


def rms_norm(x):
    """Return x / sqrt(mean(x²) + eps) over the last dimension; there are no learned gains."""
    return F.rms_norm(x, (x.size(-1),))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """Rotate the pairs (j, j + D/2) of x (B, T, heads, D) by −angle; cos and sin are (B, T, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class NanoChatFullAttention(nn.Module):
    """Causal self-attention over a window of keys."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.window, self.qk_gain = layer, config.attention_windows[layer], config.qk_gain
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = config.hidden_size // self.heads
        self.gate_channels, self.gate_gain = config.value_gate_channels, config.value_gate_gain
        self.q_proj = linear(config.hidden_size, config.hidden_size)
        self.k_proj = linear(config.hidden_size, self.kv_heads * self.head_size)
        self.v_proj = linear(config.hidden_size, self.kv_heads * self.head_size)
        self.o_proj = linear(config.hidden_size, config.hidden_size)
        if layer in config.value_embedding_layers:
            self.value_gate = linear(self.gate_channels, self.kv_heads)

    def forward(self, x, values, rotary, view, cache):
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, self.heads, self.head_size)
        k = self.k_proj(x).view(rows, length, self.kv_heads, self.head_size)
        v = self.v_proj(x).view(rows, length, self.kv_heads, self.head_size)
        if values is not None:
            gate = self.gate_gain * torch.sigmoid(self.value_gate(x[..., : self.gate_channels]))  # (B, T, K)
            v = v + gate[..., None] * values.view_as(v)
        q, k = rms_norm(rotate(q, *rotary)), rms_norm(rotate(k, *rotary))
        q = q * self.qk_gain**2  # the gain of q and that of k at once
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H | K, T, D)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, K, S, D)
        y = view.attend(q, k, v, self.window)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class NanoChatFullMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = linear(config.hidden_size, 4 * config.hidden_size)
        self.fc2 = linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)).square())


class NanoChatFullLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.self_attn = NanoChatFullAttention(config, layer)
        self.mlp = NanoChatFullMLP(config)

    def forward(self, x, values, rotary, view, cache):
        x = x + self.self_attn(rms_norm(x), values, rotary, view, cache)
        return x + self.mlp(rms_norm(x))


class View:
    """Which keys the new tokens see: those up to themselves, in a window, that are no padding.

    mask: (B, S), 1 on real tokens, or None where all are.
    """

    def __init__(self, past, length, mask, device):
        self.past, self.length = past, length
        self.mask = None if mask is None or bool(mask.all()) else mask.to(device=device, dtype=torch.bool)
        self.device = device
        self._visible = {}

    def attend(self, q, k, v, window):
        """Return the attention (B, H, T, D) of q (B, H, T, D) over k and v (B, K, S, D)."""
        sees_all = self.mask is None and window >= self.past + self.length - 1
        grouped = q.size(1) != k.size(1)
        if sees_all and (self.past == 0 or self.length == 1):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.length > 1, enable_gqa=grouped)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.visible(window), enable_gqa=grouped)

    def visible(self, window):
        """Return (1 | B, 1, T, S), bool. Padding sees itself: a row that sees nothing would be NaN."""
        if window not in self._visible:
            keys = torch.arange(self.past + self.length, device=self.device)
            queries = keys[self.past :, None]
            visible = ((keys <= queries) & (keys >= queries - window))[None, None]
            if self.mask is not None:
                visible = (visible & self.mask[:, None, None, :]) | (keys == queries)
            self._visible[window] = visible
        return self._visible[window]

    def positions(self, rows):
        """Return the positions (B, T) of the new tokens, padding on the left not counted."""
        if self.mask is None:
            return torch.arange(self.past, self.past + self.length, device=self.device)[None].expand(rows, -1)
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)[:, self.past :]

    def of_previous(self, every):
        """Return what stands before each new token in `every` (B, S, C); zeros before a row's first."""
        if self.mask is not None:
            every = every * self.mask[..., None].to(every.dtype)
        return F.pad(every, (0, 0, 1, 0))[:, self.past : self.past + self.length]


class NanoChatFullPreTrainedModel(PreTrainedModel):
    config_class = NanoChatFullConfig
    base_model_prefix = "model"
    _no_split_modules = ["NanoChatFullLayer"]  # noqa: RUF012 - transformers declares it so
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True


class NanoChatFullModel(NanoChatFullPreTrainedModel):
    """Everything below the head."""

    def __init__(self, config):
        super().__init__(config)
        depth, width = config.num_hidden_layers, config.hidden_size
        kv_width = width // config.num_attention_heads * config.num_key_value_heads
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(NanoChatFullLayer(config, layer) for layer in range(depth))
        self.value_embeds = nn.ModuleDict(
            {str(layer): nn.Embedding(config.vocab_size, kv_width) for layer in config.value_embedding_layers}
        )
        self.residual_scale = nn.Parameter(torch.ones(depth))
        self.input_scale = nn.Parameter(torch.zeros(depth))
        self.smear_gate = linear(config.smear_channels, 1)
        self.smear_scale = nn.Parameter(torch.zeros(1))
        self.backout_scale = nn.Parameter(torch.zeros(1))
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def rotary(self, positions, dtype):
        """Return cos and sin (B, T, 1, D/2): the angle of pair j at position t is t / base^(2j/D)."""
        size = self.config.hidden_size // self.config.num_attention_heads
        pairs = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device)
        angle = positions[..., None, None].float() * self.config.rope_base ** (-pairs / size)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def smeared(self, x, view, cache):
        """Return the embeddings (B, T, C), each with a gated share of the one before it."""
        every = x
        if cache is not None:
            layer = self.config.num_hidden_layers  # one more than the model has
            while len(cache.layers) <= layer:
                cache.layers.append(DynamicLayer())
            every = cache.update(x[:, None], x[:, None, :, :0], layer)[0][:, 0]  # (B, S, C)
        gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[..., : self.config.smear_channels]))  # (B, T, 1)
        return x + gate.to(x.dtype) * view.of_previous(every)

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        is_static = getattr(past_key_values, "is_compileable", False)
        if is_static or (attention_mask is not None and attention_mask.dim() != 2):
            raise ValueError("NanoChatFull takes an attention_mask of (rows, tokens), and a cache that is not static.")
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        rows, length = input_ids.shape
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        view = View(past, length, attention_mask, input_ids.device)
        x = rms_norm(self.embed_tokens(input_ids))
        start = x = self.smeared(x, view, past_key_values)
        positions = view.positions(rows) if position_ids is None else position_ids
        rotary, middle = self.rotary(positions, x.dtype), None
        for number, layer in enumerate(self.layers):
            x = self.residual_scale[number] * x + self.input_scale[number] * start
            name = str(number)
            values = self.value_embeds[name](input_ids) if name in self.value_embeds else None
            x = layer(x, values, rotary, view, past_key_values)
            if number == self.config.backout_layer:
                middle = x
        x = rms_norm(x - self.backout_scale * middle)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class NanoChatFullForCausalLM(NanoChatFullPreTrainedModel, GenerationMixin):
    """The model with its head."""

    def __init__(self, config):
        super().__init__(config)
        self.model = NanoChatFullModel(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **kwargs,
    ):
        """Return logits (B, T, V) in float32, the cache, and with `labels` (B, T) the mean loss (−100: not counted)."""
        if input_ids is None or kwargs.get("inputs_embeds") is not None:
            raise ValueError("NanoChatFull needs input_ids: its value embeddings are looked up by token.")
        out = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # 0 keeps all
        cap = self.config.final_logit_softcapping
        logits = cap * torch.tanh(self.lm_head(out.last_hidden_state[:, kept]).float() / cap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        result = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)
        return result.to_tuple() if return_dict is False else result
