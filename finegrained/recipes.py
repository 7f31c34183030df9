"""What a head does differently from one data set to the next, and the recipes of papers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from finegrained.config import FineConfig
from finegrained.data.class_names import CARS, CUB, official_order
from finetune.cli.console import say

SHORT_NAMES = MappingProxyType({CUB: "cub", CARS: "cars"})
RECIPES = Path(__file__).parent / "configs"

OptionValue = int | float | bool | str

# Names that no other data set has; FGVC-Aircraft has no layout of its own and comes as class folders.
AIRCRAFT_NAMES = frozenset({"707-320", "747-400", "A380", "DC-10"})

# head -> data set -> options. DCL: Chen, Bai, Zhang, Mei, "Destruction and Construction Learning for
# Fine-grained Image Recognition", CVPR 2019, as its released code sets gamma; N = 2 for aircraft is what its
# authors answered to people who asked.
PRESETS: Mapping[str, Mapping[str, Mapping[str, OptionValue]]] = MappingProxyType(
    {
        "dcl": MappingProxyType(
            {
                "cub": MappingProxyType({"regions": 7, "gamma": 1.0}),
                "cars": MappingProxyType({"regions": 7, "gamma": 0.01}),
                "aircraft": MappingProxyType({"regions": 2, "gamma": 0.01}),
            }
        )
    }
)


def data_set_of(layout: str, class_names: Sequence[str]) -> str:
    """Return cub, cars or aircraft where the layout or the class names show which data these are, else "".

    >>> data_set_of("cars-S", ["a car"]), data_set_of("folders", ["Audi A5 Coupe 2012"])
    ('cars', 'cars')
    >>> data_set_of("folders", ["cat", "dog"])
    ''
    """
    if layout == "cub" or layout.startswith("cars"):
        return layout.partition("-")[0]
    table = official_order(class_names)
    if table is not None:
        return SHORT_NAMES[table[0]]
    return "aircraft" if set(class_names) >= AIRCRAFT_NAMES else ""


def with_presets(config: FineConfig, data_set: str) -> FineConfig:
    """Return the configuration with the head's options for this data set where they were not given.

    What is filled in is reported, and stands in the run's config.yaml as if it had been given.
    """
    preset = PRESETS.get(config.head.name, {}).get(data_set, {})
    added = {name: value for name, value in preset.items() if name not in config.head.options}
    if not added:
        return config
    told = ", ".join(f"{name} {value}" for name, value in added.items())
    say(f"{config.head.name} on {data_set}: {told} (its preset; --head.options.NAME VALUE changes one)")
    return replace(config, head=replace(config.head, options={**config.head.options, **added}))
