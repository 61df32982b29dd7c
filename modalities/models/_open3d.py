"""Open3D, imported also on machines without libusb, which it links for cameras that nobody here has."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from importlib import import_module
from typing import Any


@cache
def open3d() -> Any:
    """The open3d module (seconds, the first time). Raises ImportError saying what to install."""
    if ctypes.util.find_library("usb-1.0") is None:
        try:
            library = import_module("libusb_package").get_library_path()
        except ImportError as error:
            raise ImportError(
                "Open3D needs libusb-1.0: pip install libusb-package, or the system's libusb-1.0-0"
            ) from error
        # Global, so that the loader finds these symbols when Open3D's own library asks for libusb-1.0.so.0.
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        return import_module("open3d")
    except ModuleNotFoundError as error:
        raise ImportError("point clouds need Open3D: pip install 'omniloom[build]', or leave out points") from error
