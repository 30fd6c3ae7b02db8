"""The usual settings of a fit for each objective and network.

Each follows a public training script, which its comment names: the repository, the file
and its lines. docs/recipes.md says value by value what is there, and what differs here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from advrush_tf.attacks.geometry import Radius
from advrush_tf.attacks.pgd import Start, usual_step_size
from advrush_tf.errors import UserError
from advrush_tf.fit.objectives import ObjectiveName
from advrush_tf.nn.cell_network import Stem
from advrush_tf.runs.fit_settings import FitSettings, NetworkName, Schedule, Selection
from advrush_tf.runs.settings import flag_fields, shown_default, typed_value

# nutellamok/advrush: advrush/adv_train.py, lines 22-45 and 203-211.
_PGD = FitSettings()
# quark0/darts: cnn/train.py, lines 20-40 and 95, with --auxiliary and --cutout.
_STANDARD = attrs.evolve(
    _PGD,
    objective=ObjectiveName.STANDARD,
    normalise=True,
    batch_size=96,
    epochs=600,
    cutout=None,
    schedule=Schedule.COSINE,
    learning_rate=0.025,
    weight_l2=3e-4,
    drop_path=0.2,
    auxiliary_weight=None,
    step_size=None,
    attack_steps=None,
    start=None,
    robust_eval_every=10,
    # Its robust accuracy is highest before it has learnt anything.
    select_by=Selection.CLEAN,
)
# The same lines of nutellamok/advrush, which has other numbers than yaodongyu/TRADES.
_TRADES = attrs.evolve(_PGD, objective=ObjectiveName.TRADES, beta=6.0)
# YisenWang/MART: train_resnet.py, lines 21-42 and 109-119.
_MART = attrs.evolve(
    _PGD,
    objective=ObjectiveName.MART,
    batch_size=128,
    epochs=120,
    learning_rate=0.01,
    weight_l2=3.5e-3,
    milestones=(75 / 120, 90 / 120, 100 / 120),
    clip_norm=0.0,
    step_size=0.007,
    attack_steps=10,
    beta=5.0,
)
# locuslab/fast_adversarial: CIFAR10/train_fgsm.py, lines 22-32 and 85-88.
_FGSM_RS = attrs.evolve(
    _PGD,
    objective=ObjectiveName.FGSM_RS,
    normalise=True,
    batch_size=128,
    epochs=15,
    schedule=Schedule.ONE_CYCLE,
    learning_rate=0.2,
    weight_l2=5e-4,
    clip_norm=0.0,
    epsilon=Radius("8/255"),
    step_size=10 / 255,
    attack_steps=1,
    start=Start.UNIFORM,
)
_RECIPES = {
    recipe.objective: recipe for recipe in (_STANDARD, _PGD, _TRADES, _MART, _FGSM_RS)
}
# The exponential schedule's decay is that of each epoch.
_EXPONENTIAL_DECAY = 0.97
# The schedules that read a field.
_READERS: Mapping[str, Sequence[Schedule]] = {
    "milestones": [Schedule.PIECEWISE],
    "decay": [Schedule.PIECEWISE, Schedule.EXPONENTIAL],
    "learning_rate_min": [Schedule.COSINE],
}


# The fields that say how a new network is made, of no use with an existing one.
_OF_NEW_NETWORKS = (
    "network",
    "genotype",
    "stem",
    "init_channels",
    "num_cells",
    "recompute_cells",
    "drop_path",
    "auxiliary_weight",
    "normalise",
    "precision",
    "sync_batch_norm",
)


def _recipe(objective: ObjectiveName, network: NetworkName) -> FitSettings:
    """The recipe of both, but that the steps go with the objective's own epsilon."""
    recipe = _RECIPES[objective]
    if network is NetworkName.IMAGENET:
        return _for_imagenet(recipe)
    if network is NetworkName.RESNET18:
        return attrs.evolve(
            recipe,
            network=network,
            genotype=None,
            stem=None,
            init_channels=64,
            num_cells=None,
            recompute_cells=None,
            drop_path=None,
            auxiliary_weight=None,
        )
    return recipe


def _for_imagenet(recipe: FitSettings) -> FitSettings:
    recipe = attrs.evolve(
        recipe,
        network=NetworkName.IMAGENET,
        dataset="imagenet2012",
        stem=Stem.IMAGENET,
        init_channels=48,
        num_cells=14,
        # The usual radius of RobustBench on ImageNet.
        epsilon=Radius("4/255"),
    )
    if recipe.objective is not ObjectiveName.STANDARD:
        return recipe
    # quark0/darts: cnn/train_imagenet.py, lines 24-42 and 141, with --auxiliary.
    return attrs.evolve(
        recipe,
        batch_size=128,
        epochs=250,
        cutout=0,
        schedule=Schedule.EXPONENTIAL,
        learning_rate=0.1,
        weight_l2=3e-5,
        drop_path=0.0,
        label_smoothing=0.1,
    )


