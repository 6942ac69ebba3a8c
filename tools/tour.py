"""Run the notebook of the documentation, examples/tour.ipynb, and keep its outputs in it.

    python -m tools.tour

Needs the extra `docs`. Warnings, progress bars and version numbers of the run are left out, so that
the file changes only where what it shows does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tour.ipynb"


def run(path: Path = NOTEBOOK) -> Any:
    """The notebook, executed from its first cell to its last.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", coalesce_streams=True)
    client.execute(cwd=str(path.parent))
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def texts(notebook: Any) -> list[str]:
    """What the cells print, in order; not their pictures."""
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", [])]
    return [x["text"] for x in outputs if x["output_type"] == "stream"]


if __name__ == "__main__":
    nbformat.write(run(), NOTEBOOK)
