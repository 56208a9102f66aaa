"""The child process in which CASA runs: `python -m dsa110_assets.engines.casa_child REQUEST ANSWER`.

Reads {"task", "parameters"} from REQUEST and writes {"error", "error_kind", "value"} to ANSWER.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def _plain(value: Any) -> Any:
    """`value` with numpy arrays and scalars converted to types that JSON can hold (complex: [real, imaginary])."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, complex):
        return [value.real, value.imag]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _run(task: str, parameters: dict[str, Any]) -> dict[str, Any]:
    import casatasks

    function = getattr(casatasks, task, None)
    if not callable(function):
        return {"error": task, "error_kind": "unknown task", "value": {}}
    try:
        value = function(**parameters)
    except Exception as error:  # noqa: BLE001  process boundary: whatever CASA raised goes back as text
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "error_kind": "raised", "value": {}}
    if value is False:
        return {"error": "returned False", "error_kind": "refused", "value": {}}
    plain = _plain(value)
    answer = plain if isinstance(plain, dict) else {"returned": plain}
    return {"error": None, "error_kind": "", "value": answer}


def main(request: Path, answer: Path) -> None:
    """Run the requested task and write its answer."""
    # end when the parent dies without cleaning up (SIGKILL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    requested = json.loads(request.read_text())
    result = _run(requested["task"], requested["parameters"])
    answer.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
