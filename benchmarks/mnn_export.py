"""A Hugging Face folder in MNN's form, 4 bits in blocks of 32.

    PYTHON benchmarks/mnn_export.py FOLDER OUT

runs in the Python that has MNN and llmexport (`llm_peers.py`). MNN's converter would install a
package and post usage data to its makers; here it cannot.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Export, as llmexport's own command does."""
    source, out = (Path(argument).resolve() for argument in sys.argv[1:])
    sys.modules["MNN.tools.utils.log"] = None  # type: ignore[assignment]  # what would post
    spec = importlib.util.find_spec("llmexport")
    if spec is None or spec.origin is None:
        raise RuntimeError("no llmexport here: pip install MNN llmexport")
    home = Path(spec.origin).parent
    # Its modules name each other by its folder's names; ours here are called as packages are.
    sys.path[0] = str(home)
    with tempfile.TemporaryDirectory() as scratch:
        for file in source.iterdir():
            (Path(scratch) / file.name).symlink_to(file)
        # It reads the rotary base where transformers 4 wrote it, and takes 10000 where it is not.
        config = json.loads((source / "config.json").read_text())
        config |= config.get("rope_parameters", {})
        (Path(scratch) / "config.json").unlink()
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        flags = ["--export", "mnn", "--quant_bit", "4", "--quant_block", "32"]
        sys.argv[1:] = ["--path", scratch, "--dst_path", str(out), *flags]
        runpy.run_path(str(home / "llmexport.py"), run_name="llmexport_main")["main"]()


if __name__ == "__main__":
    main()
