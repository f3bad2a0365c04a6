"""Convolutions of images and clips, with norms, activations and gates.

| file | contents |
| --- | --- |
| `conv_norm_act` | convolution, batch norm and activation as one layer with four modes, and their merging |
| `deployed_conv` | convolutions for inference, with the activation in the same pass |
| `inception_conv` | parallel kernels of several sizes, averaged and evaluated as one convolution |
| `pseudo3d` | convolutions over space and time one after the other, and layouts of clips |
| `scheduled_drop_path` | drop path whose rate grows over training |
| `separable_conv` | depthwise convolution followed by a pointwise one |
| `squeeze_excite` | gates for channels, for places, and for both |
"""
