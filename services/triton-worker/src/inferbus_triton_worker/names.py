"""Names: what a model is called inside the server. Only those the directory has for this pool can be asked at all: what else the
server has loaded, such as the parts of an ensemble, is nobody's to call."""

from __future__ import annotations

from inferbus.errors import NotFound
from inferbus.models import ModelRegistry


class PoolNames:
    """Looks names up in the watched copy of the directory."""

    def __init__(self, models: ModelRegistry, *, runtime: str, pool: str) -> None:
        self._models = models
        self._runtime = runtime
        self._pool = pool

    def __call__(self, model: str) -> str:
        """Give the server's name of a model.

        Raises:
            NotFound: it is not one of this pool's.
        """
        entry = self._models.resolve(model)
        if entry is None or (entry.runtime, entry.pool) != (self._runtime, self._pool):
            raise NotFound(f"The model `{model}` is not served here.", param="model")
        return entry.server_name or entry.name
