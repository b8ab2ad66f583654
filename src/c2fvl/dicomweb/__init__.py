"""A DICOMweb archive at the other end: search for images, predict them, send results back."""
