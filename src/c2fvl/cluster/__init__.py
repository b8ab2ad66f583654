"""Prediction and scoring on Ray Data: over all processors and GPUs of a machine or of a cluster."""
