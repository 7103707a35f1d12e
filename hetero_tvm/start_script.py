"""The script that starts a deployed model: plain shell, for whatever shell the device has."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from hetero_tvm.device_libraries import Library
from hetero_tvm.device_store import StoredFile


def start_script(
    libraries: Sequence[tuple[Library, StoredFile]],
    artefact: StoredFile,
    inputs: Sequence[StoredFile],
    environment: Mapping[str, str],
    prompt: Sequence[int] | None = None,
) -> str:
    """`run [--repeat N] [--save FOLDER] [--input FILE.npy]…`; `run serve` for a caller elsewhere.

    Of a language model `run [--ids 1,2,3] [--max-new-tokens N]`.

    Args:
        libraries: the program first.
        artefact: the model.
        inputs: for a run that is given none, in the model's order.
        environment: variables for the program.
        prompt: of a language model, for a run that is given none; None: it is no such model.
    """
    program = libraries[0][1]
    folders = ":".join(f"$store/{file.sha256}" for _, file in libraries[1:])
    settings = [
        f'--set "{library.setting}=$store/{file.sha256}/{file.name}"'
        for library, file in libraries
        if library.setting
    ]
    settings += [
        f'--load "$store/{file.sha256}/{file.name}"' for library, file in libraries if library.load
    ]
    given = " ".join(f'--input "$store/{file.sha256}/{file.name}"' for file in inputs)
    does, flag, usage = "run", "--input", "[--repeat N] [--save FOLDER] [--input FILE.npy ...]"
    if prompt is not None:
        given = f"--ids {','.join(map(str, prompt))}" if prompt else ""
        does, flag, usage = "generate", "--ids", "[--ids 1,2,3] [--max-new-tokens N]"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    start = " ".join(['exec "$program"', *settings])
    return "\n".join(
        [
            "#!/bin/sh",
            "# Written by `hetero-tvm deploy`; take it away with `hetero-tvm deploy --remove`.",
            f"# Runs the model: run {usage}",
            'root=$(cd "$(dirname "$0")/../.." && pwd) || exit 4',
            "store=$root/store",
            f'program="$store/{program.sha256}/{program.name}"',
            f'model="$store/{artefact.sha256}/{artefact.name}"',
            *exports,
            # The DSP's side of the NPU's libraries is looked up by the first.
            f'export ADSP_LIBRARY_PATH="{folders.replace(":", ";")}"',
            f'export LD_LIBRARY_PATH="{folders}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
            'export HETERO_CACHE_DIR="${HETERO_CACHE_DIR:-$root/cache}"',
            # A device that accepts only signed artefacts has the file; the program refuses others.
            '[ ! -e "$root/trusted_keys" ] || export HETERO_TRUSTED_KEYS="$root/trusted_keys"',
            'for file in "$program" "$model"; do',
            '  [ -f "$file" ] || { echo "hetero_device: error: $file is gone; deploy again" >&2; '
            "exit 3; }",
            "done",
            f'if [ "${{1:-}}" = serve ]; then {start} serve; fi',
            f'case " $* " in *" {flag} "*) ;; *) set -- "$@" {given} ;; esac'
            if given
            else ": # no inputs",
            f'{start} {does} "$model" "$@"',
            "",
        ]
    )
