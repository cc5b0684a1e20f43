"""Function calling, the part that is not the model: schemas, parsing, validation, and execution that can be stopped.

A tool is a plain function with types and a docstring. What a model writes is data from a stranger: it is parsed
strictly, checked against the schema, and run only if its name is on a list, in a process of its own with a deadline.
Knows nothing about models or decoding. Nothing here evaluates code or starts a shell.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import operator
import os
import queue
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
import typing
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

Schema = dict[str, Any]
Status = Literal["done", "refused", "failed", "timed out"]

MAX_TEXT = 10_000
"""The most characters of a model's text that are parsed as calls, and of one call's arguments."""

MAX_RESULT = 4_000
"""The most characters of a result, as JSON: it goes into a context that is paid for."""

START_SECONDS = 30.0
"""How long a worker may take to start; a tool's own limit does not count this."""


class ToolError(Exception):
    """An error whose text is meant for the model to read: what was wrong with the call, and what would be right."""


class Call(NamedTuple):
    """One call as a model asks for it: a tool's name, and arguments as JSON values."""

    name: str
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    value: the result, made of JSON values, if it is done; error: what the model is told if it is not.
    detail: the traceback of an unexpected error, for a log. It is not shown to the model: it may hold secrets.
    """

    call: Call
    status: Status
    value: Any = None
    error: str = ""
    detail: str = field(default="", repr=False)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What the model reads: the result as JSON, or an object that says that it is an error."""
        told = self.value if self.status == "done" else {"error": self.error}
        return json.dumps(told, ensure_ascii=False)


# -- schemas ----------------------------------------------------------------------------------------------------

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema(function: Callable[..., Any]) -> Schema:
    """What a model is told of a function: name, description, and a JSON schema of its parameters.

    Types come from the signature (str, int, float, bool, Literal and lists of them), texts from a docstring with a
    block `Args:`. TypeError where a parameter has no type or one that JSON lacks, ValueError where it has no text.
    """
    name = getattr(function, "__name__", "")
    text = inspect.cleandoc(function.__doc__ or "")
    if not text:
        raise ValueError(f"{name} has no docstring: the model chooses a tool by its description")
    description, _, rest = text.partition("\nArgs:\n")
    described = _described(rest.partition("\nReturns:")[0])
    hints = typing.get_type_hints(function)
    properties: Schema = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{name} takes {parameter}; give each parameter a name of its own")
        if parameter.name not in hints:
            raise TypeError(f"{name}: parameter {parameter.name!r} has no type")
        if parameter.name not in described:
            raise ValueError(f"{name}: the docstring's Args block says nothing of {parameter.name!r}")
        hint = _type_schema(hints[parameter.name], f"{name}: parameter {parameter.name!r}")
        properties[parameter.name] = {**hint, "description": described[parameter.name]}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": " ".join(description.split()), "parameters": parameters}


def _described(block: str) -> dict[str, str]:
    """Texts by parameter from the lines of an `Args:` block; a line that is indented further goes on."""
    found: dict[str, str] = {}
    for line in textwrap.dedent(block).splitlines():
        begun = re.match(r"(\w+):(.*)", line)
        if begun:
            found[begun[1]] = begun[2].strip()
        elif found:
            name = list(found)[-1]
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _type_schema(hint: Any, where: str) -> Schema:
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and len({type(value) for value in arguments}) == 1 and type(arguments[0]) in _TYPES:
        return {"type": _TYPES[type(arguments[0])], "enum": list(arguments)}
    if origin is list and len(arguments) == 1:
        return {"type": "array", "items": _type_schema(arguments[0], where)}
    raise TypeError(f"{where} is a {hint}; use str, int, float, bool, a Literal of one type, or a list of these")


