"""The reader of radiologists' sentences."""
