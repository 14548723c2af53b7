"""The chat format as a Jinja template, for clients that make prompts themselves (`tokenizer/render.py` is the rule)."""

CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{{- '<|bos|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message.role in ('system', 'developer') -%}{%- set ns.system = message.content ~ '\\n\\n' -%}"
    "{%- elif message.role == 'user' -%}"
    "{{- '<|user_start|>' ~ ns.system ~ message.content ~ '<|user_end|>' -}}{%- set ns.system = '' -%}"
    "{%- else -%}{{- '<|assistant_start|>' ~ message.content ~ '<|assistant_end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"
)
