"""Runs inside the sandbox: one cell per line in, one result per line out, and
what a cell defined stays for the next. Lines are Python literals, since the
image's Python is a small one without json."""
import ast
import contextlib
import io
import sys
import traceback


def run(cell, names):
    """Like a notebook: prints what is printed, and the value of a last expression."""
    tree = ast.parse(cell, "<cell>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
        if value is not None:
            print(repr(value))


names = {"__name__": "__main__"}
answers = sys.stdout
print(repr({"ready": True}), file=answers, flush=True)
for line in sys.stdin:
    printed, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            run(ast.literal_eval(line), names)
    except BaseException as e:  # KeyboardInterrupt and SystemExit end a cell, not the kernel
        error = traceback.format_exception_only(type(e), e)[-1].strip()
    print(repr({"text": printed.getvalue(), "error": error}), file=answers, flush=True)
