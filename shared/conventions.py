"""Names of spans, attributes and metrics. What OpenTelemetry's conventions name keeps their name, the rest is `askbox.…`.

Values are identifiers, counts and names that an operator chose: never the text of a document or question, never a key.
"""

from typing import Final

# Spans of a file, in the order of its way.
FILE_APPEARED: Final = "file appeared"
PARSE: Final = "parse"
STAGE_CHUNKS: Final = "stage chunks"
EMBED_TEXTS: Final = "embed texts"
PUBLISH: Final = "publish"
# Spans of a question.
ANSWER_QUESTION: Final = "answer question"

# Messaging: a job is a message, a stage its destination.
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"
POSTGRESQL: Final = "postgresql"

# Generative models.
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_MODEL: Final = "gen_ai.request.model"
GEN_AI_STREAM: Final = "gen_ai.request.stream"
GEN_AI_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_DATA_SOURCE: Final = "gen_ai.data_source.id"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
OPENAI: Final = "openai"
OPENAI_PREFIX: Final = "openai:"
IN_PROCESS: Final = "sentence_transformers"

# What is ours.
ERROR_TYPE: Final = "error.type"
ATTEMPT: Final = "askbox.job.attempt"
JOBS: Final = "askbox.jobs"
COLLECTION_ID: Final = "askbox.collection.id"
DOCUMENT_ID: Final = "askbox.document.id"
VERSION_ID: Final = "askbox.version.id"
SOURCE_URI: Final = "askbox.source.uri"
FILE_BYTES: Final = "askbox.file.bytes"
MEDIA_TYPE: Final = "askbox.media_type"
CHUNKS: Final = "askbox.chunks"
TEXTS: Final = "askbox.texts"
CHUNKS_INSERTED: Final = "askbox.chunks.inserted"
CHUNKS_DELETED: Final = "askbox.chunks.deleted"
COLLECTIONS: Final = "askbox.collections"
HITS: Final = "askbox.hits"
ANSWERED: Final = "askbox.answered"
CONFIDENCE: Final = "askbox.confidence"
