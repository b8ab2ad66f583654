"""Trained weights as files: model folders, the hub, official checkpoints."""
