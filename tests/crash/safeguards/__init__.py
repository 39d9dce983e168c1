"""Every safeguard, and how the product looks without it."""

from tests.crash.safeguards import (
    attachments,
    conversations,
    events,
    intake,
    models,
    parsing,
    processes,
    publication,
    questions,
    queue,
    receiving,
    staging,
    texts,
    uploads,
    walls,
    watching,
)

MUTANTS = (
    *queue.MUTANTS,
    *publication.MUTANTS,
    *staging.MUTANTS,
    *intake.MUTANTS,
    *events.MUTANTS,
    *attachments.MUTANTS,
    *models.MUTANTS,
    *questions.MUTANTS,
    *conversations.MUTANTS,
    *watching.MUTANTS,
    *parsing.MUTANTS,
    *texts.MUTANTS,
    *walls.MUTANTS,
    *processes.MUTANTS,
    *uploads.MUTANTS,
    *receiving.MUTANTS,
)
