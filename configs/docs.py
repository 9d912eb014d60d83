"""Documentation of all settings, written by the models themselves."""

from __future__ import annotations

from phalanx.configs.catalogue import Catalogue, published_settings
from phalanx.configs.describe import KeyTree, allowed
from phalanx.configs.search_settings import SearchSettings
from phalanx.configs.settings import RunSettings

_HEAD = "| key | value | default | meaning |\n| --- | --- | --- | --- |"
_NAMED = ("env", "algorithm")


def settings_docs(catalogue: Catalogue) -> str:
    """Markdown: a table of every key of a run (each section, each environment, each algorithm) and of a search."""
    parts = [
        "# Settings",
        "Of a run file, or `key=value` on the command line. `required` stands where there is no default.",
        "## Run",
        _table(KeyTree(RunSettings), skip=_NAMED),
    ]
    for name in catalogue.env_names:
        env = catalogue.env(name)
        parts += [f"## env.name={name}", _table(KeyTree(RunSettings, {"env": env}), "env")]
    for name in catalogue.algorithm_names:
        algorithm = catalogue.algorithm(name)
        published = published_settings(name).values_below(("algorithm",))
        tree = KeyTree(RunSettings, {"algorithm": algorithm}, published)
        parts += [f"## algorithm.name={name}", _table(tree, "algorithm")]
    parts += ["## Search", "Of a search file.", _table(KeyTree(SearchSettings))]
    return "\n\n".join(parts) + "\n"


def _table(tree: KeyTree, section: str | None = None, skip: tuple[str, ...] = ()) -> str:
    """All keys of the tree, or those of a section without its name, which the heading says."""
    rows = [_HEAD]
    for path, declared in tree.leaves(() if section is None else (section,)):
        if path[0] in skip or path == (section, "name"):
            continue
        default = tree.default_words(path)
        cells = [
            f"`{'.'.join(path)}`",
            allowed(declared),
            "required" if default is None else f"`{default}`",
            " ".join((declared.description or "").split()),
        ]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)
