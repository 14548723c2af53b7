"""The rules of the code, each a function from a module's name and source to what is wrong with it, one line each."""

import ast
from collections.abc import Iterator

PACKAGES = ("flows", "nanochat_core", "tasks_eval", "deployments")

# Who never imports what (docs/architecture.md). A name bans its children too.
BANS = {
    "flows": ("torch", "tasks_eval", "deployments"),
    "nanochat_core": ("prefect", "mlflow", "fastapi", "flows", "tasks_eval", "deployments"),
    "tasks_eval": ("prefect", "mlflow", "flows", "deployments"),
    "deployments": ("prefect", "flows", "mlflow"),
}
BAN_EXCEPTIONS = {("deployments.mlflow_model", "mlflow")}

# The part of nanochat_core that runs without torch: all that flows import of it.
TORCH_FREE = (
    "spec_base",
    "specs",
    "evaluator_specs",
    "training_specs",
    "curation_spec",
    "conversation_specs",
    "preference_specs",
    "launch_spec",
    "sweep_specs",
    "serve_spec",
    "model_chain",
    "conflicts",
    "finetune_conflicts",
    "task_table",
    "recipes",
    "recipes_demo",
    "plan",
    "gpus",
    "sweep_members",
    "paths",
    "errors",
    "artifacts",
    "metrics",
    "hardware",
    "chat_format",
    "model.accounting",
    "model.context",
    "model.memory",
    "model.query_blocks",
    "optim.scaling",
    "optim.scaling_laws",
    "optim.isoflop",
    "data.own.bad_lines",
    "data.own.conversation_files",
    "data.own.conversation_formats",
    "data.own.conversation_reader",
    "data.own.persona",
    "data.own.file_splits",
    "data.own.preference_files",
    "data.lanes",
    "tokenizer.bpe",
    "tokenizer.parse",
    "data.download",
    "data.remote.hub_shards",
    "data.shards",
    "data.own.text_places",
    "data.own.text_stats",
    "data.token_shards",
    "inference.interface",
    "inference.requests",
    "inference.endpoint",
    "inference.openai_api",
    "inference.chat.spec",
    "inference.chat.cli",
)

# What benchmarks see of nanochat_core, and what their two composition roots see besides.
SEEN_BY_TASKS = (
    "inference.interface",
    "chat_format",
    "specs",
    "evaluator_specs",
    "curation_spec",
    "paths",
    "errors",
    "artifacts",
    "data.download",
    "data.own.conversation_files",
    "data.own.file_splits",
    "data.own.conversation_reader",
    "data.own.persona",
    "data.shards",
)
SEEN_BY_TASK_ROOTS = (
    "inference.load",
    "inference.endpoint",
    "tokenizer",
    "distributed",
    "training.validate",
    "metrics",
)
TASK_ROOTS = (
    "tasks_eval.run",
    "tasks_eval.blocks",
    "tasks_eval.build_conversations",
    "tasks_eval.contamination.search",
)

# Inside nanochat_core, from the ground up: a module imports from its own level and from those before it.
LEVELS = (
    (
        "spec_base",
        "specs",
        "evaluator_specs",
        "training_specs",
        "curation_spec",
        "conversation_specs",
        "preference_specs",
        "launch_spec",
        "sweep_specs",
        "serve_spec",
        "model_chain",
        "task_table",
        "paths",
        "errors",
        "artifacts",
        "metrics",
        "hardware",
        "gpus",
        "chat_format",
        "device",
        "distributed",
        "tokenizer",
        "inference.interface",
        "inference.requests",
    ),
    ("model", "optim", "data", "checkpoint"),
    ("inference", "conversion", "conflicts", "finetune_conflicts", "recipes", "recipes_demo", "plan", "sweep_members"),
    ("training",),
    ("stages",),
)

PROCESS_STARTERS = (
    "subprocess",
    "multiprocessing",
    "pty",
    "concurrent.futures.ProcessPoolExecutor",
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "os.fork",
    "os.forkpty",
    "os.system",
    "os.popen",
    "os.posix_spawn",
    "os.posix_spawnp",
)
MAY_START_PROCESSES = (
    "flows.launch",
    "flows.guard",
    "flows.shard_runners",
    "nanochat_core.data.encoding_worker",
    "nanochat_core.inference.replicas",
    "tasks_eval.sandbox",
)

MAY_READ_PICKLED_TENSORS = ("nanochat_core.conversion.reference_checkpoint",)
MAY_RUN_TEXT = ("tasks_eval.sandbox.inside.program",)  # behind the sandbox's walls
UNPICKLERS = ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 500, 60, 8


