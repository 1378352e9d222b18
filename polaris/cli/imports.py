"""`polaris model import` and `polaris data import`: a model or files in, imports in a run's store out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polaris.cli.options import ConfigFile

if TYPE_CHECKING:
    from polaris.storage import Store

models = typer.Typer(help="Bring models into a run's store.", no_args_is_help=True)
data = typer.Typer(help="Bring books and prompts into a run's store.", no_args_is_help=True)

_NOTHING = "nothing to do: the store has the same content"

AGAIN_S = 2.0
"""How soon a store that did not answer is asked again, seconds."""

Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for a store that starts.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Put this content in the place of other content.")]


@models.command(
    "import",
    epilog="Examples: `polaris model import ./my-model run.yaml`,"
    " `polaris model import owner/name@REVISION run.yaml`",
)
def import_model(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|OWNER/NAME@REVISION", help="A local folder, or one of the hub.")
    ],
    config: ConfigFile,
    name: Annotated[
        str | None, typer.Option(help="Name in the store (default: the folder's or the repository's).")
    ] = None,
    replace: Replace = False,
    wait: Wait = 0,
) -> None:
    """Copy a model into the store of a run: safetensors, tokenizer and config.json.

    A configuration names it by `path: store:models/NAME`, or by `repo: owner/name@revision` as before.
    """
    import re

    from polaris.errors import ConfigError
    from polaris.fields import REPOSITORY_PATTERN
    from polaris.imports import fetch_repository, is_imported, is_served, model_files, model_name

    store = _store(config, wait)
    folder = Path(source).expanduser()
    of_hub = not folder.is_dir()
    if of_hub and not re.match(REPOSITORY_PATTERN, source):
        raise ConfigError(f"'{source}' is no folder; give one that exists, or owner/name@revision of the hub")
    origin = source if of_hub else folder.resolve().name
    called = model_name(name or origin)
    if of_hub:
        # A revision never changes, and its download may be large.
        if not replace and is_imported(store, called, source):
            print(f"store:{called}: {_NOTHING}")
            return
        folder = fetch_repository(source, "SOURCE")
    files = model_files(folder)
    if of_hub:
        files = {name: path for name, path in files.items() if is_served(name)}
    _put(store, called, files, origin, replace=replace)


@data.command("import", epilog="Example: `polaris data import anthology.epub heldout.jsonl run.yaml`")
def import_data(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Books, prompts.")],
    config: ConfigFile,
    replace: Replace = False,
    wait: Wait = 0,
) -> None:
    """Copy files into the store of a run; a configuration names each `store:data/FILE`."""
    from polaris.errors import ConfigError
    from polaris.imports import data_name

    store = _store(config, wait)
    for file in files:
        if not file.is_file():
            raise ConfigError(f"'{file}' is no file; give one that exists")
    named = [(data_name(file), file) for file in files]
    for name, file in named:
        _put(store, name, {file.name: file}, file.name, replace=replace)


def _store(config: Path, wait_s: float) -> Store:
    """Open the store once it answers; raise TransientError if it does not within `wait_s` seconds."""
    import time

    from polaris.errors import TransientError
    from polaris.load import load
    from polaris.runtime import configure_logging, get_logger
    from polaris.storage import open_store

    configure_logging()
    store = open_store(load(config).store)
    end = time.monotonic() + wait_s
    while True:
        try:
            store.head("imports/MANIFEST.json")
            return store
        except TransientError as error:
            if time.monotonic() > end:
                raise
            get_logger("imports").warning("waiting", reason=str(error), again_in_s=AGAIN_S)
            time.sleep(AGAIN_S)


def _put(store: Store, name: str, files: dict[str, Path], source: str, *, replace: bool) -> None:
    from polaris.imports import put_import

    size = sum(path.stat().st_size for path in files.values()) / 2**20
    changed = put_import(store, name, files, source, replace=replace)
    said = "imported" if changed else _NOTHING
    print(f"store:{name}: {said} ({len(files)} file{'s' * (len(files) != 1)}, {size:,.1f} MiB)")
