"""Which extra of the package installs what: `c2fvl` alone predicts, everything else is an extra. No torch."""

PACKAGES = {
    "train": ("torch", "accelerate", "huggingface_hub", "jinja2", "matplotlib", "scipy", "tensorboard"),
    "onnx": ("onnx", "onnx_ir", "onnxscript"),
    "dicom": ("pydicom", "highdicom"),
    "dicomweb": ("requests",),
    "nifti": ("nibabel",),
    "ray": ("ray", "pyarrow"),
    "serve": ("starlette", "uvicorn", "python_multipart"),
    "text": ("transformers",),
}
"""What each extra installs, by the names that are imported."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what to install where a package was not found; None for a package that no extra installs."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in PACKAGES.items() if package in packages), None)
    return None if extra is None else f"this needs {package}, which is not installed: pip install 'c2fvl[{extra}]'"
