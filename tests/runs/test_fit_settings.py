import attrs
import pytest

from advrush_tf.errors import UserError
from advrush_tf.fit.objectives import ObjectiveName
from advrush_tf.nn.cell_network import Stem
from advrush_tf.runs.fit_settings import FitSettings, NetworkName
from advrush_tf.runs.recipes import fit_settings, recipe_defaults


@pytest.mark.parametrize("name", ObjectiveName)
@pytest.mark.parametrize("network", NetworkName)
def test_every_recipe_holds_and_can_be_replaced(name, network):
    settings = fit_settings(name, network, epochs=3, label_smoothing=0.1, seed=None)
    assert (settings.epochs, settings.seed) == (3, 0)
    assert settings.make_objective().label_smoothing == 0.1
    assert settings.objective is name


def test_steps_keep_their_share_of_another_epsilon():
    settings = fit_settings("pgd", epsilon=0.062)
    assert settings.step_size == pytest.approx(0.02)
    assert settings.eval_step_size == pytest.approx(2.5 * 0.062 / 20)
    settings = fit_settings("pgd", epsilon=0.062, eval_steps=10)
    assert settings.eval_step_size == pytest.approx(2.5 * 0.062 / 10)
    settings = fit_settings("pgd", epsilon=0.062, step_size=0.005)
    assert settings.step_size == 0.005
    assert fit_settings("pgd", epsilon="4/255") == fit_settings("pgd", epsilon=4 / 255)


def test_small_images_have_a_smaller_cutout_and_no_auxiliary_head():
    settings = fit_settings("standard").for_images((8, 8, 1))
    assert (settings.cutout, settings.auxiliary_weight) == (4, 0.0)
    given = fit_settings("standard", cutout=2, auxiliary_weight=0.3)
    assert given.for_images((8, 8, 1)) == given
    imagenet = fit_settings("standard", stem=Stem.IMAGENET, num_cells=14)
    assert imagenet.for_images((224, 224, 3)).auxiliary_weight == 0.4
    assert imagenet.for_images((64, 64, 3)).auxiliary_weight == 0.0
    residual = fit_settings("standard", "resnet18").for_images((32, 32, 3))
    assert residual.auxiliary_weight is None


@pytest.mark.parametrize(
    ("objective", "network", "given"),
    [
        ("pgd", "cells", {"beta": 6.0}),
        ("standard", "cells", {"step_size": 0.01}),
        ("standard", "cells", {"attack_steps": 7}),
        ("pgd", "resnet18", {"genotype": "ADVRUSH"}),
        ("standard", "resnet18", {"auxiliary_weight": 0.4}),
        ("pgd", "resnet18", {"num_cells": 4}),
        ("pgd", "resnet18", {"recompute_cells": True}),
        ("pgd", "cells", {"learning_rate_min": 0.01}),
        ("standard", "cells", {"milestones": (0.5,)}),
        ("fgsm_rs", "cells", {"decay": 0.2}),
        ("standard", "imagenet", {"milestones": (0.5,)}),
    ],
)
def test_what_has_no_use_is_refused(objective, network, given):
    with pytest.raises(UserError, match=f"--{next(iter(given))} has no use"):
        fit_settings(objective, network, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"network": "resnet18"},
        {"genotype": "ADVRUSH"},
        {"init_channels": 8},
        {"num_cells": 3},
        {"stem": "cifar"},
        {"drop_path": 0.1},
        {"auxiliary_weight": 0.4},
        {"normalise": True},
        {"precision": "float32"},
    ],
)
def test_what_makes_a_new_network_contradicts_an_existing_one(given):
    with pytest.raises(UserError, match=f"--{next(iter(given))} has no use with --mod"):
        fit_settings("pgd", **({"network": "cells", "model": "m.keras"} | given))


@pytest.mark.parametrize("name", ObjectiveName)
def test_every_recipe_holds_for_an_existing_network(name):
    settings = fit_settings(name, model="m.keras", epochs=3).for_images((8, 8, 1))
    recipe = fit_settings(name, epochs=3)
    assert settings.genotype is settings.init_channels is settings.network is None
    assert settings.make_objective() == recipe.make_objective()
    with pytest.raises(UserError, match="--milestones has no use with --schedule"):
        fit_settings(name, model="m.keras", schedule="cosine", milestones=(0.5,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("image_size", 0),
        ("epochs", -1),
        ("step_size", -0.1),
        ("attack_steps", 0),
        ("eval_steps", 0),
        ("validation_portion", 0.0),
        ("validation_portion", 1.0),
        ("robust_eval_every", 0),
        ("milestones", ()),
        ("milestones", (0.75, 0.5)),
        ("milestones", (100.0, 150.0)),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("drop_path", 1.0),
        ("label_smoothing", 1.0),
        ("ema_decay", 1.0),
        ("awp_gamma", -0.1),
        ("cutout", -1),
        ("schedule", "linear"),
        ("select_by", "test"),
        ("test_images", -1),
        ("seed", -1),
    ],
)
def test_out_of_range_values_are_named(name, value):
    with pytest.raises(UserError, match=f"--{name}"):
        fit_settings("pgd", **{name: value})


def test_a_schedule_brings_its_own_decay():
    assert fit_settings("pgd").decay == 0.1
    assert fit_settings("pgd", schedule="exponential").decay == 0.97
    assert fit_settings("pgd", schedule="exponential", decay=0.9).decay == 0.9
    assert fit_settings("standard", "imagenet", schedule="piecewise").decay == 0.1


def test_the_size_of_images_can_be_given():
    assert fit_settings("pgd").image_size is None
    assert fit_settings("pgd", "resnet18", image_size=64).image_size == 64


def test_the_cosine_does_not_rise():
    with pytest.raises(UserError, match="--learning_rate_min is 1"):
        fit_settings("standard", learning_rate_min=1.0)


def test_every_field_is_documented_as_a_setting():
    settings = fit_settings()
    recorded = settings.to_dict()
    assert recorded.keys() == {f.name for f in attrs.fields(FitSettings)}
    assert recorded["start"] == "gaussian"
    assert recorded["milestones"] == [0.5, 0.75]


def test_recomputation_is_not_for_xla():
    assert fit_settings(recompute_cells=True).recompute_cells
    with pytest.raises(UserError, match=r"recompute_cells is True.* --jit_compile"):
        fit_settings(recompute_cells=True, jit_compile=True)


def test_defaults_in_words_are_those_of_all_recipes():
    words = recipe_defaults()
    assert words["momentum"] == "0.9"
    assert words["seed"] == words["test_images"] == "0"
    assert words["epochs"] == words["dataset"] == "the recipe's"
    assert words["image_size"] == "none"
    assert not {"objective", "network"} & words.keys()
