"""Strategies: arrays in, positions of chosen pairs out.

A strategy is a function `(pool, n, rng) -> Selection` under the contract of `strategies.pool`.
Ours stand in STRATEGIES; another distribution adds its own through the entry-point group
`annotator.strategies`:

    [project.entry-points."annotator.strategies"]
    my-strategy = "my_package:choose"
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from strategies.baseline import random
from strategies.datamap import (
    datamap_high_mean_low_variance,
    datamap_high_variance,
    datamap_low_mean,
)
from strategies.dissimilarity import (
    real_centroid,
    real_easy,
    real_easy_ranked,
    real_hard,
    real_hard_ranked,
)
from strategies.diversity import aepo, badge, k_center
from strategies.dueling import delta_ucb, drts, infomax
from strategies.hybrid import hybrid
from strategies.influence import expected_influence, expected_lossdiff_irm
from strategies.information import (
    certainty,
    d_optimal,
    expected_error,
    uncertainty,
)
from strategies.information import information as most_information  # the module keeps its name
from strategies.pool import BadPlugin, Strategy, UnknownStrategy

__all__ = [
    "ENTRY_POINT_GROUP",
    "STRATEGIES",
    "strategy_named",
    "strategy_names",
    "strategy_summary",
]

ENTRY_POINT_GROUP = "annotator.strategies"

STRATEGIES: dict[str, Strategy] = {
    "hybrid": hybrid,
    "random": random,
    "real-easy": real_easy,
    "real-easy-ranked": real_easy_ranked,
    "real-hard": real_hard,
    "real-hard-ranked": real_hard_ranked,
    "real-centroid": real_centroid,
    "datamap-high-mean-low-variance": datamap_high_mean_low_variance,
    "datamap-high-variance": datamap_high_variance,
    "datamap-low-mean": datamap_low_mean,
    "uncertainty": uncertainty,
    "certainty": certainty,
    "information": most_information,
    "expected-error": expected_error,
    "d-optimal": d_optimal,
    "drts": drts,
    "delta-ucb": delta_ucb,
    "infomax": infomax,
    "expected-lossdiff-irm": expected_lossdiff_irm,
    "expected-influence": expected_influence,
    "k-center": k_center,
    "badge": badge,
    "aepo": aepo,
}


def strategy_names() -> list[str]:
    """The names of all strategies: ours in the order of STRATEGIES, then others' sorted.

    Nothing of another distribution is imported.
    """
    others = {plugin.name for plugin in entry_points(group=ENTRY_POINT_GROUP)}
    return [*STRATEGIES, *sorted(others - STRATEGIES.keys())]


def strategy_summary(name: str) -> str:
    """One line on a strategy for a list; of another distribution only its name is known here."""
    if name in STRATEGIES:
        return (STRATEGIES[name].__doc__ or "").strip().splitlines()[0]
    plugins = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    return f"from {' and '.join(sorted(_distribution(plugin) for plugin in plugins))}"


def strategy_named(name: str) -> Strategy:
    """The strategy of that name: one of ours, or one that another distribution offers.

    Raises UnknownStrategy with the names that exist; BadPlugin if another distribution claims a
    name of ours, if two claim the same, or if what it offers cannot be loaded or called.
    """
    plugins = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if name in STRATEGIES:
        if plugins:
            raise _taken(name, plugins, "a strategy of annotator has that name")
        return STRATEGIES[name]
    if not plugins:
        raise _unknown(name)
    if len(plugins) > 1:
        raise _taken(name, plugins, "one distribution for each name")
    return _load(plugins[0])


def _load(plugin: EntryPoint) -> Strategy:
    try:
        strategy = plugin.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise _broken(plugin, f"{type(error).__name__}: {error}") from error
    if not callable(strategy):
        raise _broken(plugin, f"{plugin.value} is a {type(strategy).__name__}, not a function")
    found: Strategy = strategy
    return found


def _unknown(name: str) -> UnknownStrategy:
    names = strategy_names()
    close = difflib.get_close_matches(name, names)
    return UnknownStrategy(
        f"there is no strategy {name!r}",
        expected=f"one of {', '.join(names)}",
        todo=f"did you mean {' or '.join(close)}?" if close else "",
    )


def _broken(plugin: EntryPoint, reason: str) -> BadPlugin:
    return BadPlugin(
        f"the strategy {plugin.name!r} of {_distribution(plugin)} cannot be used: {reason}",
        expected=f"{plugin.value} to be a function (pool, n, rng) -> Selection",
        todo=f"repair or uninstall {_distribution(plugin)}, or choose another strategy",
    )


def _taken(name: str, plugins: list[EntryPoint], expected: str) -> BadPlugin:
    claimants = " and ".join(sorted(_distribution(plugin) for plugin in plugins))
    return BadPlugin(
        f"the strategy name {name!r} is claimed by {claimants}",
        expected=expected,
        todo="uninstall that distribution, or have its entry point renamed",
    )


def _distribution(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else "an unnamed distribution"
