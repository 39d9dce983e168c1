"""Every safeguard, and how the product looks without it."""

from tests.crash.safeguards import (
    attachments,
    intake,
    models,
    parsing,
    publication,
    questions,
    queue,
    texts,
    uploads,
    walls,
)

MUTANTS = (
    *queue.MUTANTS,
    *publication.MUTANTS,
    *intake.MUTANTS,
    *attachments.MUTANTS,
    *models.MUTANTS,
    *questions.MUTANTS,
    *parsing.MUTANTS,
    *texts.MUTANTS,
    *walls.MUTANTS,
    *uploads.MUTANTS,
)
