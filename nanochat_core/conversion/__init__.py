"""Models from and to other formats: folders of transformers, and checkpoints of the original nanochat.

    checkpoint --exporting.py--> config.json, model.safetensors, tokenizer.json, chat_template.jinja, README.md, …
    folder of transformers --transformers_folder.py--\\
    checkpoint of the original --reference_checkpoint.py--> Imported --importing.py--> artifact folders

`arch: classic` is a model that transformers knows (NanoChatForCausalLM); `full` brings its own file (`remote_code/`).
`tensor_names.py` says which tensor is which, `model_config.py` which number is which. docs/decisions/0018.
"""
