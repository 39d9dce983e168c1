"""Every safeguard, and how the product looks without it."""

from tests.crash.safeguards import intake, models, publication, questions, queue, walls

MUTANTS = (
    *queue.MUTANTS,
    *publication.MUTANTS,
    *intake.MUTANTS,
    *models.MUTANTS,
    *questions.MUTANTS,
    *walls.MUTANTS,
)
