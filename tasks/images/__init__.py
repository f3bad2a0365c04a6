"""Images: classification, folders of images, small data sets, evaluation and benchmarks."""
