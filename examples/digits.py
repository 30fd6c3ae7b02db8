"""Searches, fits and attacks on the embedded digits, with Keras and nothing else.

`python examples/digits.py` takes a few minutes on two processor cores. `# %%`
begins a cell where an editor or Jupyter shows the file as a notebook. The official
recipe, for CIFAR-10, is in docs/guide.md.
"""

# %% Sizes of everything below.
import advrush_tf  # before TensorFlow, so that oneDNN's kernels are on
from advrush_tf.training.optimizers import L2Adam, MomentumSGD, OneCycle

CELLS = 3
SEARCH_CHANNELS, SEARCH_EPOCHS, WARMUP_EPOCHS = 4, 8, 6
FIT_CHANNELS, FIT_EPOCHS = 8, 12
EPSILON = 0.1  # images are in [0, 1], and so is the radius of all attacks
TEST_IMAGES = 100

# %% The data: 1,437 images to train with and 360 to test with, of 8 by 8 pixels.
digits = advrush_tf.load_dataset("digits")
x, y = digits.train.unit_arrays()
x_test, y_test = (array[:TEST_IMAGES] for array in digits.test.unit_arrays())

# %% Search. One half of the images fits the supernet's weights, the other one the
# architecture's parameters (alphas), in the last epochs with AdvRush's penalty.
pairs, steps = advrush_tf.bilevel_pairs(x, y, batch_size=32)
search = advrush_tf.AdvRushSearchModel(
    digits.num_classes,
    digits.image_shape,
    init_channels=SEARCH_CHANNELS,
    num_cells=CELLS,
    mean=digits.mean,
    std=digits.std,
)
search.compile(alpha_optimizer=L2Adam(3e-3), warmup_epochs=WARMUP_EPOCHS)
search.fit(pairs, steps_per_epoch=steps, epochs=SEARCH_EPOCHS)
genotype = search.genotype()
print(genotype)

# %% Fit the network of what was found, adversarially: each batch is replaced by images
# that seven steps of an attack have moved by up to epsilon.
network = advrush_tf.CellNetwork(
    genotype,
    digits.num_classes,
    digits.image_shape,
    init_channels=FIT_CHANNELS,
    num_cells=CELLS,
)
fit = advrush_tf.AdvRushFitModel(network, advrush_tf.PGD(EPSILON, EPSILON / 3))
batches, steps = advrush_tf.training_batches(x, y, batch_size=64)
fit.compile(MomentumSGD(OneCycle(0.2, FIT_EPOCHS * steps), l2=5e-4))
fit.fit(batches, steps_per_epoch=steps, epochs=FIT_EPOCHS)
network.save("digits.keras")

# %% Attack it with AutoAttack: the accuracy that is left, its 95 % interval, and
# reasons not to trust the number, if there are any.
found = advrush_tf.evaluate_robustness(network, x_test, y_test, EPSILON)
print(found)
