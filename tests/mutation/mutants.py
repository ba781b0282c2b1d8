"""Every guard of a module, taken away one at a time: an AST transformation per guard.

What counts as a guard is found by shape, so that a new one is tried without being listed:

    if ...:                    never taken
    a and b, a or b            without one of them
    return <comparison>        True, and False, in functions that say `-> bool`
    raise                      left out, where no `if` stands before it
    tables and sets            without one entry; a rule of the table of methods with wider era, scope, action
    limits                     without end
    f(strict=True)             the other way round
    .fullmatch(                .match(
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

WITHOUT_END = 10**6
_WIDER = {"_LEGACY": "_BOTH", "_MODERN": "_BOTH"}
_WIDEST_SCOPE, _WIDEST_ACTION = "SERVER", "SERVER_CONNECT"

Change = Callable[[ast.AST], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One module with one guard less. `name` says which, without line numbers, so that it can be listed."""

    module: str
    line: int
    name: str
    source: str


def mutants_of(module: str, file: Path) -> Iterator[Mutant]:
    """All mutants of one module, in the order of its lines."""
    tree = ast.parse(file.read_text())
    _set_parents(tree)
    nodes = list(ast.walk(tree))
    found: list[tuple[int, str, int, Change]] = []
    for index, node in enumerate(nodes):
        found += [(getattr(node, "lineno", 0), text, index, change) for text, change in _changes(node)]
    seen: dict[str, int] = {}
    for line, text, index, change in sorted(found, key=lambda each: each[:3]):
        name = f"{module}:{_function(nodes[index])}: {text}"
        seen[name] = seen.get(name, 0) + 1
        changed = copy.deepcopy(tree)
        change(list(ast.walk(changed))[index])
        source = ast.unparse(ast.fix_missing_locations(changed))
        yield Mutant(module=module, line=line, name=name if seen[name] == 1 else f"{name} ({seen[name]})", source=source)


def _set_parents(tree: ast.AST) -> None:
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            child.parent = parent  # type: ignore[attr-defined]


def _above(node: ast.AST) -> Iterator[ast.AST]:
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        yield node


