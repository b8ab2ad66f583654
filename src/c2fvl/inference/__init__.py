"""A trained network on images: Predictor, folders, export."""
