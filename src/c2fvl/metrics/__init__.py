"""Arrays to numbers: scores of a case, intervals, calibration. No torch."""