def is_within(name: str, parents: tuple[str, ...]) -> bool:
    """Return whether a dotted name is one of `parents`, or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def imported_names(tree: ast.Module, module: str) -> Iterator[tuple[str, int]]:
    """Yield the full dotted name of everything imported at run time, and its line; `from a import b` gives "a.b"."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, node.module] if node.module else parents)
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from runtime_nodes(child)


def banned_imports(module: str, source: str) -> list[str]:
    """A layer imports nothing from above it."""
    bans = BANS[module.split(".")[0]]
    return [
        f"{module}:{line} imports {name}"
        for name, line in imported_names(ast.parse(source), module)
        for ban in bans
        if is_within(name, (ban,)) and (module, ban) not in BAN_EXCEPTIONS
    ]


def unseen_core_imports(module: str, source: str) -> list[str]:
    """Flows and benchmarks import only the part of nanochat_core that is meant for them."""
    allowed: tuple[str, ...] = TORCH_FREE if module.startswith("flows") else SEEN_BY_TASKS
    if module in TASK_ROOTS:
        allowed += SEEN_BY_TASK_ROOTS
    inside = tuple(f"nanochat_core.{name}" for name in allowed)
    return [
        f"{module}:{line} imports {name}, which is not for it"
        for name, line in imported_names(ast.parse(source), module)
        if is_within(name, ("nanochat_core",)) and not is_within(name, inside)
    ]


def level_of(name: str) -> int:
    """Return the level of a module of nanochat_core, by the longest entry that holds it; raises KeyError for none."""
    inner = name.removeprefix("nanochat_core.")
    entries = [
        (len(entry), level) for level, group in enumerate(LEVELS) for entry in group if is_within(inner, (entry,))
    ]
    if not entries:
        raise KeyError(f"{name} has no level: add it to LEVELS in tests/architecture_rules.py")
    return max(entries)[1]


def upward_imports(module: str, source: str) -> list[str]:
    """Inside nanochat_core nothing imports from a higher level."""
    return [
        f"{module}:{line} imports {name} from a higher level"
        for name, line in imported_names(ast.parse(source), module)
        if is_within(name, ("nanochat_core",)) and level_of(name) > level_of(module)
    ]


def process_starts(module: str, source: str) -> list[str]:
    """Only the launcher, its guard and the sandbox start processes."""
    if is_within(module, MAY_START_PROCESSES):
        return []
    tree = ast.parse(source)
    used = [(ast.unparse(node), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return sorted(
        {
            f"{module}:{line} starts a process: {name}"
            for name, line in [*imported_names(tree, module), *used]
            if is_within(name, PROCESS_STARTERS) or name.startswith(("os.exec", "os.spawn"))
        }
    )


def code_from_data(module: str, source: str) -> list[str]:
    """Nothing that was loaded or typed in becomes code: no unpickling, eval, exec, shell strings or unsafe YAML.

    Exceptions: `nanochat import` reads another project's weights by torch's restricted reader of tensors, and the
    sandbox runs programs, in one place.
    """
    tree = ast.parse(source)
    problems = [
        f"{module}:{line} imports {name}" for name, line in imported_names(tree, module) if is_within(name, UNPICKLERS)
    ]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {keyword.arg for keyword in call.keywords if ast.unparse(keyword.value) == "True"}
        if module in MAY_READ_PICKLED_TENSORS and name == "torch.load" and "weights_only" in keywords:
            continue
        if module in MAY_RUN_TEXT and name == "exec":
            continue
        if name in {"eval", "exec", "torch.load", "yaml.load"} or keywords & {"shell", "allow_pickle"}:
            problems.append(f"{module}:{call.lineno} calls {ast.unparse(call)[:60]}")
    return problems


def oversized(module: str, source: str) -> list[str]:
    """Files, functions and parameter lists stay small enough to read."""
    problems = []
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        problems.append(f"{module} has {lines} lines, {MAX_FILE_LINES} are allowed")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            problems.append(f"{module}:{node.lineno} {node.name} has {length} lines, {MAX_FUNCTION_LINES} are allowed")
        names = [item.arg for item in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
        count = len([name for name in names if name not in {"self", "cls"}])
        if count > MAX_PARAMETERS:
            problems.append(f"{module}:{node.lineno} {node.name} has {count} parameters, {MAX_PARAMETERS} are allowed")
    return problems


def vague_names(module: str, source: str) -> list[str]:
    """A module is named by its one concept."""
    words = {word for part in module.split(".") for word in part.split("_")}
    return [f"{module}: name it by its concept, not {word!r}" for word in sorted(words & FORBIDDEN_NAMES)]
