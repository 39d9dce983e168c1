"""Measure the model and register it with the database."""

from shared.database import Pool
from shared.embedding import LocalModel, OpenAIModel
from shared.errors import ProviderUnavailable
from shared.intake import ensure_model
from shared.models import find_model


async def register_model(pool: Pool, model: LocalModel | OpenAIModel) -> int:
    """Return the id of the model, which is asked how long its vectors are.

    A server that is silent holds up no process whose database knows the model: each answer is checked against it. A length
    that is news counts when it is given twice: one bad answer must neither be registered for ever nor end the process.

    Raises: ConfigError when the database was filled with another model, or with vectors of another length;
        ProviderUnavailable when the server is silent, or gives now this length and now that, and the model is new.
    """
    known = await find_model(pool, model.name)
    try:
        model.dimension = await _measured(model, known.dimension if known else None)
    except ProviderUnavailable:
        if known is None:
            raise
        model.dimension = known.dimension
    return await ensure_model(pool, model.name, model.dimension)


async def _measured(model: LocalModel | OpenAIModel, expected: int | None) -> int:
    """Return how long a model's vectors are.

    Raises: ProviderUnavailable when the server is silent, or gives now this length and now that.
    """
    dimension = await model.probe()
    if dimension != expected and await model.probe() != dimension:
        raise ProviderUnavailable(f"{model.name} gave vectors of different lengths for one text: look at its server")
    return dimension