def validate(value: Any, schema: Schema, where: str = "arguments") -> list[str]:
    """Everything that is wrong with a JSON value under a schema of the kind `schema` makes; empty if nothing is.

    Stricter than JSON Schema in two points: a property that the schema does not name is wrong, and 3.0 is no integer.
    """
    kind = schema.get("type")
    allowed = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    if kind is not None:
        wanted: Any = allowed[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "boolean"):
            return [f"{where} must be of type {kind}, not {_shown(value)}"]
    if "enum" in schema and not any(value == one and type(value) is type(one) for one in schema["enum"]):
        return [f"{where} must be one of {', '.join(map(repr, schema['enum']))}, not {_shown(value)}"]
    faults: list[str] = []
    if isinstance(value, list):
        for index, item in enumerate(value):
            faults += validate(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        faults += [f"{where}: {name!r} is missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            if name in properties:
                faults += validate(item, properties[name], f"{where}.{name}")
            else:
                faults.append(f"{where}: there is no {_shown(name)}; there is {', '.join(properties) or 'nothing'}")
    return faults


def calls_schema(schemas: Sequence[Schema], most: int | None = None) -> Schema:
    """The JSON schema of a list of calls to these tools: what constrained decoding is given."""
    items = [
        {
            "type": "object",
            "properties": {"name": {"const": one["name"]}, "arguments": one["parameters"]},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in schemas
    ]
    limit = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": {"anyOf": items}, **limit}


def _shown(value: Any) -> str:
    """A value in a message, cut short: an error must not carry a megabyte back into the context."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# -- what a model wrote -------------------------------------------------------------------------------------------


def parse_calls(text: str) -> list[Call]:
    """The calls in a model's text: JSON, an object or a list of objects {"name": ..., "arguments": {...}}.

    In the Hermes manner each may stand between <tool_call> and </tool_call>. ValueError says what is wrong, for a text
    that is no JSON or holds anything besides it, for duplicate keys (two readers of one JSON would read two calls),
    NaN, or other keys.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the text has {len(text)} characters; calls may have {MAX_TEXT}")
    blocks = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    if blocks and re.sub(r"<tool_call>.*?</tool_call>", "", text, flags=re.DOTALL).strip():
        raise ValueError("there is text beside the calls")
    calls: list[Call] = []
    for block in blocks or [text]:
        try:
            value = json.loads(block, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no JSON: {error.msg} at character {error.pos}") from None
        except RecursionError:
            raise ValueError("this JSON is nested too deeply") from None
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict) or set(item) != {"name", "arguments"}:
                raise ValueError(f'a call is {{"name": ..., "arguments": {{...}}}}, not {_shown(item)}')
            if not isinstance(item["name"], str) or not isinstance(item["arguments"], dict):
                raise ValueError("a call's name is a string, and its arguments are an object")
            calls.append(Call(item["name"], item["arguments"]))
    return calls


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {max(keys, key=keys.count)!r} stands twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# -- arithmetic ---------------------------------------------------------------------------------------------------

MAX_EXPRESSION = 200
"""The most characters of an expression."""

MAX_BITS = 1024
"""The most bits of a whole number, on the way too: about 308 digits."""

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def arithmetic(expression: str) -> int | float:
    """The value of an expression of numbers, + - * / // % ** and brackets. ToolError for anything else.

    Python's parser reads it, nothing runs it: a tree of a few kinds of nodes is walked, each with a limit on its size,
    so that `9**9**9` is refused before it is computed.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_EXPRESSION} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError(f"{_shown(expression)} is not an arithmetic expression") from None
    try:
        value = _value(tree.body)
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError("the result is too large") from None
    return value


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _limited(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b = _value(left), _value(right)
            if isinstance(op, ast.Pow) and isinstance(a, int) and a.bit_length() * abs(b) > MAX_BITS:
                raise ToolError("the power is too large")
            return _limited(_OPERATORS[type(op)](a, b))
    raise ToolError(f"{type(node).__name__} is not allowed: numbers, + - * / // % ** and brackets only")


def _limited(value: Any) -> int | float:
    if isinstance(value, complex):
        raise ToolError("the result is not a real number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("the result is too large")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError("the result is too large")
    return typing.cast("int | float", value)


# -- execution ----------------------------------------------------------------------------------------------------


class Toolbox:
    """Functions that may be called, and nothing else; each call runs in a worker process, with a deadline.

    A thread that hangs cannot be stopped from outside, and a crash in it takes the program along. A process can be
    killed. Requests and results cross as JSON text, never as pickles, which can carry code. Functions must stand in a
    module that can be imported by name, since that is how the worker finds them.

    functions: the allow-list. seconds: the deadline of one call. environment: what the workers see, besides paths.
    consent: asked before each call of a tool named in `sensitive` (one that changes something); False refuses.
    """

    def __init__(
        self,
        functions: Iterable[Callable[..., Any]],
        seconds: float = 2.0,
        *,
        environment: Mapping[str, str] | None = None,
        sensitive: Collection[str] = (),
        consent: Callable[[Call], bool] | None = None,
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"the deadline is {seconds} s; it must be positive")
        self.seconds = seconds
        self.schemas: list[Schema] = []
        self._places: dict[str, str] = {}
        for function in functions:
            name, module = getattr(function, "__name__", "?"), getattr(function, "__module__", "__main__")
            found = getattr(sys.modules.get(module), name, None)
            if module == "__main__" or not isinstance(function, types.FunctionType) or found is not function:
                raise ValueError(f"{name} must be a function of a module: its worker imports it by name")
            if name in self._places:
                raise ValueError(f"two tools are called {name!r}")
            self.schemas.append(schema(function))
            self._places[name] = module
        unknown = set(sensitive) - set(self._places)
        if not self._places or unknown:
            raise ValueError(f"no tool is called {min(unknown)!r}" if unknown else "give at least one function")
        self._sensitive, self._consent = frozenset(sensitive), consent
        self._environment = dict(environment or {})
        self._idle: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _stop_all, self._idle)

    @property
    def names(self) -> list[str]:
        """The allow-list."""
        return list(self._places)

    def parameters(self, name: str) -> Schema:
        """The schema of a tool's parameters. KeyError for a name that is not on the list."""
        return next(one["parameters"] for one in self.schemas if one["name"] == name)

    def check(self, call: Call) -> str:
        """Why a call is refused before anything runs; empty if it is not."""
        if call.name not in self._places:
            return f"no tool is called {_shown(call.name)}; there are: {', '.join(self.names)}"
        try:
            size = len(json.dumps(call.arguments, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            return "the arguments are not JSON"
        if size > MAX_TEXT:
            return f"the arguments have {size} characters; at most {MAX_TEXT} are allowed"
        return "; ".join(validate(call.arguments, self.parameters(call.name)))

    def run(self, call: Call) -> Outcome:
        """Run one call, or say why not. Never raises for what the call holds or what the tool does."""
        fault = self.check(call)
        if fault:
            return Outcome(call, "refused", error=fault)
        if call.name in self._sensitive and not (self._consent and self._consent(call)):
            return Outcome(call, "refused", error=f"{call.name} needs the user's consent, which was not given")
        worker = self._idle.pop() if self._idle else _Worker(self._environment)
        outcome = worker.run(self._places[call.name], call, self.seconds)
        if worker.alive:
            self._idle.append(worker)
        return outcome

    def run_all(self, calls: Sequence[Call]) -> list[Outcome]:
        """Run independent calls at the same time, each in its own process; outcomes in the order of the calls."""
        if not calls:
            return []
        with ThreadPoolExecutor(max_workers=min(len(calls), 8)) as pool:
            return list(pool.map(self.run, calls))

    def close(self) -> None:
        """Stop the workers."""
        _stop_all(self._idle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stop_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().stop()


class _Worker:
    """A process that runs one call at a time, one line of JSON in, one line out."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from alignlab.tools import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**inherited, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._started = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(4 * MAX_RESULT + 10_000):
            self._lines.put(line)
        self._lines.put("")

    def run(self, module: str, call: Call, seconds: float) -> Outcome:
        assert self._process.stdin is not None
        begun = time.perf_counter()
        request = {"module": module, "name": call.name, "arguments": call.arguments, "seconds": seconds}
        try:
            if not self._started:  # importing takes its time, which is not the tool's
                self._started = self._lines.get(timeout=START_SECONDS) == "ready\n"
                begun = time.perf_counter()
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._lines.get(timeout=seconds))
        except queue.Empty:
            self.stop()
            told = f"{call.name} did not finish within {seconds:g} s and was stopped"
            return Outcome(call, "timed out", error=told, seconds=time.perf_counter() - begun)
        except (OSError, ValueError):  # the pipe broke, or what came through it is no JSON
            self.stop()
            told = f"{call.name} ended its process without a result"
            return Outcome(call, "failed", error=told, seconds=time.perf_counter() - begun)
        spent = time.perf_counter() - begun
        if "error" in answer:
            return Outcome(call, "failed", error=answer["error"], detail=answer["detail"], seconds=spent)
        return Outcome(call, "done", value=answer["value"], seconds=spent)

    def stop(self) -> None:
        """Kill the process and wait for its end, so that none is left behind."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be written to a process that is gone
                    pass


def _serve() -> None:
    """The worker's loop. Tools see empty input, and what they print is dropped: the pipes are not theirs."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    _limit_memory()
    answers.write("ready\n")
    answers.flush()
    for line in requests:
        request = json.loads(line)
        _alarm(request["seconds"] + 1)  # should the parent be gone, nobody else would stop a tool that hangs
        answers.write(_answer(request) + "\n")
        answers.flush()
        _alarm(0)


def _answer(request: dict[str, Any]) -> str:
    import traceback

    name = request["name"]
    try:
        function = getattr(importlib.import_module(request["module"]), name)
        value = json.dumps({"value": function(**request["arguments"])}, allow_nan=False)
        if len(value) > MAX_RESULT:
            raise ToolError(f"the result has {len(value)} characters; at most {MAX_RESULT} are allowed")
        return value
    except ToolError as error:
        told = str(error)
    except Exception as error:
        told = f"{name} failed with {type(error).__name__}"
        return json.dumps({"error": told, "detail": traceback.format_exc()[-MAX_RESULT:]})
    return json.dumps({"error": told[:MAX_RESULT], "detail": ""})


def _alarm(seconds: float) -> None:
    """End this process after so many seconds by the system's own alarm, where there is one; 0 takes it back."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(gigabytes: float = 1.0) -> None:
    """A ceiling on this process's address space, where the system has one (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    try:
        size = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (OSError, ValueError):  # macOS refuses
        pass
