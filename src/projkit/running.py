"""What runs on one event loop, and how it ends."""

from typing import TYPE_CHECKING

from projkit.auth.wiring import AuthServices
from projkit.db.port import Database
from projkit.health.check_scheduler import CheckScheduler
from projkit.http.application import Authenticate
from projkit.projects.routes import Services
from projkit.telemetry.history import Sampler
from projkit.validation.wiring import Validations

if TYPE_CHECKING:
    from projkit.redis.connect import RedisClient


class Running:
    """What runs on one event loop."""

    __slots__ = (
        "_redis",
        "_sampler",
        "auth",
        "authenticate",
        "database",
        "health",
        "services",
        "validations",
    )

    def __init__(
        self,
        database: Database,
        services: Services,
        auth: AuthServices,
        authenticate: Authenticate,
        validations: Validations,
        redis: "RedisClient | None",
        health: CheckScheduler,
        sampler: Sampler,
    ) -> None:
        self._sampler = sampler
        self.database = database
        self.services = services
        self.auth = auth
        self.authenticate = authenticate
        self.validations = validations
        self._redis = redis
        self.health = health

    async def close(self) -> None:
        """Closes what was opened; what the host handed in stays open."""
        await self.validations.close()
        await self._sampler.close()
        await self.health.close()
        await self.auth.close()
        if self._redis is not None:
            from projkit.redis.connect import close_redis  # noqa: PLC0415 - there already, where there is a Redis

            await close_redis(self._redis)
        await self.database.close()

    def abandon(self) -> None:
        """Lets go of what was opened on an event loop that has been closed."""
        self.auth.passwords.close()
        self.health.abandon()
        self.database.abandon()
