"""Cases on disk to batches; the check of a data set; synthetic images."""
