"""POST /tokenize, POST /detokenize, GET /tokenizer_info: in the form that vLLM's clients and lm-eval know."""

import asyncio
import re

from fastapi import APIRouter

from deployments.serving import response_schemas
from deployments.serving.chat_prompt import chat_prompt, check_sizes
from deployments.serving.errors import invalid
from deployments.serving.logprobs import spelling
from deployments.serving.responses import documented, looked_up
from deployments.serving.schemas import DetokenizeRequest, TokenizeRequest
from deployments.serving.serving_dependency import Serving
from deployments.serving.state import ServerState
from nanochat_core.conversion.tokenizer_files import chat_template

router = APIRouter(tags=["tokenizer"])
BOS, EOS = "<|bos|>", "<|assistant_end|>"
NAMES = (BOS, EOS)
GENERATION_TAGS = re.compile(r"{%-? (end)?generation -?%}")  # only transformers knows them


@router.post("/tokenize", summary="Text or a chat to tokens", responses=documented(response_schemas.Tokens))
async def tokenize(body: TokenizeRequest, state: Serving) -> response_schemas.Tokens:
    """Tokenise. Text that spells a special token stays text, unless it is nothing but the name of BOS or EOS."""
    state.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Give prompt or messages.", "prompt")
    engine = state.engine
    ids = await asyncio.to_thread(_ids, state, body)
    texts = [spelling(engine.tokenizer, token) for token in ids] if body.return_token_strs else None
    return response_schemas.Tokens(count=len(ids), max_model_len=engine.max_context, tokens=ids, token_strs=texts)


def _ids(state: ServerState, body: TokenizeRequest) -> list[int]:
    tokenizer = state.engine.tokenizer
    if body.messages is not None:
        check_sizes(body.messages, state.spec.limits)
        prompt = chat_prompt(tokenizer, body.messages, max_context=2**62, answer_tokens=1)
        ids = list(prompt.ids)
        is_open = body.messages[-1].role != "assistant"
        return ids[:-1] if is_open and not body.add_generation_prompt else ids
    if body.prompt in NAMES and not body.add_special_tokens:  # how lm-eval asks for the ids of BOS and EOS
        return [tokenizer.special(body.prompt)]
    return [*([tokenizer.bos] if body.add_special_tokens else []), *tokenizer.encode(body.prompt or "")]


@router.post("/detokenize", summary="Tokens to text", responses=documented(response_schemas.DetokenizedText))
async def detokenize(body: DetokenizeRequest, state: Serving) -> response_schemas.DetokenizedText:
    """Return the text of tokens: special ones by their names."""
    state.check_model(body.model)
    if body.tokens:
        state.check_ids(tuple(body.tokens), "tokens")
    return response_schemas.DetokenizedText(prompt=state.engine.tokenizer.decode(body.tokens))


@router.get(
    "/tokenizer_info", summary="Special tokens and chat template", responses=looked_up(response_schemas.TokenizerInfo)
)
async def tokenizer_info(state: Serving) -> response_schemas.TokenizerInfo:
    """Return what a client must know to make prompts by itself."""
    tokenizer = state.engine.tokenizer
    bos, eos = tokenizer.bos, tokenizer.special(EOS)
    return response_schemas.TokenizerInfo(
        tokenizer_class="PreTrainedTokenizerFast",
        vocab_size=tokenizer.vocab_size,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=BOS,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=bos,
        chat_template=GENERATION_TAGS.sub("", chat_template()),
    )
