"""Wrong arguments of models are refused by one line that names them."""

import pytest
import torch

import blockzoo
from blockzoo._arguments import check_arguments, positive, same_length

WRONG = [
    ("mg_tfno2d", "channel_mlp_dropout", "much"),
    ("tdn_tensor", "num_heads", "four"),
    ("timesnet_forecast", "d_model", -4),
    ("timesnet_forecast", "d_model", 0),
    ("timesnet_forecast", "d_model", "wide"),
    ("timesnet_forecast", "d_model", 8.5),
    ("timesnet_forecast", "num_kernels", 0),
    ("timesnet_forecast", "seq_len", True),
    ("timesnet_classifier", "num_classes", "abc"),
    ("timesnet_classifier", "drop_rate", "much"),
    ("timesnet_classifier", "period_scope", "day"),
    ("nextvit_cifar", "num_classes", "abc"),
    ("nextvit_cifar", "num_classes", -1),
    ("nextvit_cifar", "in_chans", 0),
    ("nextvit_cifar", "depths", (1, 0, 1, 1)),
    ("nextvit_cifar", "depths", 3),
    ("nextvit_cifar", "head_dim", 0),
    ("emov2_cifar", "depths", (1, 1)),
    ("emov2_cifar", "embed_dims", "48"),
    ("emov2_cifar", "window_size", None.__class__),
    ("nasnet_cifar", "num_classes", "abc"),
    ("nasnet_cifar", "width", -8),
    ("nasnet_cifar", "num_cells", 0),
    ("nasnet_cifar", "stem_cells", "no"),
    ("nasnet_cifar", "pool_count", 3),
    ("p3d_tiny", "widths", (8, 16)),
    ("p3d_tiny", "num_frames", 0),
    ("p3d_tiny", "st_struct", 3),
    ("raptor", "embed_dim", 0),
    ("raptor", "depth", 0),
    ("raptor", "blocks", 0),
    ("raptor", "num_heads", 5),
    ("raptor", "mlp", "relu"),
    ("raptor", "num_classes", -2),
    ("raptor", "teacher", 7),
]


@pytest.mark.parametrize(("name", "argument", "value"), WRONG)
def test_a_wrong_value_is_named(name, argument, value):
    with pytest.raises(ValueError, match=argument) as caught:
        blockzoo.create_model(name, **{argument: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timesnet_forecast", {"d_model": 10**12}),
        ("nasnet_cifar", {"width": 4 * 10**10}),
        ("nextvit_cifar", {"num_classes": 10**15}),
    ],
)
def test_a_model_beyond_all_memory_is_refused_in_one_line(name, kwargs):
    argument = next(iter(kwargs))
    with pytest.raises(ValueError, match=f"^{name} cannot be built with .*{argument}={kwargs[argument]}") as caught:
        blockzoo.create_model(name, **kwargs)
    assert "\n" not in str(caught.value)


def test_usual_values_pass():
    blockzoo.create_model("emov2_cifar", depths=[1, 1, 1], ratios=(2, 3, 4), drop_rate=0, device="meta")
    blockzoo.create_model("nextvit_cifar", attn_chans=[None, 128, 192], device=torch.device("meta"))
    blockzoo.create_model("raptor_cifar", init_values=None, img_size=(32, 48), boundaries=[2, 4], device="meta")


def test_checks_by_hand():
    positive(a=1, b=(1, 2), c=())
    with pytest.raises(ValueError, match=r"^b=\(1, 0\) must be 1 or more each$"):
        positive(a=1, b=(1, 0))
    with pytest.raises(ValueError, match=r"^a=\(1,\) and b=\(\) must be equally long$"):
        same_length(a=(1,), b=())

    def build(size: int, names: tuple[str, ...] | None = None, scale: "float | str" = 1.0) -> None: ...

    check_arguments(build, "it", {"size": 3, "names": None, "scale": 2})
    with pytest.raises(ValueError, match="^it: names=3 must be a sequence, each a word or None$"):
        check_arguments(build, "it", {"names": 3})
    with pytest.raises(TypeError, match="^it has no argument 'sise'; did you mean 'size'"):
        check_arguments(build, "it", {"sise": 3})
    check_arguments(build, "it", {"other": 3}, also=("other",))


@pytest.mark.parametrize("argument", ["domain_padding", "embed_dim", "hidden_chans"])
def test_arguments_that_a_model_does_not_take_from_its_base_class_are_unknown(argument):
    with pytest.raises(TypeError, match=f"mg_tfno2d has no argument '{argument}'.* it takes n_modes, .*norm_groups"):
        blockzoo.create_model("mg_tfno2d", **{argument: 1})


def test_arguments_go_on_to_the_base_class():
    model = blockzoo.create_model("mg_tfno2d", n_modes=(4, 4), hidden_channels=4, depth=1, norm="batch_norm")
    assert model.blocks[0].norm1.kind == "batch_norm"
    with pytest.raises(TypeError, match="MGTFNO has no argument 'semantics'"):
        type(model)((4, 4), semantics="0.3")
