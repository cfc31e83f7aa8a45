from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import models
from imaging.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_every_network_of_slices_has_one_role() -> None:
    assert models.names("student", dims=2) == ["espnet", "enet", "mobilenetv2"]
    assert models.names("teacher", dims=2) == ["unet", "pspnet", "fcn", "deeplabv3plus", "resnext101"]
    assert models.names(dims=2) == models.names("student", dims=2) + models.names("teacher", dims=2)


def test_networks_of_volumes_are_students_and_teachers() -> None:
    volumes = models.names(dims=3)
    assert volumes == models.names("student", dims=3) == models.names("teacher", dims=3) == models.names("either")
    assert {"unetr", "dynunet", "vnet", "swin-unetr", "swin-unetr-v2", "unetr++", "segmamba"} < set(volumes)
    assert models.names("student") == [*models.names("student", dims=2), *volumes]
    assert models.names() == [*models.names(dims=2), *volumes]


def test_a_spec_tells_what_is_known_without_building() -> None:
    enet = models.spec("enet")
    assert (enet.role, enet.build.multiple, enet.options) == ("student", 8, ())
    assert set(enet.build.taps) == {"encoder", "decoder"}
    assert models.spec("fcn").options == ("encoder", "pretrained")


@pytest.mark.parametrize(
    "code",
    [
        "import models; models.names(); models.spec('fcn')",
        "import models.listing",
        "import models\ntry: models.create('nonet')\nexcept Exception: pass",
    ],
)
def test_naming_networks_loads_no_torch(code: str) -> None:
    script = (
        f"import sys\n{code}\nassert not {{'torch', 'torchvision', 'segmentation_models_pytorch'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"no network is called `deeplabv3`; did you mean `deeplabv3plus`\? There are: espnet"
    ):
        models.create("deeplabv3")
    with pytest.raises(InputError, match="no network is called `x`; There are: espnet"):
        models.spec("x")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("enet", {"width": 2}, "network `enet` has no option `width`; it takes no options"),
        ("fcn", {"backbone": "resnet18"}, "network `fcn` has no option `backbone`; its options: encoder, pretrained"),
        ("fcn", {"pretrained": 1}, "takes `pretrained` only with `encoder`"),
        ("fcn", {"encoder": 18}, "option `encoder` of network `fcn` is a name"),
    ],
)
def test_an_unknown_option_names_the_network_and_its_options(
    name: str, options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        models.create(name, 1, 2, **options)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(InputError, match="`enet` cannot have 1 channels and 0 classes"):
        models.create("enet", classes=0)


def test_the_room_has_no_other_lazy_names() -> None:
    with pytest.raises(AttributeError, match="no attribute `tab`"):
        _ = models.tab


def test_the_width_of_a_unet_is_chosen_within_bounds() -> None:
    quarter = models.create("unet", 1, 3, width=16)
    assert sum(weight.numel() for weight in quarter.parameters()) < 6_500_189 / 3.9
    for width in (0, 3, 129, "wide"):
        with pytest.raises(InputError, match=f"`width` of network `unet` cannot be {width!r}; .* from 4 to 128"):
            models.create("unet", width=width)
    with pytest.raises(InputError, match="network `pspnet` has no option `width`"):
        models.create("pspnet", width=16)
    with pytest.raises(InputError, match="network `unet` has no option `encoder`; its options: width"):
        models.create("unet", encoder="resnet18")
