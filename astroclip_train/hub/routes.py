"""Which parts lead from a spectrum to each input of a head."""

from collections.abc import Collection

__all__ = ["ROUND", "model_routes", "predictor_routes"]

ROUND = "@bf16"  # tokens are cached in bfloat16, so whatever follows an encoder was trained on rounded ones


def modalities(parts: Collection[str]) -> list[str]:
    """Modalities that have an encoder."""
    return [name.split(".", 1)[1] for name in parts if name.startswith("encoders.")]


def model_routes(parts: Collection[str]) -> dict[str, list[str]]:
    """`<m>.raw`, `<m>.single` (tokens before alignment) and `<m>.aligned` -> parts applied in turn."""
    routes: dict[str, list[str]] = {}
    for m in modalities(parts):
        routes[f"{m}.raw"] = []
        routes[f"{m}.single"] = [f"single.{m}" if f"single.{m}" in parts else f"encoders.{m}"]
        if f"heads.{m}" in parts:
            routes[f"{m}.aligned"] = [f"encoders.{m}", ROUND, f"heads.{m}"]
    return routes


def predictor_routes(
    fit: str, source: str, parts: Collection[str], base: dict[str, list[str]]
) -> dict[str, list[str]] | None:
    """Input part -> route to the features of one predictor; None where a part of the route is missing."""
    routes = {}
    for piece in source.split("+"):
        own, pool = f"tuned.{fit}/{piece}", f"pools.{fit}/{piece}"
        if own in parts:
            route = [own]
        elif piece in base:
            route = [*base[piece], ROUND] if piece.endswith(".single") else base[piece]
        else:
            return None
        routes[piece] = [*route, pool] if pool in parts else route
    return routes
