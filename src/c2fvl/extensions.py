"""Networks and losses of the user's own, which settings name as "package.module:Name". No torch.

Settings come with every model folder, so a name alone runs nothing: its module must have been imported before, by the
user's own program or by `import_extension`, which is called for names that the user gave: in the settings of a new
training, on the command line, or with `--allow-code`.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from c2fvl.messages import nearest_names

_WORD = r"[A-Za-z_]\w*"
_MODULE = rf"{_WORD}(?:\.{_WORD})*"
_EXTENSION = re.compile(rf"{_MODULE}:{_WORD}", re.ASCII)
_used: set[str] = set()


def is_extension(name: str) -> bool:
    """Tell whether a name of a network or of a loss has the form "package.module:Name"."""
    return _EXTENSION.fullmatch(name) is not None


def import_extension(name: str) -> None:
    """Import the module of "package.module:Name" or "package.module", which runs its code.

    Only for a name that the user gave, never for one from a model folder. The current folder is searched last. Raises
    `ValueError` for a module that is not there; what the module itself raises is passed on.
    """
    module = name.partition(":")[0]
    if not re.fullmatch(_MODULE, module, re.ASCII):
        raise ValueError(f"{name!r} is not the name of a module; expected package.module")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ValueError(
            f"there is no module {module}: install it, or put its folder on PYTHONPATH or run the command there"
        ) from error
    _used.add(module)


def find_extension(name: str) -> Any:
    """Return the object "package.module:Name" of a module that was imported before; this function imports nothing.

    Raises `ValueError` for a module that was not imported, saying how to allow it, for a name that is not in it, and
    for an object that another package or Python itself brought into it.
    """
    module, _, attribute = name.partition(":")
    imported = sys.modules.get(module)
    if imported is None:
        raise ValueError(
            f"the settings name code of your own, {name}, and no code is run because a file names it. If you trust "
            f"this code, add --allow-code {module} to the command, or `import {module}` in your program first"
        )
    content = vars(imported)  # no getattr, which may run code of the module
    if attribute not in content:
        names = [key for key in content if not key.startswith("_")]
        raise ValueError(f"the module {module} has no {attribute!r}{nearest_names(attribute, names)}")
    package = module.partition(".")[0]
    made_in = str(getattr(content[attribute], "__module__", "")).partition(".")[0]
    if made_in != package or package in sys.stdlib_module_names - {"__main__"}:
        raise ValueError(f"{name} was not written in {package} but in {made_in or 'no module'}; name your own code")
    _used.add(module)
    return content[attribute]


def used_modules() -> tuple[str, ...]:
    """Return the modules that the user allowed or that were used; a new process must import them again."""
    return tuple(sorted(_used))
