"""The text of index DDL, the only statements made of numbers: neither a name nor a predicate can be a parameter."""

from dataclasses import dataclass

NUMBER_MAX = 2**31 - 1
# pgvector's HNSW takes halfvecs of up to so many dimensions.
DIMENSION_MAX = 4000
HNSW_M = 16
HNSW_EF_CONSTRUCTION = 64


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """An index of one collection: over the vectors of a model, or over its text when there is no model."""

    collection_id: int
    model_id: int | None
    dimension: int | None
    is_wanted: bool


def index_name(index: SearchIndex) -> str:
    """Name an index by its numbers, as the view `search_index` reads them."""
    if index.model_id is None:
        return f"chunk_tsv_gin_{_number(index.collection_id)}"
    return f"chunk_vector_hnsw_{_number(index.collection_id)}_{_number(index.model_id)}"


def create_statement(index: SearchIndex) -> str:
    """Return the DDL that builds an index beside readers and writers.

    Raises: ValueError when a number is none.
    """
    of_collection = f"collection_id = {_number(index.collection_id)}"
    if index.model_id is None:
        return f"CREATE INDEX CONCURRENTLY {index_name(index)} ON chunk USING gin (tsv) WHERE {of_collection}"
    # Vectors have length 1: the inner product, by which questions order, is the cheapest distance.
    return (
        f"CREATE INDEX CONCURRENTLY {index_name(index)} ON chunk_vector "
        f"USING hnsw ((vector::halfvec({_number(index.dimension, DIMENSION_MAX)})) halfvec_ip_ops) "
        f"WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION}) "
        f"WHERE {of_collection} AND model_id = {_number(index.model_id)}"
    )


def drop_statement(index: SearchIndex) -> str:
    """Return the DDL that drops an index beside readers and writers.

    Raises: ValueError when a number is none.
    """
    return f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(index)}"


def analyze_statement(index: SearchIndex) -> str:
    """Return what tells the planner how large the collections are, and which words are common.

    Vectors have no statistics that it could use, and sorting a sample of them would take a second.
    """
    return (
        "ANALYZE chunk (collection_id, tsv)"
        if index.model_id is None
        else "ANALYZE chunk_vector (collection_id, model_id)"
    )


def _number(value: object, number_max: int = NUMBER_MAX) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= number_max:
        raise ValueError(f"{value!r} is not a whole number from 1 to {number_max}")
    return value
