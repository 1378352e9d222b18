"""What a configuration field is made of: its mark, its types and the base of every section.

A field marked `Identity` decides an artifact's content and so its digest, `Content` is a file or folder
whose bytes do, `Operational` changes how a run works and never what it makes.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationInfo

T = TypeVar("T")


class Mark:
    """How a field bears on an artifact's identity: `identity`, `content` or `operational`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


Identity = Annotated[T, Mark("identity")]
Operational = Annotated[T, Mark("operational")]
Content = Annotated[T, Mark("content")]


def absolute(path: Path, info: ValidationInfo) -> Path:
    """Return a path relative to the configuration file's folder as an absolute one."""
    try:
        home = path.expanduser()
    except RuntimeError:
        raise ValueError("nobody of this name has a home directory here; write the path out") from None
    return Path(os.path.normpath((info.context or {}).get("base", Path.cwd()) / home))


LocalPath = Annotated[Path, AfterValidator(absolute)]
"""A path, relative to the configuration file's folder."""

STORED = "store:"
"""What an import's path begins with: `store:models/NAME` and `store:data/FILE` lie in the run's store."""
IMPORT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@,-]{0,199}")
"""An import's name; it becomes part of object keys and file names."""


def stored_as(path: Path) -> str | None:
    """Return what an import's path names below `imports/` in the store, None for a local path."""
    text = str(path)
    return text.removeprefix(STORED) if text.startswith(STORED) else None


def absolute_or_stored(part: str, path: Path, info: ValidationInfo) -> Path:
    """Return an import's path below `part` ("models" or "data") as it is, a local one as absolute."""
    name = stored_as(path)
    if name is None:
        return absolute(path, info)
    found, _, rest = name.partition("/")
    if found != part or not IMPORT_NAME.fullmatch(rest):
        what = f"expected {STORED}{part}/NAME, as `polaris {part.rstrip('s')} import` names it"
        raise ValueError(f"{what}, with a NAME of letters, digits and ._=+@,-")
    return path


InputPath = Annotated[Path, AfterValidator(partial(absolute_or_stored, "data"))]
"""A file that the run reads: local, relative to the configuration file's folder, or `store:data/FILE`."""
ModelPath = Annotated[Path, AfterValidator(partial(absolute_or_stored, "models"))]
"""A model's folder: local, relative to the configuration file's folder, or `store:models/NAME`."""

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
URL_PATTERN = r"^https?://[^/]"
REPOSITORY_PATTERN = r"^[^@\s]+@[^@\s]+$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATTERNS = {
    NAME_PATTERN: "a name of lower-case letters, digits and inner dashes, 40 at most",
    URL_PATTERN: "a URL that begins with http:// or https://",
    REPOSITORY_PATTERN: "owner/name@revision",
    VARIABLE_PATTERN: "the name of an environment variable, not the key itself",
}
"""What each pattern below asks for, in a user's words."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Lower-case letters, digits and dashes, 40 at most: it becomes part of object keys and pod names."""


class Section(BaseModel):
    """A frozen part of the configuration that knows no unknown key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def without_credentials(url: str | None) -> str | None:
    """Return the URL; raise ValueError if it carries a name or key."""
    _, remote, rest = (url or "").partition("://")
    if remote and "@" in rest.split("/", 1)[0]:
        raise ValueError("a URL must carry no credentials; give them by environment variables")
    if remote and "?" in rest:
        raise ValueError("a URL must carry no query, for it may hold a key; give keys by variables")
    return url
