"""Errors by disposition: the class decides what happens to the work. The docstring is the default message."""


class AskboxError(Exception):
    """Something went wrong in askbox."""

    code = "internal"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigError(AskboxError):
    """A setting is wrong: correct it and start again."""

    code = "config"


class RetryableError(AskboxError):
    """Charged to the job: tried again later, buried after its last attempt."""

    code = "retryable"


class DatabaseUnavailable(RetryableError):
    """The database cannot be reached now: start it, or correct ASKBOX_DATABASE_URL."""

    code = "database_unavailable"


class Unavailable(RetryableError):
    """Something is not there now. Charged to no job: the worker backs off, for `retry_after` seconds if that is known."""

    code = "unavailable"

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderUnavailable(Unavailable):
    """A model is not available now; the provider may say for how long."""

    code = "provider_unavailable"


class ScratchUnavailable(Unavailable):
    """No temporary file can be written: free some space, or set TMPDIR to a folder that has some."""

    code = "scratch_unavailable"


class TooBusy(RetryableError):
    """As many questions as ASKBOX_QUERY_CONCURRENCY lets in are being worked on, and others wait: ask again in a moment."""

    code = "too_busy"


class PermanentError(AskboxError):
    """Trying again cannot help: the job is buried at once."""

    code = "permanent"


class UnsupportedFormat(PermanentError):
    """No parser reads this kind of file. Convert it to PDF, DOCX, HTML, Markdown or plain text."""

    code = "unsupported_format"


class CorruptFile(PermanentError):
    """The file cannot be read as what it claims to be. Open and save it again in the program that made it."""

    code = "corrupt_file"


class EncryptedFile(PermanentError):
    """The file is locked with a password. Save it without a password, then drop it again."""

    code = "encrypted_file"


class NeedsOcr(PermanentError):
    """The file holds pictures of pages and no text. Run OCR on it first, then drop the result."""

    code = "needs_ocr"


class EmptyDocument(PermanentError):
    """The file holds no text."""

    code = "empty_document"


class ParserLimit(PermanentError):
    """The parser went over its limit of time, memory or output. Split the file."""

    code = "parser_limit"


class FileTooLarge(PermanentError):
    """The file is larger than ASKBOX_MAX_FILE_BYTES. Split it, or raise the setting."""

    code = "file_too_large"


class RejectedText(PermanentError):
    """The model does not take this text, or gave no usable vector for it."""

    code = "rejected_text"


class IndexTooSlow(PermanentError):
    """The index could not be built in time. Raise ASKBOX_LEASE_DEADLINE_SECONDS, or ASKBOX_INDEX_MEMORY_BYTES when memory was short."""

    code = "index_too_slow"


class LeaseLost(AskboxError):
    """The lease of this batch is gone: drop the result, write nothing."""

    code = "lease_lost"


class RequestError(AskboxError):
    """The request is wrong: the caller has to change it."""

    code = "bad_request"
    status = 400


class RejectedQuestion(RequestError):
    """The model does not take this question: word it differently, or ask less at once."""

    code = "rejected_question"
    status = 422


class Unauthorized(RequestError):
    """This needs a key: send it as `Authorization: Bearer KEY`; `askbox keys create` makes one."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """This key may not do this."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is no such thing, or it is not yours to see."""

    code = "not_found"
    status = 404


class Conflict(RequestError):
    """The request does not fit to what there is now."""

    code = "conflict"
    status = 409


class BodyTooLarge(RequestError):
    """The body is larger than this server takes: send less at a time."""

    code = "body_too_large"
    status = 413


class UnsupportedBody(RequestError):
    """The body is of another kind than this route takes."""

    code = "unsupported_body"
    status = 415


class UploadStalled(RequestError):
    """The body did not arrive in time: send it again."""

    code = "upload_stalled"
    status = 408
