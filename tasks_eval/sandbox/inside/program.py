"""Running a program: as Python does, or as a notebook does with a cell.

Imports stand where they are used: a sandboxed process starts for each answer, and most need few.
"""

import sys
from types import CodeType, ModuleType

PROGRAM = "program.py"


def run(source: str, *, is_cell: bool) -> None:
    """Run a program as `__main__`; where it fails, print the traceback and end with 1. Its own exits stay its own.

    is_cell: the value of a last expression is printed, None excepted, and of an error its last line only.
    What is no Exception (KeyboardInterrupt) is an error like any other.
    """
    module = ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, [PROGRAM]
    try:
        for code in cell_codes(source) if is_cell else [compile(source, PROGRAM, "exec")]:
            run_code(code, module)
    except SystemExit:
        raise
    except BaseException as error:
        import traceback

        print(end="", flush=True)  # what it printed comes first
        if is_cell:
            sys.exit("".join(traceback.format_exception_only(error)).strip())
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != PROGRAM:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)


def cell_codes(source: str) -> list[CodeType]:
    """Return a cell's code: its statements, and a last expression as what prints its value. Raises SyntaxError.

    >>> len(cell_codes("a = 1")), len(cell_codes("a = 1; a + 1"))
    (1, 2)
    """
    import ast

    tree = ast.parse(source, PROGRAM)
    shown = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
    codes = [compile(tree, PROGRAM, "exec")]
    return [*codes, compile(ast.Interactive(list(shown)), PROGRAM, "single")] if shown else codes


def load(source: str, name: str) -> ModuleType:
    """Return a module of this name made of `source`; raises whatever that raises."""
    module = ModuleType(name)
    sys.modules[name] = module
    run_code(compile(source, f"{name}.py", "exec"), module)
    return module


def run_code(code: CodeType, module: ModuleType) -> None:
    """Run code in a module. The one place where text becomes a running program: all around it are the walls."""
    exec(code, module.__dict__)
