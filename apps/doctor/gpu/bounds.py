"""How far a GPU may be from what is right: the bounds of all checks, in one place.

They are first guesses, made before any GPU was tried. Results of three machines (compute capability 7.5, 8.x
and 9.0) are to replace them; send gpu-check.json.
"""

from __future__ import annotations

LOSS_ERROR = 2e-6  # of a loss and its gradient in float32, relative to float64 on the processor
HEAD_LOSS = 1e-5  # of a step's loss in float32, relative to the processor's
# Measured on a processor: float32 is up to 1.6e-4 from float64 in a head's gradients, and 1 - cosine up
# to 8e-5 in the trunk's. In bfloat16 the cosine of a head's gradients is 0.995 or more.
HEAD_GRADIENT = 1e-3  # of the gradient of each weight of a head in float32, relative (L2)
TRUNK_COSINE = 0.999  # between the trunk's gradients in float32 and the processor's, at least
HALF_COSINE = 0.99  # between a head's gradients in half precision and in float32, at least
SCORE_ERROR = 1e-5  # of logits in float32, in parts of their range
RANKS_ERROR = 1e-5  # of the weights of two processes, relative (L2) to those of one
SERVING_ERROR = 1e-4  # of an exported file's outputs, in parts of the largest
FED = 0.95  # our loader's speed in parts of that on a batch that lies on the device, at least
BESIDE_PLAIN = 1.0  # our loop's speed in parts of a plain one's, at least
MAIN_THREAD = 0.2  # of a core, that the main thread takes while it feeds the GPU; more is a note
PEAK = 0.15  # by which the counted bytes of a step may miss the allocator's peak

LEAST_MEMORY = 4e9  # bytes free on the GPU: less is a note
RING_IMAGES = 128 * 224 * 224 * 3  # bytes of one batch in shared memory
