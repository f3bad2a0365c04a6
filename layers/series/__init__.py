"""Time series: periods, embeddings, normalisation."""
