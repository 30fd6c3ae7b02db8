"""The cost of a search, a fit or a study, measured on a few of its steps."""

from collections.abc import Callable

from advrush_tf.attacks.catalogue import named_attack
from advrush_tf.attacks.iterative import IterativeAttack
from advrush_tf.data.dataset import load_dataset
from advrush_tf.data.examples import EVALUATION_BATCH
from advrush_tf.environment import onednn_is_on
from advrush_tf.errors import UserError
from advrush_tf.nn.classifier import ImageClassifier
from advrush_tf.runs import fit as fit_run
from advrush_tf.runs import search as search_run
from advrush_tf.runs.fit_settings import FitSettings
from advrush_tf.runs.profiling import (
    STEPS,
    count_parameters,
    fit_part,
    measure,
    measure_evaluation,
    measure_fit_step,
    measure_input,
    measure_search_step,
    multiply_adds,
)
from advrush_tf.runs.progress import print_line
from advrush_tf.runs.search_settings import SearchSettings
from advrush_tf.runs.study import check_study
from advrush_tf.runs.study_settings import Drawn, StudySettings


def search_dry_run(
    settings: SearchSettings,
    data_dir: str | None = None,
    log: Callable[[str], None] = print_line,
) -> float:
    """Says what a search would cost, measured on a few steps, and writes nothing.

    Args:
        settings: of what is to be run.
        data_dir: tfds' folder of prepared data sets.
        log: receives the lines for the user.

    Returns:
        The total time in seconds.

    Raises:
        UserError: the input is at fault.
    """
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    model = search_run.build_model(settings, dataset)
    batches, steps = search_run.make_pairs(settings, dataset)
    search_run.compile_model(model, settings, steps)
    parameters = count_parameters(model.network_weights)
    log(f"parameters      {parameters:,} (without the alphas)")
    log(f"multiply-adds   {multiply_adds(model):,} per image")
    log(_kernels())
    log("measuring a few steps of each kind ...")
    penalised_epochs = settings.epochs - settings.warmup_epochs
    if settings.gamma == 0:
        penalised_epochs = 0
    kinds = [kind for kind in STEPS if penalised_epochs or "penal" not in kind]
    batch = settings.batch_size
    costs = {kind: measure_search_step(model, kind, batch) for kind in kinds}
    weights = costs["weights"].seconds
    plain = weights + costs["alphas"].seconds
    log(f"without penalty {plain:.3g} s per step")
    penalised = plain
    if penalised_epochs:
        penalised = weights + costs["penalised alphas"].seconds
        log(f"with penalty    {penalised:.3g} s per step")
    log(f"input           {measure_input(batches):.2g} s per step, beside the others")
    log(f"memory          {max(c.peak_bytes for c in costs.values()) / 1e9:.1f} GB")
    total = steps * (settings.epochs * plain + penalised_epochs * (penalised - plain))
    validated = settings.epochs * len(search_run.halves(settings, dataset)[1])
    seconds = measure_evaluation(model, EVALUATION_BATCH)
    total += validated / EVALUATION_BATCH * seconds
    total += sum(cost.trace_seconds + cost.first_seconds for cost in costs.values())
    log(f"total           {total / 3600:.2f} h for {settings.epochs} epochs of {steps}")
    return total


