"""What is known of the tasks without their code, which `tasks_eval` has: their data, and what can be done with them.

Tests hold it equal to the code. Torch-free.
"""

TASK_DATASETS = {  # the data set that a task of ours reads; those that are not here are generated
    "ARC-Challenge": "arc",
    "ARC-Easy": "arc",
    "CountLetters": "words",
    "CustomJSON": "custom",
    "Documents": "documents",
    "GSM8K": "gsm8k",
    "HumanEval": "humaneval",
    "MMLU": "mmlu",
    "SimpleSpelling": "words",
    "SmolTalk": "smoltalk",
    "Spelling": "words",
    "SpellingBee": "words",
}
WITH_PERSONA = ("Identity",)  # they read the data set `persona`, or else the one that comes with the package
CHEAP_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU")  # as in tasks_eval/evaluators.py
OWN_DATASETS = {  # data sets of the user's own: the field that says where, and what is there
    "custom": ("custom_path", "file of conversations"),
    "documents": ("documents_path", "folder of documents"),
    "persona": ("persona_path", "YAML file"),
}
UNGRADED = ("CustomJSON", "Documents", "Greetings", "SmolTalk")
UNTRAINABLE = ("HumanEval",)  # they have a test split only
GENERATED = (  # made by rule: a text that holds such a question was not copied from them, nor they from it
    "Arithmetic",
    "CountLetters",
    "Facts",
    "Identity",
    "LongArithmetic",
    "SimpleSpelling",
    "Spelling",
    "SpellingBee",
)
CORE_LABELS = (  # of the bundle that `core_bundle_url` names by default
    "agi_eval_lsat_ar arc_challenge arc_easy bigbench_cs_algorithms bigbench_dyck_languages "
    "bigbench_language_identification bigbench_operators bigbench_qa_wikidata bigbench_repeat_copy_logic boolq "
    "commonsense_qa copa coqa hellaswag hellaswag_zeroshot jeopardy lambada_openai openbook_qa piqa squad winograd "
    "winogrande"
)
