"""What the checks in Python share."""

import asyncio
import inspect
import sys
import traceback

ROWS = 20000
_checks = []


def check(function):
    _checks.append(function)
    return function


def run(driver):
    """Runs them all; prints one line for each."""
    failed = 0
    for function in _checks:
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(asyncio.wait_for(result, 120))
            print(f"ok      {driver} {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {driver} {function.__name__}", flush=True)
            traceback.print_exc()
    sys.exit(failed > 0)
