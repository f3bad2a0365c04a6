"""Time series: forecasting, imputation, anomalies, classification, and their data."""
