"""Classification of images."""

from blockzoo.tasks.core.classification import Classification

__all__ = ["ImageClassification"]


class ImageClassification(Classification):
    """Classify images by cross entropy, and after a teacher if one is given; see `Classification` for all options."""
