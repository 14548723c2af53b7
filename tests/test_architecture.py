"""Policies that hold for the whole tree; each rule also has a made-up module that breaks it."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import architecture_rules as rules

ROOT = Path(__file__).parent.parent
FOLDERS = {"flows", "nanochat_core", "tasks_eval", "deployments", "tests", "benchmarks", "docs", ".ci"}
FILES = {"prefect.yaml", "pyproject.toml", "constraints.txt", "Makefile", ".gitignore", ".pre-commit-config.yaml"}
PAGES = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"}
Rule = Callable[[str, str], list[str]]


def sources(*folders: str) -> dict[str, str]:
    """Return the source of every module below `folders`, by dotted name."""
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text(encoding="utf-8") for file in files}


def problems(rule: Rule, *folders: str) -> list[str]:
    return [problem for module, source in sources(*folders).items() for problem in rule(module, source)]


@pytest.mark.parametrize(
    ("rule", "folders"),
    [
        (rules.banned_imports, rules.PACKAGES),
        (rules.unseen_core_imports, ("flows", "tasks_eval")),
        (rules.upward_imports, ("nanochat_core",)),
        (rules.process_starts, rules.PACKAGES),
        (rules.code_from_data, rules.PACKAGES),
        (rules.oversized, (*rules.PACKAGES, "tests", "benchmarks")),
        (rules.vague_names, (*rules.PACKAGES, "tests", "benchmarks")),
    ],
)
def test_every_module_keeps_the_rule(rule: Rule, folders: tuple[str, ...]) -> None:
    assert problems(rule, *folders) == []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (rules.banned_imports, "flows.pretrain", "def run():\n    from torch import nn\n"),
        (rules.banned_imports, "nanochat_core.training.loop", "import mlflow.pytorch"),
        (rules.banned_imports, "tasks_eval.tasks.arc", "import flows.stage as stage"),
        (rules.banned_imports, "deployments.serving.app", "import mlflow"),
        (rules.unseen_core_imports, "flows.pretrain", "from nanochat_core import checkpoint"),
        (
            rules.unseen_core_imports,
            "tasks_eval.tasks.arc",
            "from nanochat_core.inference.load import load_text_model",
        ),
        (rules.upward_imports, "nanochat_core.data.loader", "from nanochat_core.training.loop import train_step"),
        (rules.upward_imports, "nanochat_core.tokenizer.bpe", "from ..model import gpt"),
        (rules.process_starts, "flows.sweep", "import subprocess"),
        (rules.process_starts, "nanochat_core.paths", "import os\nos.system('ls')"),
        (rules.code_from_data, "nanochat_core.checkpoint", "import pickle"),
        (rules.code_from_data, "nanochat_core.checkpoint", "torch.load(path)"),
        (rules.code_from_data, "nanochat_core.conversion.reference_checkpoint", "torch.load(path)"),
        (rules.code_from_data, "nanochat_core.checkpoint", "torch.load(path, weights_only=True)"),
        (rules.code_from_data, "nanochat_core.inference.calculator", "eval('1+1')"),
        (rules.code_from_data, "flows.launch", "subprocess.run('ls', shell=True)"),
        (rules.oversized, "flows.stage", "x = 1\n" * 501),
        (rules.oversized, "flows.stage", "def long():\n" + "    x = 1\n" * 60),
        (rules.oversized, "flows.stage", "def wide(a, b, c, d, e, f, g, *, h, i): ..."),
        (rules.vague_names, "nanochat_core.data.string_utils", ""),
    ],
)
def test_a_made_up_module_that_breaks_the_rule_is_reported(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (rules.banned_imports, "deployments.mlflow_model", "import mlflow"),
        (rules.banned_imports, "flows.stage", "import torchless"),
        (rules.unseen_core_imports, "tasks_eval.run", "from nanochat_core.inference.load import load_text_model"),
        (rules.upward_imports, "nanochat_core.model.gpt", "if TYPE_CHECKING:\n    import nanochat_core.training.loop"),
        (rules.process_starts, "flows.guard", "import subprocess"),
        (rules.code_from_data, "nanochat_core.training.loop", "model.eval()"),
    ],
)
def test_a_made_up_module_that_keeps_the_rule_is_not_reported(rule: Rule, module: str, source: str) -> None:
    assert rule(module, source) == []


def test_a_new_module_of_nanochat_core_must_be_given_a_level() -> None:
    with pytest.raises(KeyError, match="add it to LEVELS"):
        rules.level_of("nanochat_core.novelty")


def modules_after_import(names: list[str]) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after importing `names`."""
    code = f"import sys, {', '.join(names)}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_flows_leave_torch_out_of_the_process() -> None:
    assert not {"torch", "tasks_eval", "deployments"} & modules_after_import(["flows.cli", "flows.pipeline"])


def test_the_torch_free_part_of_nanochat_core_leaves_torch_out_of_the_process() -> None:
    names = [f"nanochat_core.{name}" for name in rules.TORCH_FREE]
    assert not {"torch", "prefect", "mlflow"} & modules_after_import(names)


def test_the_torch_check_can_fail() -> None:
    assert "torch" in modules_after_import(["nanochat_core.model.gpt"])


def test_the_top_level_of_the_tree_is_as_agreed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing tells our files from yours")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} - (FOLDERS | FILES | PAGES) == set()
    assert (FILES | PAGES | set(rules.PACKAGES)) - {path.name for path in ROOT.iterdir()} == set()


def readme_tree(text: str) -> list[str]:
    """Return the paths in the README's tree: the first word of each line of the block below "## Where things are"."""
    block = re.search(r"^## Where things are\n.*?```\w*\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert block, 'README.md has no block below "## Where things are"'
    return [line.split()[0] for line in block.group(1).splitlines() if line.strip()]


def test_every_entry_of_the_readme_tree_exists() -> None:
    entries = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    assert entries
    assert [entry for entry in entries if not (ROOT / entry).exists()] == []


def test_every_package_is_in_the_readme_tree() -> None:
    entries = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [package for package in rules.PACKAGES if f"{package}/" not in entries] == []


def test_a_missing_entry_of_the_readme_tree_is_found() -> None:
    entries = readme_tree("## Where things are\n\n```\nflows/  order\nflows/novelty.py  nothing\n```\n")
    assert [entry for entry in entries if not (ROOT / entry).exists()] == ["flows/novelty.py"]


def test_every_import_of_a_package_is_declared_in_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ours = set(rules.PACKAGES) | set(sys.stdlib_module_names)
    names = {"prefect_dask": "prefect-dask", "pynvml": "nvidia-ml-py", "splintr": "splintr-rs", "yaml": "pyyaml"}
    names["prometheus_client"] = "prometheus-client"
    names["triton"] = "torch"  # which brings it with CUDA
    imported = {
        name.split(".")[0]
        for module, source in sources(*rules.PACKAGES).items()
        for name, _ in rules.imported_names(ast.parse(source), module)
    }
    declared = {re.split(r"[<>=\[]", line)[0].lower() for line in re.findall(r'^    "([^"]+)"', text, re.MULTILINE)}
    assert sorted(name for name in imported - ours if names.get(name, name).lower() not in declared) == []
