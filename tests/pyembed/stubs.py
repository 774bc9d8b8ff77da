"""_fmoe.pyi says what the module says: names, parameters, defaults, attributes."""

import ast
import inspect
import os

from harness import case, main

import _fmoe
import fmoe

STUB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(fmoe.__file__))), "_fmoe.pyi")


def read_stub() -> ast.Module:
    with open(STUB, encoding="utf-8") as file:
        return ast.parse(file.read())


def stub_parameters(function: ast.FunctionDef) -> list[tuple[str, str, object]]:
    """(name, kind, default) of each, without self."""
    a = function.args
    positional = [(p, "positional only") for p in a.posonlyargs] + [(p, "any") for p in a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    rows = [(p.arg, kind, d) for (p, kind), d in zip(positional, defaults, strict=False)]
    rows += [(p.arg, "keyword", d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=False)]
    return [
        (name, kind, inspect.Parameter.empty if d is None else ast.literal_eval(d))
        for name, kind, d in rows
        if name not in ("self", "cls")
    ]


def real_parameters(thing: object) -> list[tuple[str, str, object]]:
    kinds = {"POSITIONAL_ONLY": "positional only", "KEYWORD_ONLY": "keyword"}
    return [
        (p.name, kinds.get(p.kind.name, "any"), p.default)
        for p in inspect.signature(thing).parameters.values()
        if p.name not in ("self", "type")
    ]


def compare(name: str, function: ast.FunctionDef, thing: object) -> None:
    want, got = stub_parameters(function), real_parameters(thing)
    if any(kind == "positional only" for _, kind, _ in got):  # `self` makes the kinds differ
        want = [(n, "", d) for n, _, d in want]
        got = [(n, "", d) for n, _, d in got]
    assert want == got, f"{name}: the stub has {want}, the module {got}"


@case
def module_names() -> None:
    stub = {n.name for n in read_stub().body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    module = {n for n in dir(_fmoe) if not n.startswith("_") and callable(getattr(_fmoe, n))}
    assert stub == module, f"only in one of them: {sorted(stub ^ module)}"


@case
def functions() -> None:
    for node in read_stub().body:
        if isinstance(node, ast.FunctionDef):
            compare(node.name, node, getattr(_fmoe, node.name))


def members(cls: ast.ClassDef) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


@case
def classes() -> None:
    for node in read_stub().body:
        if not isinstance(node, ast.ClassDef):
            continue
        cls, stub = getattr(_fmoe, node.name), members(node)
        public = {
            name
            for name in vars(cls)
            if (not name.startswith("_") and not name.startswith("n_")) or name in stub
        } - {"n_fields", "n_sequence_fields", "n_unnamed_fields"}
        declared = {name for name in stub if not name.startswith("__")}
        real = {name for name in public if not name.startswith("__")}
        assert declared == real, f"{node.name}: {sorted(declared ^ real)} in one of them only"
        for name, member in stub.items():
            if name == "__init__":
                compare(node.name, member, cls)
            elif name == "__buffer__" or isinstance(member, ast.AnnAssign):
                continue
            elif name.startswith("__"):
                assert hasattr(cls, name), f"{node.name} has no {name}"
            else:
                compare(f"{node.name}.{name}", member, getattr(cls, name))


@case
def everything_is_documented() -> None:
    for name in dir(fmoe):
        thing = getattr(fmoe, name)
        if name.startswith("_") or not callable(thing):
            continue
        assert thing.__doc__ and len(thing.__doc__) > 10, f"fmoe.{name} has no docstring"
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if member.startswith("_") or not (callable(value) or inspect.isdatadescriptor(value)):
                continue
            assert value.__doc__, f"fmoe.{name}.{member} has no docstring"


main()