def fit_settings(
    objective: ObjectiveName | str = ObjectiveName.PGD,
    network: NetworkName | str = NetworkName.CELLS,
    **given: Any,
) -> FitSettings:
    """Returns the recipe of an objective and a network, with some fields replaced.

    With another epsilon, given or the network's usual one, a step whose length is not
    given keeps its share of it; that of the measuring PGD follows from its own numbers.

    Args:
        objective: an `ObjectiveName` or its value.
        network: a `NetworkName` or its value.
        **given: fields of `FitSettings`; None leaves the recipe's value.

    Raises:
        UserError: a field has no use with this objective or network, or a value is out
            of range.
    """
    fields, given = attrs.fields_dict(FitSettings), dict(given)
    given |= {"objective": objective, "network": network}
    given = {n: typed_value(fields[n], v) for n, v in given.items() if v is not None}
    recipe = _recipe(given["objective"], given["network"])
    if given.get("model"):
        recipe = _of_existing(recipe, given)
    schedule = given.get("schedule", recipe.schedule)
    _check_use(given, recipe, schedule)
    if schedule is Schedule.EXPONENTIAL:
        recipe = attrs.evolve(recipe, decay=_EXPONENTIAL_DECAY)
    settings = attrs.evolve(recipe, **given)
    return attrs.evolve(settings, **(_step_sizes(recipe, settings) | given))


def _of_existing(recipe: FitSettings, given: dict[str, Any]) -> FitSettings:
    """The recipe for the network of a file; its name is taken out of `given`."""
    if given["network"] is NetworkName.CELLS:
        del given["network"]
    for name in _OF_NEW_NETWORKS:
        if name in given:
            raise UserError(
                f"--{name} has no use with --model, whose network is fitted as it is; "
                "leave one of them out."
            )
    none: dict[str, Any] = dict.fromkeys(_OF_NEW_NETWORKS)
    return attrs.evolve(recipe, **none)


def _check_use(
    given: Mapping[str, Any], recipe: FitSettings, schedule: Schedule
) -> None:
    """Raises UserError where a given field has no use in a recipe."""
    for name in given:
        if not _has(recipe, name):
            network = f" and --network={recipe.network}" if recipe.network else ""
            raise UserError(
                f"--{name} has no use with --objective={recipe.objective}{network}; "
                "leave it out."
            )
        if schedule not in _READERS.get(name, Schedule):
            raise UserError(f"--{name} has no use with --schedule={schedule}.")


def has_use(name: str, objective: str, schedule: str | None = None) -> bool:
    """Returns whether a field of a fit means anything with an objective.

    Args:
        name: of a field of `FitSettings`.
        objective: an `ObjectiveName` or its value, of a network of cells.
        schedule: a `Schedule` or its value; None for the recipe's.
    """
    recipe = _RECIPES[ObjectiveName(objective)]
    read = (schedule or recipe.schedule) in _READERS.get(name, Schedule)
    return read and _has(recipe, name)


def _has(recipe: FitSettings, name: str) -> bool:
    return getattr(recipe, name) is not None or _is_settled_later(name, recipe)


def _is_settled_later(name: str, recipe: FitSettings) -> bool:
    """Returns True where None in a recipe only waits for the images."""
    if name == "auxiliary_weight":
        return recipe.network is not NetworkName.RESNET18
    return name in ("cutout", "image_size", "train_images", "model")


def _step_sizes(recipe: FitSettings, settings: FitSettings) -> dict[str, float]:
    """The steps of both attacks, as long as the settings' other numbers make them."""
    sizes = {"eval_step_size": usual_step_size(settings.epsilon, settings.eval_steps)}
    if recipe.step_size is not None:
        ratio = settings.epsilon / _RECIPES[recipe.objective].epsilon
        sizes["step_size"] = recipe.step_size * ratio
    return sizes


def recipe_defaults() -> dict[str, str]:
    """Returns the default of each flag of a fit in words: one value or "the recipe's".

    The recipes' own flags, --objective and --network, are left out.
    """
    recipes = [fit_settings(o, n) for o in ObjectiveName for n in NetworkName]
    defaults = {}
    for name in (field.name for field in flag_fields(FitSettings)):
        values = {shown_default(getattr(recipe, name)) for recipe in recipes}
        defaults[name] = values.pop() if len(values) == 1 else "the recipe's"
    return {n: v for n, v in defaults.items() if n not in ("objective", "network")}
