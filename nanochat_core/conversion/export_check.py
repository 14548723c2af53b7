"""Whether an exported folder is the model that was exported: what was written is read back, twice.

Once by our own reader: every tensor must have the exported values, the tokenizer the same hash. Then by transformers,
where that is installed: logits, with and without a cache, the ids of texts, and chat renderings with their masks.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_core.conversion.samples import CONVERSATIONS, TEXTS
from nanochat_core.conversion.transformers_folder import Imported, read_folder
from nanochat_core.errors import CheckpointError
from nanochat_core.model.accounting import attention_windows, derive_shape
from nanochat_core.model.blocks import rope_base
from nanochat_core.model.gpt import GPT
from nanochat_core.specs import ModelSpec
from nanochat_core.tokenizer.bpe import Tokenizer
from nanochat_core.tokenizer.render import render_conversation

TOLERANCE = 1e-4  # of logits, in float32
LAST = 256  # positions of the longest row whose logits are compared
STEPS = 8  # tokens that are decoded one by one
INSTALL = "pip install 'nanochat[export]'"


def check_export(
    folder: Path,
    model: ModelSpec,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    with_transformers: bool = True,
) -> dict[str, Any]:
    """Return what was checked, with a line for people under "words".

    `weights`: the model's, by our names, tables cut to the vocabulary. Raises CheckpointError for what differs.
    """
    again = read_folder(folder)
    if _computes(again.model) != _computes(model):
        raise CheckpointError(f"config.json describes another model: {again.model}, exported was {model}.")
    rounding = _check_weights(weights, again)
    if again.tokenizer.hash != tokenizer.hash:
        raise CheckpointError(
            "The exported tokenizer is not the model's: this is a fault of the export, tell its authors."
        )
    found: dict[str, Any] = {"by": "nanochat", "largest_rounding": rounding}
    if not with_transformers:
        return found | {"words": "Read back: weights and tokenizer are the model's. Not compared with transformers."}
    transformers, problem = _transformers(again.model.arch)
    if transformers is None:
        return found | {"words": f"Read back, but not compared with transformers: {problem}."}
    try:
        counts = check_tokenizer(transformers, folder, tokenizer)
        difference = check_logits(transformers, folder, again, tokenizer)
    except CheckpointError:
        raise
    except Exception as error:  # whatever another version of it may raise
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise CheckpointError(
            f"transformers {transformers.__version__} does not load the export ({type(error).__name__}: {reason}). "
            f"Update it ({INSTALL}), or export with --no-check."
        ) from None
    words = (
        f"Checked with transformers {transformers.__version__}: logits differ by {difference:.1e} at most, "
        f"{counts['texts']} texts and {counts['conversations']} chats have equal ids and masks."
    )
    found |= {"by": f"transformers {transformers.__version__}", "largest_logit_difference": difference, **counts}
    return found | {"words": words}


def _computes(model: ModelSpec) -> tuple[Any, ...]:
    """Return all that a shape means for what is computed, whether it is said in it or derived."""
    return (
        derive_shape(model).model_dump(exclude={"rope_base", "short_window"}),
        rope_base(model),
        attention_windows(model),
    )


def _check_weights(weights: Mapping[str, Tensor], again: Imported) -> float:
    """Return by how much rounding has changed a weight at most; raises CheckpointError where more has."""
    if set(again.weights) != set(weights):
        raise CheckpointError(f"Not exported: {', '.join(sorted(set(weights) - set(again.weights))[:3])}.")
    largest = 0.0
    for name, tensor in weights.items():
        read = again.weights[name][: tensor.size(0)]
        difference = (read - tensor.float()).abs()
        if bool((difference > 2**-8 * tensor.float().abs()).any()):  # bfloat16 keeps 8 bits
            raise CheckpointError(f"The exported tensor {name} has other values than the model's.")
        largest = max(largest, float(difference.max()))
    return largest


def _transformers(arch: str) -> tuple[Any, str]:
    """Return the module, or None and why it cannot be used."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return None, f"it is not installed ({INSTALL} and export again)"
    if arch == "classic" and not hasattr(transformers, "NanoChatForCausalLM"):
        return None, f"{transformers.__version__} knows no NanoChat models ({INSTALL} gets one that does)"
    return transformers, ""


def check_tokenizer(transformers: Any, folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Return how many texts and conversations have the same ids and masks; raises CheckpointError where one has not."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # what we have just written
    for text in TEXTS:
        found = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if found != tokenizer.encode(text) or theirs(text, split_special_tokens=True)["input_ids"] != [
            tokenizer.bos,
            *found,
        ]:
            raise CheckpointError(f"transformers encodes {text[:40]!r} in another way than the model's tokenizer.")
    for conversation in CONVERSATIONS:
        found = theirs.apply_chat_template(
            conversation["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
        )
        if (found["input_ids"], found["assistant_masks"]) != render_conversation(tokenizer, conversation):
            shown = str(conversation["messages"][0]["content"])[:40]
            raise CheckpointError(
                f"The chat template renders the chat that begins {shown!r} in another way than training."
            )
    return {"texts": len(TEXTS), "conversations": len(CONVERSATIONS)}


@torch.inference_mode()
def check_logits(transformers: Any, folder: Path, again: Imported, tokenizer: Tokenizer) -> float:
    """Return the largest difference of logits between transformers and our model with the exported weights.

    Raises CheckpointError where it is above TOLERANCE, or where the likeliest token is another one.
    """
    ours = GPT(again.model, again.vocab_size)
    ours.load_state_dict(again.weights)
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=True, output_loading_info=True
    )
    if lost := [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in loading[kind]]:
        raise CheckpointError(f"transformers does not find a place for {lost[0]} ({len(lost)} tensors).")
    ours.eval(), theirs.eval()
    largest = 0.0
    for row in rows(tokenizer, again.model.sequence_len):
        idx = torch.tensor([row])
        hidden = ours.hidden(idx)[:, -LAST:]
        expected = ours.logits(hidden)
        found = theirs(idx, logits_to_keep=LAST).logits
        largest = max(largest, _difference(found, expected, "logits"))
        if len(row) > STEPS + 1:
            kept = expected[:, -STEPS - 1 :]
            largest = max(largest, _difference(_decoded(theirs, idx), kept, "logits of one token after the other"))
    return largest


def rows(tokenizer: Tokenizer, sequence_len: int) -> list[list[int]]:
    """Return prompts as ids: a short one, chats, and one as long as the model's context."""
    chats = [render_conversation(tokenizer, conversation)[0] for conversation in CONVERSATIONS]
    everything = [token for chat in chats for token in chat]
    long = (everything * (sequence_len // len(everything) + 1))[:sequence_len]
    return [[tokenizer.bos], *(chat[:sequence_len] for chat in chats[-3:]), long]


def _decoded(model: Any, idx: Tensor) -> Tensor:
    """Return the logits (1, STEPS + 1, V) at the end of a row (1, T) whose last STEPS tokens come one by one."""
    out = model(idx[:, :-STEPS], use_cache=True, logits_to_keep=1)
    logits = [out.logits]
    for place in range(idx.size(1) - STEPS, idx.size(1)):
        out = model(idx[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


def _difference(found: Tensor, expected: Tensor, what: str) -> float:
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"transformers computes other {what}: they differ by {difference:.3g}, {TOLERANCE:g} are allowed."
        )
    best, second = expected.topk(2, dim=-1).values.unbind(-1)
    is_clear = best - second > TOLERANCE
    if bool((is_clear & (found.argmax(-1) != expected.argmax(-1))).any()):
        raise CheckpointError(f"transformers finds another likeliest token by its {what}.")
    return difference
