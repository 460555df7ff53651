"""Where the files of a data set are."""

import os
from pathlib import Path


def find_files(root, name, hint, *layouts):
    """Return the paths of the first layout (a list of relative paths) that is complete."""
    folder = Path(os.environ.get("NOISYFIT_DATA", "data") if root is None else root).expanduser()
    missing = []
    for layout in layouts:
        absent = [file for file in layout if not (folder / file).is_file()]
        if not absent:
            return [folder / file for file in layout]
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        missing.append(absent[0] + others)
    raise FileNotFoundError(
        f"No {name} in {str(folder.absolute())!r}: missing {', or else '.join(missing)}; {hint}."
    )
