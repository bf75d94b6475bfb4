"""A function called in a process of its own, which keeps what it has done when it is stopped.

Unlike a `benchmarks.sides.Side` it is called once, talks, and may work for hours.
"""

import ctypes
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1
"""Of man 2 prctl: it is asked to stop when its parent has ended, however that was."""


def apart(function: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """What a function of a module returns there; all that goes in and out is pickled.

    Whatever ends this process asks the other one to stop, and waits until it has saved its state.

    Raises:
        RuntimeError: the function failed; the message is the error's, or its traceback.
    """
    # A forked process would inherit this one's threads' locks, but not the threads.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_call, args=(theirs, function, arguments, named))
    process.start()
    theirs.close()
    try:
        found, told = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"{function.__name__} ended with exit code {process.exitcode}; -9 means that the "
            "machine ran out of memory"
        ) from None
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
    if told is not None:
        raise RuntimeError(told)
    result: _T = found
    return result


def _call(
    pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], named: Any
) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from engine.command import error_line, start_logging
    from engine.interrupts import Stopped, heed_once, heeded

    start_logging()
    heed_once(quietly=True)  # Ctrl-C comes to both, and the other one passes it on
    try:
        with heeded():
            pipe.send((function(*arguments, **named), None))
    except Stopped:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process reports it
        told = error_line(error)
        pipe.send((None, told.removeprefix("error: ") if told else traceback.format_exc()))
