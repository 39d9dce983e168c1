"""Measure the model and register it with the database."""

from shared.database import Pool
from shared.embedding import LocalModel, OpenAIModel
from shared.errors import ProviderUnavailable
from shared.intake import ensure_model
from shared.models import find_model


async def register_model(pool: Pool, model: LocalModel | OpenAIModel) -> int:
    """Return the id of the model, which is asked once how long its vectors are.

    A server that is silent holds up no process whose database knows the model: each answer is checked against it.

    Raises: ConfigError when the database was filled with another model, or with vectors of another length;
        ProviderUnavailable when the server is silent and the model new.
    """
    known = await find_model(pool, model.name)
    try:
        dimension = await model.probe()
    except ProviderUnavailable:
        if known is None:
            raise
        dimension = known.dimension
    model.dimension = dimension
    return await ensure_model(pool, model.name, dimension)
