import numpy as np
import pytest

from advrush_tf.attacks.pgd import SignAscent, Start
from advrush_tf.fit.objectives import FGSMRS, MART, PGD, TRADES, Standard
from advrush_tf.nn.cell_network import Stem
from advrush_tf.runs.fit import make_model, make_schedule
from advrush_tf.runs.fit_settings import Schedule, Selection
from advrush_tf.runs.recipes import fit_settings
from support.small_networks import tiny_network


def test_the_official_pgd_recipe():
    settings = fit_settings("pgd")
    assert (settings.batch_size, settings.epochs) == (64, 200)
    assert (settings.learning_rate, settings.momentum) == (0.1, 0.9)
    assert settings.schedule is Schedule.PIECEWISE
    assert [share * settings.epochs for share in settings.milestones] == [100, 150]
    assert (settings.decay, settings.weight_l2, settings.clip_norm) == (0.1, 1e-4, 5.0)
    assert settings.make_objective() == PGD(0.0, 0.031, 0.01, 7, Start.GAUSSIAN)
    step = 2.5 * 0.031 / 20
    assert settings.evaluation_attack == SignAscent(0.031, step, 20, Start.UNIFORM)
    assert (settings.init_channels, settings.num_cells) == (36, 20)
    assert not settings.normalise
    assert settings.select_by is Selection.ROBUST


def test_the_official_standard_recipe():
    settings = fit_settings("standard").for_images((32, 32, 3))
    assert settings.epochs == 600
    assert settings.schedule is Schedule.COSINE
    assert (settings.learning_rate, settings.learning_rate_min) == (0.025, 0.0)
    assert (settings.drop_path, settings.auxiliary_weight) == (0.2, 0.4)
    assert settings.cutout == 16
    assert settings.make_objective() == Standard()


def test_recipes_of_the_papers():
    assert fit_settings("trades").make_objective() == TRADES(
        epsilon=0.031, step_size=0.01, steps=7, beta=6.0
    )
    assert fit_settings("mart").make_objective() == MART(
        epsilon=0.031, step_size=0.007, steps=10, start=Start.GAUSSIAN, beta=5.0
    )
    assert fit_settings("fgsm_rs").make_objective() == FGSMRS(
        epsilon=8 / 255, step_size=10 / 255, steps=1, start=Start.UNIFORM
    )


def test_marts_optimizer_and_its_rate():
    settings = fit_settings("mart")
    assert (settings.batch_size, settings.epochs) == (128, 120)
    assert (settings.weight_l2, settings.clip_norm) == (3.5e-3, 0.0)
    schedule = make_schedule(settings, steps_per_epoch=3)
    # The rates of its epochs 1, 74, 75, 89, 90, 99, 100 and 120.
    starts = 3 * np.array([0, 73, 74, 88, 89, 98, 99, 119])
    rates = 0.01 * np.array([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    np.testing.assert_allclose([schedule(s) for s in starts], rates, rtol=1e-5)
    assert make_model(settings, tiny_network(), 3).optimizer.clip_norm is None


def test_the_fast_recipe_is_that_of_cifar():
    settings = fit_settings("fgsm_rs")
    assert (settings.batch_size, settings.epochs) == (128, 15)
    assert (settings.weight_l2, settings.clip_norm) == (5e-4, 0.0)
    assert settings.normalise
    assert settings.schedule is Schedule.ONE_CYCLE
    schedule = make_schedule(settings, steps_per_epoch=10)
    np.testing.assert_allclose([schedule(s) for s in (0, 75, 120)], [0, 0.2, 0.08])


def test_the_imagenet_recipe_of_darts():
    settings = fit_settings("standard", "imagenet").for_images((224, 224, 3))
    assert settings.dataset == "imagenet2012"
    assert settings.stem is Stem.IMAGENET
    assert (settings.init_channels, settings.num_cells) == (48, 14)
    assert (settings.batch_size, settings.epochs) == (128, 250)
    assert settings.schedule is Schedule.EXPONENTIAL
    assert (settings.learning_rate, settings.decay) == (0.1, 0.97)
    assert (settings.momentum, settings.weight_l2) == (0.9, 3e-5)
    assert (settings.clip_norm, settings.label_smoothing) == (5.0, 0.1)
    assert (settings.auxiliary_weight, settings.drop_path) == (0.4, 0.0)
    assert (settings.cutout, settings.normalise) == (0, True)


def test_perturbations_of_imagenet_are_smaller():
    settings = fit_settings("pgd", "imagenet")
    assert settings.epsilon == settings.evaluation_attack.epsilon == 4 / 255
    # The steps keep their share of the radius.
    assert settings.step_size == pytest.approx(4 / 255 / 3.1)
    assert settings.evaluation_attack.step_size == pytest.approx(4 / 255 / 8)
    fast = fit_settings("fgsm_rs", "imagenet")
    assert (fast.epsilon, fast.step_size) == pytest.approx((4 / 255, 5 / 255))
    given = fit_settings("pgd", "imagenet", epsilon=8 / 255)
    assert given.step_size == pytest.approx(8 / 255 / 3.1)