def fit_dry_run(
    settings: FitSettings,
    data_dir: str | None = None,
    log: Callable[[str], None] = print_line,
) -> float:
    """Says what a fit would cost, measured on a few steps, and writes nothing.

    Args:
        settings: of what is to be run.
        data_dir: tfds' folder of prepared data sets.
        log: receives the lines for the user.

    Returns:
        The total time in seconds.

    Raises:
        UserError: the input is at fault.
    """
    genotype = fit_run.find_genotype(settings)
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    settings = settings.for_images(dataset.image_shape)
    network = fit_run.build_network(settings, dataset, genotype)
    if not isinstance(network, ImageClassifier):
        raise UserError(
            "--dry_run measures networks of advrush_tf, and the --model is another "
            "one; leave one of them out."
        )
    data = fit_run.FitData(settings, dataset)
    model = fit_run.make_model(settings, network, data.steps_per_epoch)
    log(f"parameters      {count_parameters(network.trainable_variables):,}")
    log(f"multiply-adds   {multiply_adds(network):,} per image")
    log(_kernels())
    log("measuring a few steps ...")
    cost = measure_fit_step(model, settings.batch_size)
    log(f"step            {cost.seconds:.3g} s, the first {cost.first_seconds:.3g} s")
    waiting = measure_input(data.training())
    log(f"input           {waiting:.2g} s per step, beside the others")
    seconds = measure_evaluation(model, EVALUATION_BATCH)
    log(f"evaluation      {seconds:.3g} s per batch of {EVALUATION_BATCH}")
    log(f"memory          {cost.peak_bytes / 1e9:.1f} GB")
    # The report measures the best and the last weights.
    evaluated = len(fit_run.evaluated_epochs(settings)) * len(data.held_out)
    evaluated += 2 * len(data.tested)
    total = settings.epochs * data.steps_per_epoch * cost.seconds
    total += evaluated / EVALUATION_BATCH * seconds
    total += cost.trace_seconds + cost.first_seconds
    epochs = f"{settings.epochs} epochs of {data.steps_per_epoch}"
    log(f"total           {total / 3600:.2f} h for {epochs}")
    return total


def study_dry_run(
    settings: StudySettings,
    data_dir: str | None = None,
    log: Callable[[str], None] = print_line,
) -> None:
    """Says what a study would cost, measured on a few steps, and writes nothing.

    Args:
        settings: of what is to be run.
        data_dir: tfds' folder of prepared data sets.
        log: receives the lines for the user.

    Raises:
        UserError: the input is at fault.
    """
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    check_study(settings, dataset)
    total, seeds = 0.0, settings.seeds
    for entry in settings.entries:
        if entry in (Drawn.ADVRUSH, Drawn.DARTS):
            count = seeds * settings.select
            log(f"\n{count} x search of {entry}")
            search = settings.search_settings(entry, 0)
            total += count * search_dry_run(search, data_dir, log)
    for objective in settings.objectives:
        count = seeds * len(settings.entries)
        log(f"\n{count} x fit by {objective}, as of ADVRUSH")
        fit = settings.fit_settings(objective, "ADVRUSH", 0)
        seconds = fit_dry_run(fit, data_dir, log)
        total += count * seconds
        if settings.select > 1 and objective == settings.selected_by:
            drawn = len(settings.entries) - len(settings.fixed)
            short = seconds * settings.select_epochs / fit.epochs
            total += drawn * seeds * settings.select * short
    networks = seeds * len(settings.entries) * len(settings.objectives)
    attacks = networks * _attack_seconds(settings, fit, data_dir) / 3600
    log(f"\nall of these    {total / 3600:.2f} h")
    log(
        f"not in it       attacks, {attacks / 10:.2f} h for each tenth of the images "
        "that the networks withstand, and curvature: the first says how long others "
        "take"
    )


def _attack_seconds(
    settings: StudySettings, fit: FitSettings, data_dir: str | None
) -> float:
    """Seconds of AutoAttack's members on a network that withstands them all.

    Each of their steps is taken to cost one gradient by the pixels; other attacks cost
    little beside them.
    """
    attack = settings.attack_settings("model.keras", 0)
    dataset = load_dataset(settings.dataset, data_dir, settings.image_size)
    fit = fit.for_images(dataset.image_shape)
    network = fit_run.build_network(fit, dataset, fit_run.find_genotype(fit))
    sizes = dataset.image_shape, dataset.num_classes, attack.batch_size
    gradient = measure([fit_part(network, "input gradient")], *sizes)
    steps = sum(
        member.runs(dataset.num_classes) * member.steps
        for name in attack.attacks
        for member in named_attack(name, attack.norm, attack.epsilon).values()
        if isinstance(member, IterativeAttack)
    )
    images = (attack.test_images or len(dataset.test)) * len(attack.curve)
    return steps * images * gradient.seconds / attack.batch_size


def _kernels() -> str:
    return f"kernels         oneDNN {'on' if onednn_is_on() else 'off'}"
