"""Classification of images."""

from blockzoo.tasks.core.classification import Classification

__all__ = ["ImageClassification"]


class ImageClassification(Classification):
    """Task that classifies images by cross entropy, optionally with a teacher; see `Classification` for all options."""
