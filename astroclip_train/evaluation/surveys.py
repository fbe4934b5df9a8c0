"""Which surveys a run used, and what a paper that uses them should acknowledge."""

import re
from typing import Any

from .artefacts import RunFiles

__all__ = ["acknowledgements"]

_SURVEYS = {
    "lamost": (
        "LAMOST",
        "spectra of the Guoshoujing Telescope (LAMOST), run by the National Astronomical Observatories of "
        "the Chinese Academy of Sciences",
        "https://www.lamost.org",
    ),
    "gaia": (
        "Gaia",
        "data of the European Space Agency mission Gaia, processed by the Gaia Data Processing and Analysis "
        "Consortium",
        "https://www.cosmos.esa.int/web/gaia-users/credits",
    ),
    "desi": ("DESI", "spectra of the Dark Energy Spectroscopic Instrument", "https://data.desi.lbl.gov"),
    "sdss": (
        "SDSS",
        "data of the Sloan Digital Sky Survey",
        "https://www.sdss.org/collaboration/citing-sdss",
    ),
    "apogee": (
        "APOGEE",
        "labels or spectra of SDSS APOGEE",
        "https://www.sdss.org/collaboration/citing-sdss",
    ),
    "galah": ("GALAH", "labels or spectra of the GALAH survey", "https://www.galah-survey.org"),
}


def _data_text(files: RunFiles, config: Any) -> str:
    """What says where data came from: data.json if the run has it, else the configuration's datasets."""
    recorded = files.json("data.json")
    if recorded:
        return str(recorded).lower()
    found = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "dataset" and value is not None:
                    found.append(str(value))
                else:
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(config)
    return " ".join(found).lower()


def acknowledgements(files: RunFiles, config: Any) -> list[dict[str, str]]:
    """Name, sentence and address of each survey whose data the run used; mock data is said to be that."""
    text = _data_text(files, config)
    simulated = "mock" in text
    real = re.sub(r"[^,;{}\[\]]*mock[^,;{}\[\]]*", " ", text)  # "LAMOST LRS (mock)" is no LAMOST data
    out = [
        {
            "name": name,
            "text": f"This run used {what}. Published results should carry the text given at",
            "url": url,
        }
        for key, (name, what, url) in _SURVEYS.items()
        if key in real
    ]
    if simulated:
        out.insert(0, {
            "name": "Simulated stars",
            "text": "The mock spectra were computed by astro-train itself; they imitate surveys but "
            "hold none of their data.",
            "url": "",
        })  # fmt: skip
    return out
