"""Writes the pickle of every torch file of the corpus into a folder, as seeds for the target `pickle`."""

import sys
import zipfile
from pathlib import Path

corpus = Path(__file__).resolve().parents[1] / "tests/data/torch"
target = Path(sys.argv[1])
target.mkdir(parents=True, exist_ok=True)
for path in sorted(corpus.glob("*/*.bin")):
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            (target / f"{path.parent.name}-{path.stem}").write_bytes(archive.read(name))
