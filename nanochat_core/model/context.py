"""A longer context for a model that is trained already: what changes in its shape when training goes on at a larger T.

Rotary positions beyond the old T are new to the model; their base is raised so that the slowest pair of channels turns
no further over the new length than over the old one, and the fastest, which tell neighbours apart, turn as before
("NTK-aware" scaling: bloc97 2023, r/LocalLLaMA; Peng et al. 2023, section 3.1). Windows stay as they were, in tokens;
layers that see the whole row see the new one. The weights fit as they are. Torch-free.
"""

from nanochat_core.errors import SpecError
from nanochat_core.model.accounting import derive_shape, short_window
from nanochat_core.model.blocks import rope_base
from nanochat_core.specs import ModelSpec

CONTEXT_FIELDS = ("sequence_len", "rope_base", "short_window")  # what may differ where training goes on


def extended(model: ModelSpec, sequence_len: int) -> ModelSpec:
    """Return the shape of the same weights for rows of `sequence_len` tokens, its rope base and windows filled in.

    The pair j of D/2 turns by 1 / base^(2j/D) a token. With s = new T / old T and base' = base·s^(D/(D−2)), the last,
    j = D/2 − 1, turns s times slower, the first, j = 0, as before. Raises SpecError for a shorter length.

    >>> longer = extended(ModelSpec(arch="full", depth=12), 8192)
    >>> longer.sequence_len, round(longer.rope_base), longer.short_window
    (8192, 408899, 512)
    """
    model = derive_shape(model)
    if sequence_len < model.sequence_len:
        raise SpecError(
            f"The model was trained on rows of {model.sequence_len} tokens and cannot go on at a sequence_len of "
            f"{sequence_len}: expected as many or more."
        )
    if sequence_len == model.sequence_len:
        return model
    stretch, head_size = sequence_len / model.sequence_len, model.n_embd // model.n_head
    power = head_size / (head_size - 2) if head_size > 2 else 0.0  # a single pair turns by 1 whatever the base
    return model.model_copy(
        update={
            "sequence_len": sequence_len,
            "rope_base": rope_base(model) * stretch**power,
            "short_window": short_window(model) if model.arch == "full" else None,
        }
    )


def continued(earlier: ModelSpec, wanted: ModelSpec) -> ModelSpec:
    """Return the shape that `wanted` asks for where training goes on from a model of the shape `earlier`.

    A base or a window that is empty in `wanted` is that of the extended model. Raises SpecError where the weights would
    not fit, or the context would get shorter.
    """
    earlier, wanted = derive_shape(earlier), derive_shape(wanted)
    if differing := [
        f"model.{name} {getattr(wanted, name)!r}, there it is {getattr(earlier, name)!r}"
        for name in ModelSpec.model_fields
        if name not in CONTEXT_FIELDS and getattr(wanted, name) != getattr(earlier, name)
    ]:
        raise SpecError(f"The weights of the earlier model do not fit: {'; '.join(differing)}. Give it the same shape.")
    given = {name: value for name in CONTEXT_FIELDS if (value := getattr(wanted, name)) is not None}
    return extended(earlier, wanted.sequence_len).model_copy(update=given)
