import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.channels import mask_of

WHERE = np.array([[True, False, False], [True, True, False]])
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def picture(there, elsewhere) -> np.ndarray:
    return np.where(WHERE[..., None], np.array(there, np.uint8), np.array(elsewhere, np.uint8))


@pytest.mark.parametrize(
    ("there", "elsewhere"),
    [
        ((255,), (0,)),
        ((128,), (127,)),
        (WHITE, BLACK),
        ((*WHITE, 255), (*BLACK, 255)),
        ((*WHITE, 255), (*BLACK, 0)),
        ((*BLACK, 255), (*BLACK, 0)),  # of one colour: opaque is where to paint
        ((*BLACK, 255), (*WHITE, 0)),  # whatever colour the transparent pixels hide
        ((*RED, 200), (*RED, 20)),
    ],
)
def test_where_to_paint(there, elsewhere):
    np.testing.assert_array_equal(mask_of(picture(there, elsewhere)), WHERE)


def test_beside_black_and_white_transparent_is_black():
    image = picture((*WHITE, 255), (*BLACK, 255))
    image[0, 1] = (*RED, 0)
    np.testing.assert_array_equal(mask_of(image), WHERE)


def test_colours_and_transparency_are_ambiguous():
    image = picture((*RED, 255), (*WHITE, 255))
    image[0, 1, 3] = 0
    with pytest.raises(InputError, match="several colours and is transparent in places.*give one that is white where"):
        mask_of(image)


@pytest.mark.parametrize("colour", [(0,), BLACK, (*BLACK, 255), (*BLACK, 0), (*WHITE, 0)])
def test_masks_with_nothing_to_paint_are_refused(colour):
    with pytest.raises(InputError, match="nothing to paint"):
        mask_of(picture(colour, colour))


@pytest.mark.parametrize("colour", [(255,), WHITE, (*WHITE, 255)])
def test_all_may_be_painted(colour):
    assert mask_of(picture(colour, colour)).all()
