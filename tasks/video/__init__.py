"""Video: classification, clips of files, camera moves, evaluation and benchmarks."""
