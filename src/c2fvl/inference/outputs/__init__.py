"""Results as clinical files: DICOM segmentation, overlay image, structured report, NIfTI and NRRD.

Every function takes plain arguments and returns a dataset or bytes; nothing here writes a file. pydicom, highdicom and
nibabel are imported when a function needs them.
"""