def _function(node: ast.AST) -> str:
    names = [each.name for each in _above(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return ".".join(reversed(names))


def _in_function(node: ast.AST) -> bool:
    return any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in _above(node))


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else text[:87] + "..."


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    for kind, found in _BY_KIND:
        if isinstance(node, kind):
            yield from found(node)


def _of_if(node: ast.If | ast.IfExp) -> Iterator[tuple[str, Change]]:
    yield f"never: {_short(node.test)}", _set("test", ast.Constant(value=False))


def _of_bool_op(node: ast.BoolOp) -> Iterator[tuple[str, Change]]:
    if isinstance(getattr(node, "parent", None), ast.Assert):  # says what is known, to the type checker
        return
    for position, operand in enumerate(node.values):

        def drop(changed: ast.AST, position: int = position) -> None:
            assert isinstance(changed, ast.BoolOp)
            del changed.values[position]

        yield f"without: {_short(operand)} [in {_short(node)}]", drop


def _of_return(node: ast.Return) -> Iterator[tuple[str, Change]]:
    function = next((each for each in _above(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)), None)
    is_predicate = function is not None and isinstance(function.returns, ast.Name) and function.returns.id == "bool"
    if is_predicate and not isinstance(node.value, ast.Constant) and node.value is not None:
        for value in (True, False):
            yield f"return {value}: {_short(node.value)}", _set("value", ast.Constant(value=value))


def _of_raise(node: ast.Raise) -> Iterator[tuple[str, Change]]:
    parent = getattr(node, "parent", None)
    if isinstance(parent, ast.If) and node in parent.body:
        return

    def leave_out(changed: ast.AST) -> None:
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(changed.parent, block, None)  # type: ignore[attr-defined]
            if isinstance(statements, list) and changed in statements:
                statements[statements.index(changed)] = ast.Pass()

    yield f"no raise: {_short(node)}", leave_out


def _of_collection(node: ast.Dict | ast.Set | ast.Tuple | ast.List) -> Iterator[tuple[str, Change]]:
    if _in_function(node) or not any(isinstance(each, ast.Assign | ast.AnnAssign) and _is_table(each) for each in _above(node)):
        return
    if any(isinstance(each, ast.Subscript) for each in _above(node)):  # a type
        return
    if isinstance(node, ast.Dict):
        for position, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            yield f"no entry: {_short(key) if key else '**'}", _delete_entry(position)
            if key is not None and isinstance(value, ast.Call):
                yield from _wider(key, value, position)
        return
    for position, element in enumerate(node.elts):

        def drop(changed: ast.AST, position: int = position) -> None:
            del changed.elts[position]  # type: ignore[attr-defined]

        yield f"no element: {_short(element)}", drop


def _is_table(node: ast.Assign | ast.AnnAssign) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return isinstance(target, ast.Name) and target.id.isupper()


def _delete_entry(position: int) -> Change:
    def change(changed: ast.AST) -> None:
        assert isinstance(changed, ast.Dict)
        del changed.keys[position], changed.values[position]

    return change


def _wider(key: ast.AST, value: ast.Call, position: int) -> Iterator[tuple[str, Change]]:
    """A rule of the table of methods that lets more through."""
    for place, argument in enumerate(value.args):
        wider = _wider_argument(argument)
        if wider is not None:

            def change(changed: ast.AST, place: int = place, wider: ast.expr = wider) -> None:
                assert isinstance(changed, ast.Dict)
                call = changed.values[position]
                assert isinstance(call, ast.Call)
                call.args[place] = wider

            yield f"{_short(key)}: {_short(argument)} becomes {_short(wider)}", change


def _wider_argument(argument: ast.expr) -> ast.expr | None:
    if isinstance(argument, ast.Name) and argument.id in _WIDER:
        return ast.Name(id=_WIDER[argument.id])
    if isinstance(argument, ast.Attribute) and isinstance(argument.value, ast.Name):
        widest = {"Scope": _WIDEST_SCOPE, "Action": _WIDEST_ACTION}.get(argument.value.id)
        if widest is not None and argument.attr != widest:
            return ast.Attribute(value=ast.Name(id=argument.value.id), attr=widest)
    return None


def _of_limit(node: ast.Assign) -> Iterator[tuple[str, Change]]:
    target = node.targets[0]
    is_number = isinstance(node.value, ast.Constant | ast.BinOp) and all(
        isinstance(each.value, int) and not isinstance(each.value, bool) for each in ast.walk(node.value) if isinstance(each, ast.Constant)
    )
    if not _in_function(node) and isinstance(target, ast.Name) and target.id.lstrip("_").startswith(("MAX", "LARGEST")) and is_number:
        yield f"no limit: {target.id}", _set("value", ast.Constant(value=WITHOUT_END))


def _of_call(node: ast.Call) -> Iterator[tuple[str, Change]]:
    if any(isinstance(each, ast.ClassDef) for each in [getattr(node, "parent", None)]):  # a decorator
        return
    for position, keyword in enumerate(node.keywords):
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):

            def flip(changed: ast.AST, position: int = position) -> None:
                assert isinstance(changed, ast.Call)
                value = changed.keywords[position].value
                assert isinstance(value, ast.Constant)
                value.value = not value.value

            yield f"not {keyword.arg}={keyword.value.value}: {_short(node)}", flip


def _of_attribute(node: ast.Attribute) -> Iterator[tuple[str, Change]]:
    if node.attr == "fullmatch":
        yield f"match: {_short(node)}", _set("attr", "match")


def _set(field: str, value: object) -> Change:
    return lambda changed: setattr(changed, field, value)


_BY_KIND: tuple[tuple[type | tuple[type, ...], Callable[..., Iterator[tuple[str, Change]]]], ...] = (
    ((ast.If, ast.IfExp), _of_if),
    (ast.BoolOp, _of_bool_op),
    (ast.Return, _of_return),
    (ast.Raise, _of_raise),
    ((ast.Dict, ast.Set, ast.Tuple, ast.List), _of_collection),
    (ast.Assign, _of_limit),
    (ast.Call, _of_call),
    (ast.Attribute, _of_attribute),
)
