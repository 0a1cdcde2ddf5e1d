"""MONAI Label's requests in threads: all of its own functions would block the server until they return."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    infer,
    info,
    login,
    logs,
    model,
    ohif,
    scoring,
    session,
    train,
)
from starlette.concurrency import run_in_threadpool

__all__ = ["answer_in_threads"]

_Endpoint = Callable[..., Coroutine[Any, Any, Any]]

#: inference has a single thread, whatever the model, so that two images never need the memory at once; requests that
#: wait for it take no thread from the others
_INFERENCE = ThreadPoolExecutor(1, thread_name_prefix="inference")


def answer_in_threads() -> None:
    """Run each request in a thread, so that none waits until another has been answered; inference runs one at a time.

    MONAI Label includes its routers when it is imported, and FastAPI reads them at the first request.
    """
    for module in (activelearning, batch_infer, datastore, info, login, logs, model, ohif, scoring, session, train):
        _move(module.router, None)
    _move(infer.router, _INFERENCE)


def _move(router: APIRouter, executor: Executor | None) -> None:
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    router.routes.clear()
    for route in routes:
        router.add_api_route(
            route.path.removeprefix(router.prefix),
            _in_thread(route.endpoint, executor),
            methods=route.methods,
            response_model=route.response_model,
            summary=route.summary,
            deprecated=route.deprecated,
            include_in_schema=route.include_in_schema,
        )


def _in_thread(endpoint: _Endpoint, executor: Executor | None) -> _Endpoint:
    """An endpoint that runs in a thread of the executor, or of the server; it awaits nothing there."""

    async def answer(**given: Any) -> Any:
        run = partial(_run, endpoint, given)
        if executor is None:
            return await run_in_threadpool(run)
        return await asyncio.get_running_loop().run_in_executor(executor, run)

    answer.__name__, answer.__doc__ = endpoint.__name__, endpoint.__doc__
    answer.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return answer


def _run(endpoint: _Endpoint, given: Mapping[str, Any]) -> Any:
    return asyncio.run(endpoint(**given))
