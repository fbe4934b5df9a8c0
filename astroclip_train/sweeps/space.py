"""What a sweep searches: one dimension for each key, from `sweep.space` or from the command line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..errors import ConfigError

__all__ = ["Dimension", "dimensions_of", "from_override", "grid", "names", "random_point"]

FIELDS = ("low", "high", "log", "step", "int")
PRIMITIVE = (bool, int, float, str)
DIGITS = 6  # of random draws, so that a command can be read


@dataclass(frozen=True)
class Dimension:
    """The values of one key: a list of choices, or the interval [low, high].

    Attributes:
        key: of the override, with its plus where it has one.
        choices: what Optuna sees, empty for an interval.
        texts: the same as they stand in an override.
        low, high: both ends, included.
        log: whether it is searched in the logarithm.
        step: distance of allowed values from `low`.
        integer: whether values are whole numbers.
    """

    key: str
    choices: tuple[Any, ...] = ()
    texts: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    integer: bool = False

    @property
    def name(self) -> str:
        """The key without a plus."""
        return self.key.lstrip("+")

    def distribution(self) -> Any:
        """The Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def values(self) -> list[Any]:
        """All values in order.

        Raises:
            ConfigError: an interval without a step.
        """
        if self.choices:
            return list(self.choices)
        if (self.step is None and not self.integer) or self.log:
            raise ConfigError(
                f"{self.name} is an interval, which has no grid: give a list or a step, or take +sweep=random."
            )
        return [self._on_grid(i) for i in range(self._count())]

    def ends(self) -> list[Any]:
        """Values that stand for all when keys and types are checked: every choice, or both ends."""
        return list(self.choices) or [self._number(self.low), self._number(self.high)]

    def draw(self, u: float) -> Any:
        """The value at the fraction u in [0, 1) of the dimension."""
        if self.choices:
            return self.choices[int(u * len(self.choices))]
        if self.log:
            low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
            x = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
            return self._number(x)
        if self.integer or self.step is not None:
            return self._on_grid(int(u * self._count()))
        return self._number(self.low + u * (self.high - self.low))

    def override(self, value: Any) -> str:
        """`key=value` as Hydra reads it."""
        if not self.choices:
            return f"{self.key}={value!r}"
        for choice, text in zip(self.choices, self.texts, strict=True):
            if type(choice) is type(value) and choice == value:
                return f"{self.key}={text}"
        raise ConfigError(
            f"{self.name}={value} is not one of {', '.join(self.texts)}: it was searched otherwise."
        )

    def describe(self) -> Any:
        """Plain data, the same for the same dimension."""
        if self.choices:
            return list(self.texts)
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "int": self.integer}

    def _count(self) -> int:
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def _on_grid(self, i: int) -> Any:
        return self._number(self.low + i * (self.step or 1))

    def _number(self, x: float) -> Any:
        if self.integer:
            return min(max(round(x), int(self.low)), int(self.high))
        return min(max(float(f"{x:.{DIGITS}g}"), self.low), self.high)


def dimensions_of(space: Mapping[str, Any] | None, swept: Sequence[Any]) -> list[Dimension]:
    """The dimensions of `sweep.space` and of the command line's sweep overrides; the latter win.

    Arguments:
        space: key -> list, or {low, high, log, step, int}.
        swept: parsed Hydra overrides such as `key=a,b` or `key=tag(log,interval(1e-4,1e-2))`.

    Raises:
        ConfigError: one cannot be read, or there is none.
    """
    found = {str(key).lstrip("+"): _from_node(str(key), node) for key, node in (space or {}).items()}
    for override in swept:
        made = from_override(override)
        found[made.name] = made
    if not found:
        raise ConfigError(
            "the sweep varies nothing: give key=a,b,c or 'key=interval(low,high)' on the command line, "
            "or sweep.space in a file."
        )
    return list(found.values())


def _from_node(key: str, node: Any) -> Dimension:
    where = f"sweep.space.{key}"
    if isinstance(node, list):
        return _choices(key, node, where)
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node} must be a list of values or {{low, high, log, step, int}}.")
    unknown = next((k for k in node if k not in FIELDS), None)
    if unknown is not None:
        raise ConfigError(f"{where} has {unknown}, which is not one of {', '.join(FIELDS)}.")
    if "low" not in node or "high" not in node:
        raise ConfigError(f"{where} needs low and high: give both, or a list of values.")
    numbers = [node["low"], node["high"]] + ([node["step"]] if node.get("step") is not None else [])
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ConfigError(f"{where} has an end that is not a number: low, high and step must be numbers.")
    whole = node.get("int")
    return _interval(
        key, node["low"], node["high"], bool(node.get("log")), node.get("step"),
        all(isinstance(n, int) for n in numbers) if whole is None else bool(whole), where,
    )  # fmt: skip


def from_override(override: Any) -> Dimension:
    """The dimension of a parsed sweep override.

    Raises:
        ConfigError: it is a glob, or its interval is empty.
    """
    key, value = override.get_key_element(), override.value()
    where = override.input_line or key
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return _interval(key, value.start, value.end, "log" in value.tags, None, whole, where)
    if override.is_choice_sweep():
        return _choices(key, value.list, where)
    if override.is_range_sweep():
        return _choices(key, list(value.range()), where)
    raise ConfigError(f"{where} cannot be searched: give a list a,b,c, range(a,b) or interval(low,high).")


def _choices(key: str, values: Sequence[Any], where: str) -> Dimension:
    from hydra.core.override_parser.types import Override

    choices, texts = [], []
    for value in values:
        text = str(value).lower() if isinstance(value, bool) else Override._get_value_element_as_str(value)
        plain = getattr(value, "text", value)  # a quoted string
        texts.append(text)
        choices.append(plain if plain is None or isinstance(plain, PRIMITIVE) else text)
    if not choices:
        raise ConfigError(f"{where} is empty: give at least one value.")
    twice = next((t for t in texts if texts.count(t) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where} has {twice} twice: name each value once.")
    return Dimension(key, tuple(choices), tuple(texts))


def _interval(key: str, low: Any, high: Any, log: bool, step: Any, integer: bool, where: str) -> Dimension:
    if not low < high:
        raise ConfigError(f"{where} is empty: low={low} must lie below high={high}.")
    if log and low <= 0:
        raise ConfigError(f"{where} cannot be logarithmic: low={low} must be above 0.")
    if log and step is not None:
        raise ConfigError(f"{where} has log and step: leave one of them out.")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where} has step={step}, which must lie in (0, high - low].")
    if integer and any(float(x) != int(x) for x in (low, high, step or 1)):
        raise ConfigError(f"{where} has int=true, but low={low}, high={high} or step={step} is not whole.")
    return Dimension(key, low=float(low), high=float(high), log=log, step=step, integer=integer)


def grid(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every combination, the last key fastest."""
    keys = [d.name for d in space]
    return [dict(zip(keys, point, strict=True)) for point in product(*(d.values() for d in space))]


def random_point(space: Sequence[Dimension], seed: int, number: int) -> dict[str, Any]:
    """Point `number` of an independent random search: a function of the seed and the number alone."""
    draws = np.random.default_rng([seed, number]).random(len(space))
    return {d.name: d.draw(float(u)) for d, u in zip(space, draws, strict=True)}


def names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest endings of dotted keys that tell them apart, for tables and figures."""
    result = {}
    for key in keys:
        parts = key.split(".")
        for n in range(1, len(parts) + 1):
            ending = ".".join(parts[-n:])
            if sum(("." + other).endswith("." + ending) for other in keys) == 1:
                break
        result[key] = ending
    return result
