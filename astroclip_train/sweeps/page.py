from pathlib import Path
def write_page(folder, out=None):
    return Path(out or Path(folder)/"sweep.html")
