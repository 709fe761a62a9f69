"""grpc.health.v1 for a server and its services; unlike with the library's, a watcher who does not read delays nobody.

The contract: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """NOT_SERVING until told otherwise, of all `services` alike."""

    def __init__(self, *services: str) -> None:
        self._services = (health.OVERALL_HEALTH, *services)
        self._status = Response.NOT_SERVING
        self._changed = asyncio.Event()
        self._stopped = False

    def serve(self) -> None:
        """Be SERVING, unless stopped."""
        if not self._stopped:
            self._set(Response.SERVING)

    def stop(self) -> None:
        """Be NOT_SERVING for good."""
        self._stopped = True
        self._set(Response.NOT_SERVING)

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802
        """The status now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Response(status=self._status)

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        """The status of each service now."""
        return health_pb2.HealthListResponse(statuses={each: Response(status=self._status) for each in self._services})

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """The status now, and whenever it changes."""
        told = None
        while True:
            changed = self._changed
            status = self._status if request.service in self._services else Response.SERVICE_UNKNOWN
            if status != told:
                await context.write(Response(status=status))
                told = status
            await changed.wait()

    def _set(self, status: Any) -> None:
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()
