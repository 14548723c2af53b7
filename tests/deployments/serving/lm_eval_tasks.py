"""Two small tasks for lm-eval in a folder: one that compares likelihoods, one that reads an answer."""

import json
from pathlib import Path

CHOICE, GENERATE = "tiny_choice", "tiny_generate"
QUESTIONS = (
    {"question": "Is the sky blue?", "choices": ["yes", "no"], "answer": 0},
    {"question": "Comment dit-on « summer » ?", "choices": ["été 🌞", "hiver ❄️", ""], "answer": 0},
    {"question": "1+1=", "choices": ["2", "3", "4", "<|bos|>"], "answer": 0},
)
CHOICE_YAML = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GENERATE_YAML = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["?", "\\n"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def write_tasks(folder: Path) -> None:
    """Write the tasks and their data."""
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for task, text in ((CHOICE, CHOICE_YAML), (GENERATE, GENERATE_YAML)):
        (folder / f"{task}.yaml").write_text(text.format(task=task, data=data))
