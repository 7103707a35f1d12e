"""The process in which chat templates run: a line of JSON in, a line of JSON out.

    {"template": "…", "values": {…}}  ->  {"text": "…"} or {"error": "…"}

Run by its path, so it imports nothing of this project. A template is a program of somebody else:
Jinja's sandbox keeps it from Python, the limits set here from all of the processor and the memory.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import resource
import sys
import time
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def main(seconds: int, memory_bytes: int, most_characters: int) -> None:
    """Serve until there are no more lines; a template that computes for longer ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _answer({"ready": True})
    for line in sys.stdin:
        used = math.ceil(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))
        try:
            request = json.loads(line)
            text = str(_compiled(request["template"]).render(**request["values"]))
            if len(text) > most_characters:
                answer = {"error": f"it writes more than {most_characters} characters"}
            else:
                answer = {"text": text}
        except MemoryError:
            answer = {"error": f"it takes more than {memory_bytes >> 20} MiB of memory"}
        except Exception as error:  # noqa: BLE001 - whatever a template makes Jinja raise
            answer = {"error": str(error)}
        _answer(answer)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


@functools.lru_cache(1)
def _compiled(template: str) -> Any:
    """Jinja as templates on the Hugging Face hub expect it, without access to Python."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None) -> str:
    """As it stands, where Jinja's own would escape it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
